"""Pages of help, of plan, status and show, and what they import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run_search
from stepsearch.commands.options import console
from stepsearch.search.view import LineView, LiveView
from stepsearch.strategies import STRATEGIES
from tests.cli.conftest import Cli, Ending, Recorded


def test_plan_prints_its_page_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    ending = cli("plan", "small.yaml")
    assert (ending.code, ending.err) == (0, "")
    for section in ("configuration", "trials", "fixed points", "rungs", "resources", "estimate"):
        assert f"\n{section}" in f"\n{ending.out}"
    assert set(tmp_path.rglob("*")) == before


def test_status_shows_one_search_or_all_of_them(cli: Cli, recorded_search: Recorded) -> None:
    assert "no searches in searches" in cli("status").out
    for name in ("one", "two"):
        recorded_search(name)
    both, one = cli("status"), cli("status", "one")
    assert (both.code, one.code) == (0, 0)
    assert "search one" in both.out
    assert "search two" in both.out
    assert "search two" not in one.out


@pytest.mark.parametrize("damaged", ["study.db", "spent.json", "history.jsonl", "search.yaml"])
def test_status_passes_over_a_search_that_cannot_be_read(
    cli: Cli, recorded_search: Recorded, damaged: str
) -> None:
    for name in ("one", "two"):
        recorded_search(name)
    (Path("searches") / "one" / damaged).write_text("[/x]\n")
    rest, broken = cli("status"), cli("status", "one")
    assert (rest.code, broken.code > 0) == (0, True)
    assert "search one cannot be read: " in rest.out
    assert "search two" in rest.out


def test_what_looks_like_markup_is_said_as_it_is(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch's own words, a list of paths, and a folder of that name."""
    line = "✗ trial 3 error  RuntimeError: [enforce fail at alloc.cpp] :gun: [/data/a.png]"
    for view in (LineView(console), LiveView(console)):
        view.say(line)
        assert " ".join(capsys.readouterr().out.split()) == " ".join(line.split())
    assert cli("status", "--storage", "[/x]").out.startswith("no searches in [/x]; ")


def test_status_shows_what_is_spent_and_which_budget_ended_the_search(
    cli: Cli, recorded_search: Recorded
) -> None:
    folder = recorded_search("old")
    spent = {"hours": 1.94, "gpu_hours": 0.0, "cpu_hours": 3.9, "money": 0.0}
    ended = "the budget of 2 hours is nearly spent: 1.94 used, a trial takes 0.2"
    (folder / "spent.json").write_text(json.dumps({"spent": spent, "ended": ended}))
    said = " ".join(cli("status", "old").out.split())
    assert f"The search has ended: {ended}." in said
    assert "Spent: 1 h 56 min · 3.9 CPU-hours" in said


def test_status_shows_what_evaluation_took(cli: Cli, recorded_search: Recorded) -> None:
    seconds = {"train_cpu_s": 1.0, "evaluation_cpu_s": 3.0}
    parts = {"drawing_cpu_s": 2.0, "judging_cpu_s": 1.0}
    counts = {"drawn_images": 64.0, "network_evaluations": 128.0}
    line = {"trial": 0, "images_seen": 320, "metrics": seconds | parts | counts}
    folder = recorded_search("old")
    (folder / "history.jsonl").write_text(json.dumps(line) + "\n")
    assert (
        "Evaluation took 75% of the trials' CPU time (drawing 50%, judging 25%): 64 images, 128 "
        "network evaluations; fewer judge.samples or budget.reports leave more for training"
    ) in " ".join(cli("status", "old").out.split())


def test_show_draws_p_and_w_within_the_terminal(cli: Cli) -> None:
    ending = cli("show", "speed", "--set", "tau=600", "--set", "k=3")
    assert (ending.code, ending.err) == (0, "")
    assert "density p" in ending.out
    assert "weight w" in ending.out
    assert max(map(len, ending.out.splitlines())) <= 80


def test_show_writes_p_and_w_of_every_timestep(cli: Cli, tmp_path: Path) -> None:
    words = ["--set", "tau=600", "--set", "k=3", "--set", "lam=0.5", "--json", "speed.json"]
    assert cli("show", "speed", "--set", "timesteps=1200", *words) == Ending(0, "", "")
    tables = json.loads((tmp_path / "speed.json").read_text())
    assert tables.keys() == {"p", "w"}
    assert tables["w"] == [0.5] * 1200
    assert tables["p"] == pytest.approx([3 / 2400] * 600 + [1 / 2400] * 600)
    assert [path.name for path in tmp_path.iterdir() if "json" in path.name] == ["speed.json"]


def test_show_knows_every_noise_process(cli: Cli, tmp_path: Path) -> None:
    """On their own targets; a strategy that is told by the noise depends on the process."""
    weights = {}
    zero = ("--set", "noise.zero_terminal_snr=true")
    for name, words in {
        "edm": ("--noise", "edm", "--set", "noise.sigma_max=10"),
        "flow": ("--noise", "flow", "--set", "noise.shift=3"),
        "zero": ("--noise", "cosine", *zero),
    }.items():
        assert cli("show", "min_snr", *words, "--json", "p_and_w.json") == Ending(0, "", "")
        weights[name] = json.loads((tmp_path / "p_and_w.json").read_text())["w"]
    # min(SNR, 5) on x0, over SNR + 4 on F, (1 + sqrt(SNR))^2 on the velocity, SNR + 1 on v
    assert weights["edm"][-1] == pytest.approx(0.01 / 4.01, rel=0.02)
    assert weights["flow"][0] == pytest.approx(5 / 333**2, rel=0.02)
    assert weights["flow"][-1] == weights["zero"][-1] == 0


