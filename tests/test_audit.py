"""What CI makes of pip-audit's answer; a program of that name stands in for it here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[1] / ".ci" / "audit.py"
KNOWN = {"name": "a", "version": "1", "vulns": []}
HOLED = {"name": "b", "version": "2", "vulns": [{"id": "CVE-2026-1"}]}
UNKNOWN = {"name": "c", "skip_reason": "not there"}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ([KNOWN, UNKNOWN], 0, "1 packages looked up, 1 not known there"),
        ([KNOWN, HOLED], 1, "b 2 has CVE-2026-1"),
        (None, 0, "the packages were not looked up: no route to the service"),
    ],
)
def test_a_vulnerability_fails_and_a_silent_service_does_not(
    answer: list[dict[str, object]] | None, code: int, said: str, tmp_path: Path
) -> None:
    answers = f"print({json.dumps({'dependencies': answer})!r})"
    silent = "import sys; sys.exit('no route to the service')"
    (tmp_path / "pip_audit.py").write_text(silent if answer is None else answers)
    ended = subprocess.run(
        [sys.executable, AUDIT],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code
    assert f"pip-audit: {said}\n" in ended.stdout
