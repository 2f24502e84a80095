"""`simulate` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from run_search import CURVES
from stepsearch.simulation.curves import Curves
from tests.cli.conftest import Cli

EIGHT = ["--set", "budget.trials=8"]


def test_the_page_fits_a_terminal_and_says_what_it_does_not_show(cli: Cli, tmp_path: Path) -> None:
    ending = cli("simulate", "--searches", "3", "--json", str(tmp_path / "found.json"), *EIGHT)
    assert (ending.code, ending.err) == (0, "")
    assert all(len(line) <= 80 for line in ending.out.splitlines())
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
        assert text in ending.out
    found = json.loads((tmp_path / "found.json").read_text())
    yours = found["simulated"]["your settings"]
    plain = found["simulated"]["random, none stopped"]
    assert plain["images"] == 12 * 38_400, "eight trials and four repeats"
    assert yours["images"] < plain["images"]
    assert yours["searches"] == 3
    assert {c["metric"] for c in found["rank_correlations"]} == {"fd_digits", "off_manifold"}


def test_settings_change_what_is_simulated(cli: Cli) -> None:
    fifo = ["--set", "trial_scheduler.kind=fifo", "--set", "finalists.count=0"]
    ending = cli("simulate", "--searches", "1", *fifo, *EIGHT)
    assert ending.code == 0
    assert "medians of one simulated search" in ending.out
    assert ending.out.count("307,200 (100%)") == 2
    assert "✂" not in ending.out


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
def test_mistakes_are_one_line(cli: Cli, words: list[str], line: str) -> None:
    ending = cli("simulate", *words)
    assert (ending.code, ending.out) == (2, "")
    assert ending.err.startswith(f"error: {line}")
    assert ending.err.count("\n") == 1


def test_curves_can_come_from_a_file_of_ones_own(cli: Cli, tmp_path: Path) -> None:
    own = tmp_path / "own.csv"
    Curves.read(CURVES).write(own)
    ending = cli("simulate", "--curves", str(own), "--searches", "1", *EIGHT)
    assert (ending.code, ending.err) == (0, "")
