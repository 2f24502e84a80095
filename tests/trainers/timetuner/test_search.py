"""A search of times from its plan to its export, on a real Ray cluster."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console

import run_search
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import load_tuned
from stepsearch.search.board import Board
from stepsearch.search.closing import show_report
from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch
from stepsearch.search.plan import show_plan
from stepsearch.search.result import SearchResult
from stepsearch.search.summary import log_summary
from stepsearch.search.tracked import open_tracker
from trainers.drawing_trial import TIMES


class Thief:
    """Takes the denoiser's weights away as soon as both lanes have a trial."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.board: Board | None = None
        self.begun = 0
        """Trials that had begun by then."""

    def show(self, board: Board) -> None:
        self.board = board

    def say(self, line: str) -> None:
        """A trial has ended; if another one runs, that is the other lane's."""
        assert self.board is not None
        if self.board.counts["running"] and self.weights.exists():
            self.begun = len(self.board.entries)
            self.weights.unlink()

    def close(self) -> None: ...


@pytest.fixture
def config(saved_pipeline: Path, tmp_path: Path) -> SearchConfig:
    folder = shutil.copytree(saved_pipeline, tmp_path / "pipeline")
    file = Path(run_search.__file__).parent / "search_spaces" / "timetuner_digits.yaml"
    checkpoint = f"{{kind: folder, path: '{folder}'}}"
    return run_search.load(
        file,
        [
            f"storage={tmp_path / 'searches'}",
            f"trainer.checkpoint={checkpoint}",
            "space.num_steps=[2, 4]",
            "trainer.gradient={iterations: 2, batches: 2, held_out: 1, batch_size: 8}",
            "trainer.end_to_end={iterations: 2, batch_size: 8, real: 16, held_out: 16}",
            "trainer.judge={samples: 32, classifier: {budget: 1000}}",
            "budget.trials=10",
            "budget.images=32",
            "finalists.seeds=2",
            "lanes.count=2",
        ],
    )


def printed(show: Callable[[Console], Any]) -> str:
    page = io.StringIO()
    show(Console(file=page, width=120, highlight=False))
    return page.getvalue()


def test_the_plan_shows_what_is_tried_first(config: SearchConfig) -> None:
    page = printed(lambda console: show_plan(config, console))
    assert "untuned ddim-trailing-clip-2" in page
    assert "999 -> 999" in page
    assert "1 of gradient-sequential" in page
    assert "1 of gradient-end_to_end" in page
    assert "energy_ratio, minimized" in page
    assert "2 proposals" in page
    assert not config.folder.exists()


def files(client: MlflowClient, run: Run, folder: str) -> set[str]:
    return {file.path for file in client.list_artifacts(run.info.run_id, folder)}


def recorded(config: SearchConfig) -> tuple[MlflowClient, Run, list[Run]]:
    """The search's run, and those of its trials."""
    client = MlflowClient(config.tracking.store_uri(config.storage))
    (experiment,) = (e for e in client.search_experiments() if e.experiment_id != "0")
    runs = client.search_runs([experiment.experiment_id])
    (search,) = (run for run in runs if "stepsearch.trial" not in run.data.tags)
    return client, search, [run for run in runs if run is not search]


def retold(searched: SearchResult, number: int, tau: list[float]) -> None:
    """A trial as if it had told these times."""
    file = searched.folder.trial(number) / TIMES
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tau": tau}))


Typed = Callable[..., tuple[int, str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """The exit code and the errors of a command."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["run_search.py", *words])
        with pytest.raises(SystemExit) as ended:
            run_search.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_compares_all_cases_with_their_untuned_times(
    config: SearchConfig, tmp_path: Path, typed: Typed
) -> None:
    thief = Thief(next((tmp_path / "pipeline" / "unet").glob("*.safetensors")))
    searched = launch(config, thief)
    assert {record.outcome for record in searched.records} == {"finished"}
    assert 2 <= thief.begun < 10, "the others found the denoiser where their lane had loaded it"

    board = {row.number: row for row in searched.leaderboard.rows}
    assert len(board) == 10
    assert board[0].role == "baseline"
    assert board[0].label == "untuned ddim-trailing-clip-2"
    assert board[1].label == "untuned ddim-trailing-clip-4"
    assert set(board[0].values) == set(board[1].values) == {1.0}
    assert board[0].speed_up is None
    assert all(row.metrics["nfe"] in (2, 4) for row in board.values())
    assert sum(len(row.values) == 2 for row in board.values()) == 2, "the finalists' further seed"
    assert len(list(searched.folder.cache.glob("timetuner-*.json"))) == 4, "found once each"
    assert "Speed-up" not in printed(lambda console: show_report(searched, console))

    client, search, trials = recorded(config)
    assert sorted(int(run.data.tags["stepsearch.trial"]) for run in trials) == [
        record.number for record in searched.records
    ]
    for run in trials:
        assert run.info.status == "FINISHED"
        assert run.data.params["case"] in ("ddim-trailing-clip-2", "ddim-trailing-clip-4")
        assert run.data.metrics.keys() >= {"energy_ratio", "fd_digits_ratio", "nfe"}
        assert files(client, run, "pictures") == {
            "pictures/times.png",
            "pictures/untuned_and_tuned_000000032.png",
        }
    summary = files(client, search, "summary")
    assert "summary/over_nfe.png" in summary
    assert "summary/quality.png" not in summary
    assert "bundle/timetuner.json" in files(client, search, "bundle")
    assert "no_bundle" not in search.data.tags

    assert searched.winner is not None
    broken = [math.nan] * int(board[searched.winner.number].metrics["nfe"])
    retold(searched, searched.winner.number, broken)
    tracker = open_tracker(searched.config, searched.folder, resumed=True)
    tracker.start_search(config.name, {})
    log_summary(tracker, searched, 0.0)
    tracker.close()
    tags = client.get_run(search.info.run_id).data.tags
    assert tags["no_bundle"] == f"tau must be finite, got {broken}"

    searched.export(tmp_path / "untuned", trial=1)
    file = load_tuned(tmp_path / "untuned" / "timetuner.json")
    assert file.tau == file.timesteps == (999, 749, 499, 249)
    check_force(searched, tmp_path / "forced", typed)
    assert run_search.recorded("timetuner-digits", config.storage).trainer["kind"] == "timetuner"
    with pytest.raises(UserError, match=r"must be a search that trains denoisers"):
        run_search.load(
            config.folder / "search.yaml",
            [
                "name=again",
                f"trainer.checkpoint={{kind: search, name: timetuner-digits, "
                f"storage: '{config.storage}'}}",
            ],
        ).trainer.facts()


def check_force(searched: SearchResult, out: Path, typed: Typed) -> None:
    """Times that do worse than untuned ones are exported by force alone."""
    worse = [391, 254, 126, 119]
    retold(searched, 1, worse)
    words = ("export", searched.config.name, "--trial", "1", "--out", str(out))
    export = (*words, "--storage", str(searched.config.storage))
    code, line = typed(*export)
    rule = "tau must do no worse than untuned on held-out seeds, unless forced (--force): "
    assert code == 2
    assert line.startswith(f"error: {rule}worse than untuned: pixel_fd ")
    assert line.count("\n") == 1
    assert not out.exists()
    assert typed(*export, "--force") == (0, "")
    assert load_tuned(out / "timetuner.json").tau == tuple(worse)
    assert "worse than untuned: pixel_fd" in (out / "README.md").read_text()
