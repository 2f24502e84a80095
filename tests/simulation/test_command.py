"""`simulate` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import run_search
from run_search import CURVES
from stepsearch.simulation.curves import Curves

EIGHT = ["--set", "budget.trials=8"]


Type = Callable[..., tuple[int, str, str]]


@pytest.fixture
def type_(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Type:
    """type_("--searches", "2") -> exit code, stdout, stderr of `simulate` with these words."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run_search.py", "simulate", *words])
        with pytest.raises(SystemExit) as ended:
            run_search.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_the_page_fits_a_terminal_and_says_what_it_does_not_show(
    type_: Type, tmp_path: Path
) -> None:
    code, out, err = type_("--searches", "3", "--json", str(tmp_path / "found.json"), *EIGHT)
    assert (code, err) == (0, "")
    assert all(len(line) <= 80 for line in out.splitlines())
    configurations = len(Curves.read(CURVES).originals)
    for text in (
        f"rank correlation, {configurations} configurations",
        "fd_digits",
        "off_manifold",
        "✂",
        "medians of 3 simulated searches",
        "random, none stopped",
        "(100%)",
        "Nothing was trained",
    ):
        assert text in out
    found = json.loads((tmp_path / "found.json").read_text())
    yours = found["simulated"]["your settings"]
    plain = found["simulated"]["random, none stopped"]
    assert plain["images"] == 12 * 38_400, "eight trials and four repeats"
    assert yours["images"] < plain["images"]
    assert yours["searches"] == 3
    assert {c["metric"] for c in found["rank_correlations"]} == {"fd_digits", "off_manifold"}


def test_settings_change_what_is_simulated(type_: Type) -> None:
    fifo = ["--set", "trial_scheduler.kind=fifo", "--set", "finalists.count=0"]
    code, out, _ = type_("--searches", "1", *fifo, *EIGHT)
    assert code == 0
    assert "medians of one simulated search" in out
    assert out.count("307,200 (100%)") == 2
    assert "✂" not in out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--set", "budget.first_report=0.3"],
            "budget must report at recorded shares of the images (0.0625, 0.15625, 0.25, 0.34375, "
            "0.4375, 0.53125, 0.625, 0.71875, 0.8125, 0.90625, 1), got ",
        ),
        (
            ["--set", "space={kind: min_snr}", *EIGHT],
            "space must have the recorded parameters (k, lam, tau), got gamma",
        ),
        (["--set", "budget.trials=999"], "budget.trials must be at most "),
        (["--curves", "nowhere.csv", *EIGHT], "curves must be a file that can be read, got "),
        (["--curves", "nobody", *EIGHT], "search must be one of those in "),
    ],
)
def test_mistakes_are_one_line(type_: Type, words: list[str], line: str) -> None:
    code, out, err = type_(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


def test_curves_can_come_from_a_file_of_ones_own(type_: Type, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    Curves.read(CURVES).write(own)
    code, _, err = type_("--curves", str(own), "--searches", "1", *EIGHT)
    assert (code, err) == (0, "")


def test_help_imports_none_of_the_heavy_packages() -> None:
    code = """
import sys, run_search
sys.argv = ["run_search.py", "simulate", "--help"]
try:
    run_search.main()
finally:
    print("imported:", {"torch", "ray", "optuna", "pandas", "scipy"} & set(sys.modules))
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert shown.stdout.endswith("imported: set()\n")