def test_show_tells_what_a_mirrored_batch_of_this_size_draws(cli: Cli, tmp_path: Path) -> None:
    mirrored = ["show", "speed", "--set", "mirror=true", "--json"]
    cli(*mirrored, "64.json")
    cli(*mirrored, "2.json", "--set", "batch_size=2")
    cli("show", "speed", "--json", "plain.json")
    p = {name: json.loads((tmp_path / f"{name}.json").read_text())["p"] for name in ("64", "2")}
    plain = json.loads((tmp_path / "plain.json").read_text())["p"]
    assert p["2"] == pytest.approx(plain)
    assert p["64"] != pytest.approx(plain)
    assert sum(p["64"]) == pytest.approx(1)


def test_strategies_lists_every_family_with_its_parameters(cli: Cli, tmp_path: Path) -> None:
    ending = cli("strategies", "list", "--out", "all.png")
    assert (ending.code, ending.err) == (0, "")
    listed = [line.split()[0] for line in ending.out.splitlines()[1:-1] if line[0] != " "]
    assert listed == list(STRATEGIES)
    assert "gamma=5.0" in ending.out
    assert (tmp_path / "all.png").read_bytes()[:4] == b"\x89PNG"


def test_strategies_areas_parts_a_schedule(cli: Cli, tmp_path: Path) -> None:
    ending = cli("strategies", "areas", "--out", "areas.png")
    assert (ending.code, ending.err) == (0, "")
    rows = [line.split() for line in ending.out.splitlines()[1:4]]
    assert [row[:3] for row in rows] == [
        ["acceleration", "0..218", "21.9"],
        ["deceleration", "219..439", "22.1"],
        ["convergence", "440..999", "56.0"],
    ]
    assert max(map(len, ending.out.splitlines())) <= 80
    assert (tmp_path / "areas.png").read_bytes()[:4] == b"\x89PNG"


def test_strategies_show_is_show(cli: Cli) -> None:
    words = ["show", "laplace", "--set", "b=1"]
    assert cli("strategies", *words) == cli(*words)


VERBS = [
    "run", "resume", "submit", "cancel", "reconcile", "plan", "simulate", "status", "export", "ui",
    "doctor", "strategies", "stages", "show",
]  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [[], *[[verb] for verb in VERBS], ["strategies", "list"], ["strategies", "areas"]],
    ids=" ".join,
)
def test_every_page_of_help_fits_a_terminal_and_names_no_absolute_path(
    cli: Cli, words: list[str]
) -> None:
    ending = cli(*words, "--help")
    assert (ending.code, ending.err) == (0, "")
    assert max(map(len, ending.out.splitlines())) <= 80
    assert str(Path(run_search.__file__).parent) not in ending.out
    assert words or all(f"\n  {verb} " in ending.out for verb in VERBS)


def test_an_unknown_command_is_a_usage_error(cli: Cli) -> None:
    ending = cli("lauch")
    assert (ending.code, ending.out) == (2, "")
    assert "No such command 'lauch'" in ending.err


HEAVY = [
    "torch",
    "ray",
    "optuna",
    "mlflow",
    "pandas",
    "scipy",
    "diffusers",
    "matplotlib",
    "sklearn",
    "sqlalchemy",
    "alembic",
]
COMMAND = """
import sys, run_search
sys.argv[0] = "run_search.py"
try:
    run_search.main()
except SystemExit as end:
    assert not end.code, end.code
"""
CHECK = """
import search_spaces, trainers
trainer = trainers.trainer()
search_spaces.space("speed").check(trainer.facts())
trainer.check(workers=1)
"""


def loaded(code: str, folder: Path, *words: str) -> list[str]:
    """Which of the heavy packages a new process loads for `code`."""
    here = [str(Path(run_search.__file__).parent / part) for part in (".", "platform")]
    tell = f"import sys; print(*sys.modules.keys() & {HEAVY}, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + tell, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(here)},
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "packages"),
    [
        (["--help"], []),
        (["run", "--help"], []),
        (["simulate", "--help"], []),
        (["submit", "--help"], []),
        (["status"], ["optuna"]),
    ],
)
def test_a_quick_command_loads_nothing_slow(
    recorded_search: Recorded, tmp_path: Path, words: list[str], packages: list[str]
) -> None:
    recorded_search()
    assert loaded(COMMAND, tmp_path, *words) == packages


@pytest.mark.parametrize(
    ("code", "packages"),
    [
        ("import stepsearch.search.dispatcher\n", []),
        (CHECK, ["torch"]),
        (CHECK + "trainer.warm_up()\n", ["diffusers", "scipy", "torch"]),
    ],
    ids=["the dispatcher", "checking a search", "a lane's worker"],
)
def test_a_process_loads_what_it_needs_and_no_more(
    tmp_path: Path, code: str, packages: list[str]
) -> None:
    """Ray itself aside, which is there where an actor runs."""
    assert loaded(code, tmp_path) == packages
