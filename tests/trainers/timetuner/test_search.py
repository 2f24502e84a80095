"""A search of times from its plan to its export, with the trials in this process."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import run_search
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import load_tuned
from stepsearch.search.agenda import Agenda
from stepsearch.search.closing import show_report
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.search.leaderboard import guard_excess, leaderboard
from stepsearch.search.plan import show_plan
from stepsearch.search.result import SearchResult
from stepsearch.search.summary import draw_quality
from stepsearch.search.trial import Trial
from stepsearch.study import Study
from trainers.drawing_trial import TIMES


class Keep:
    """Notes a trial's reports in the search's history."""

    def __init__(self, history: History, number: int) -> None:
        self.history, self.number = history, number

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        return self.history.add(self.number, int(metrics["images_seen"]), metrics)

    def progress(self, images_seen: int) -> bool:
        return True


@pytest.fixture
def config(saved_pipeline: Path, tmp_path: Path) -> SearchConfig:
    file = Path(run_search.__file__).parent / "search_spaces" / "timetuner_digits.yaml"
    checkpoint = f"{{kind: folder, path: '{saved_pipeline}'}}"
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
        ],
    )


@pytest.fixture
def searched(config: SearchConfig) -> SearchResult:
    """What the driver does, without its lanes and MLflow."""
    config.space.check(config.trainer.facts())
    config.trainer.check(config.lanes.workers)
    config = config.resolved()
    folder = SearchFolder.create(config.folder, config)
    history = History(folder.history)
    with Study.create(
        folder.study, config.name, config.objectives, config.optuna_sampler, config.seed,
        constraints=tuple(config.guards or ()),
    ) as study:  # fmt: skip
        agenda = Agenda(
            config,
            study,
            lambda: leaderboard(study.trials(), history, config.primary, config.guards or {}),
        )
        agenda.enqueue_fixed_points()
        while proposal := agenda.next():
            number = proposal.number
            made = config.trainer_for(proposal.values)
            seed = config.seed + proposal.attrs.get("seed", 0)
            milestones = config.budget.milestones()
            trial = Trial(number, made, seed, milestones, folder.trial(number), folder.cache)
            made.run(trial, Keep(history, number))
            last = history.last(number)
            excess = guard_excess(last, history.last(0), config.guards or {})
            study.tell(number, "finished", [last[config.primary.name]], None, excess)
    return SearchResult.read(config)


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


def test_a_search_compares_all_cases_with_their_untuned_times(
    searched: SearchResult, tmp_path: Path
) -> None:
    board = {row.number: row for row in searched.leaderboard.rows}
    assert len(board) == 10
    assert board[0].role == "baseline"
    assert board[0].label == "untuned ddim-trailing-clip-2"
    assert board[1].label == "untuned ddim-trailing-clip-4"
    assert set(board[0].values) == set(board[1].values) == {1.0}
    assert board[0].speed_up is None
    assert all(row.metrics["nfe"] in (2, 4) for row in board.values())
    assert sum(len(row.values) == 2 for row in board.values()) == 2, "the finalists' further seed"
    page = printed(lambda console: show_report(searched, console))
    assert "Speed-up" not in page
    draw_quality(searched, tmp_path / "quality.png")
    assert not (tmp_path / "quality.png").exists()
    searched.config.trainer.overview(tmp_path, searched.leaderboard.frame())
    assert (tmp_path / "over_nfe.png").exists()
    searched.export(tmp_path / "untuned", trial=1)
    file = load_tuned(tmp_path / "untuned" / "timetuner.json")
    assert file.tau == file.timesteps == (999, 749, 499, 249)
    assert run_search.recorded("timetuner-digits", tmp_path / "searches").trainer["kind"] == (
        "timetuner"
    )
    with pytest.raises(UserError, match=r"must be a search that trains denoisers"):
        run_search.load(
            tmp_path / "searches" / "timetuner-digits" / "search.yaml",
            [
                "name=again",
                f"trainer.checkpoint={{kind: search, name: timetuner-digits, "
                f"storage: '{tmp_path / 'searches'}'}}",
            ],
        ).trainer.facts()


def test_times_that_do_worse_are_exported_by_force_alone(
    searched: SearchResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def typed(*words: str) -> tuple[int, str]:
        storage, out = str(tmp_path / "searches"), str(tmp_path / "out")
        command = ["export", "timetuner-digits", "--trial", "1", "--storage", storage]
        monkeypatch.setattr(sys, "argv", ["run_search.py", *command, "--out", out, *words])
        with pytest.raises(SystemExit) as ended:
            run_search.main()
        return int(ended.value.code or 0), capsys.readouterr().err

    file = searched.folder.trial(1) / TIMES
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tau": [391, 254, 126, 119]}))
    code, line = typed()
    assert code == 2
    rule = "tau must do no worse than untuned on held-out seeds, unless forced (--force): "
    assert line.startswith(f"error: {rule}worse than untuned: pixel_fd ")
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert typed("--force") == (0, "")
    assert load_tuned(tmp_path / "out" / "timetuner.json").tau == (391, 254, 126, 119)
    assert "worse than untuned: pixel_fd" in (tmp_path / "out" / "README.md").read_text()
