"""Recorded curves: from a search, to a file and back."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import pytest

from search_spaces import SpeedSpace
from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.simulation.curves import Curves
from stepsearch.study import Objective, RandomConfig, Study


@pytest.mark.parametrize("name", ["curves.csv", "curves.csv.gz"])
def test_curves_are_read_as_they_were_written(name: str, curves: Curves, tmp_path: Path) -> None:
    path = tmp_path / name
    curves.write(path)
    assert Curves.read(path) == curves
    before = path.read_bytes()
    Curves.read(path).write(path)
    assert path.read_bytes() == before, "the same curves are the same bytes"


def test_a_file_has_a_line_a_report_and_says_what_its_columns_are(
    curves: Curves, tmp_path: Path
) -> None:
    curves.write(tmp_path / "curves.csv")
    head, first, *others = (tmp_path / "curves.csv").read_text().splitlines()
    assert head == (
        "trial,label,role,repeats,seed,param.tau,param.k,param.lam,images_seen,"
        "minimize.fd,metric.off_manifold,metric.train_cpu_s,metric.evaluation_cpu_s"
    )
    assert first == "0,uniform,baseline,,0,1,1,0.5,250,8,0.1,1,0.5"
    assert len(others) == 8 * 4 - 1


def test_numbers_keep_five_digits(curves: Curves, tmp_path: Path) -> None:
    exact = curves.recordings[0]
    params = {**exact.params, "k": 1.23456789}
    changed = dataclasses.replace(exact, params=params)
    dataclasses.replace(curves, recordings=(changed,)).write(tmp_path / "one.csv")
    assert Curves.read(tmp_path / "one.csv").baseline.params["k"] == 1.2346


def test_curves_say_what_was_recorded(curves: Curves) -> None:
    assert curves.milestones == (250, 500, 750, 1000)
    assert curves.shares == (0.25, 0.5, 0.75, 1)
    assert curves.params == ("tau", "k", "lam")
    assert curves.metrics == ("fd", "off_manifold")
    assert [recording.number for recording in curves.originals] == [0, 1, 2, 3, 4, 5]
    assert curves.table("fd").shape == (6, 4)
    again = curves.repeat(2, seed=1)
    assert again is not None
    assert again.final["fd"] == 2.4
    assert curves.repeat(2, seed=2) is None


@pytest.fixture
def recorded(tmp_path: Path) -> SearchFolder:
    """A search whose baseline finished, was repeated, and whose other trial was pruned."""
    data: dict[str, Any] = {
        "name": "old",
        "space": SpeedSpace(),
        "trainer": {"kind": "denoising"},
        "storage": tmp_path,
        "objectives": [{"name": "recall", "direction": "maximize"}],
        "guards": {"off_manifold": 0.02},
    }
    config = SearchConfig.model_validate(data)
    folder = SearchFolder.create(tmp_path / "old", config)
    history = History(folder.history)
    objectives = [Objective("recall", "maximize")]
    baseline = {"x": 0.5}
    with Study.create(folder.study, "old", objectives, RandomConfig(), 0) as study:
        study.enqueue(baseline, label="uniform", role="baseline")
        study.enqueue({"x": 0.1})
        study.enqueue(baseline, label="uniform, seed 1", role="repeat", repeats=0, seed=1)
        for number, outcome in enumerate(["finished", "pruned", "finished"]):
            study.ask(lambda trial: {"x": trial.suggest_float("x", 0, 1)})
            for at in (100, 200)[: 1 if outcome == "pruned" else 2]:
                metrics = {"recall": at / 1000, "off_manifold": 0.1, "grad_norm": 3.0}
                metrics |= {"train_cpu_s": 1.5, "evaluation_cpu_s": 0.5}
                history.add(number, at, metrics)
            study.tell(number, outcome, [0.2])  # type: ignore[arg-type]
    return folder


def test_the_curves_of_a_search_are_its_finished_trials(recorded: SearchFolder) -> None:
    curves = Curves.of_search(recorded)
    assert curves.primary == Objective("recall", "maximize")
    assert curves.metrics == ("recall", "off_manifold"), "objectives and guards, no others"
    assert [(r.number, r.role, r.repeats, r.seed) for r in curves.recordings] == [
        (0, "baseline", None, 0),
        (2, "repeat", 0, 1),
    ]
    assert curves.baseline.params == {"x": 0.5}
    assert curves.baseline.final["recall"] == 0.2
    assert curves.milestones == (100, 200)


def test_a_search_without_a_finished_trial_has_no_curves(tmp_path: Path) -> None:
    data = {"name": "new", "space": SpeedSpace(), "trainer": {}, "storage": tmp_path}
    config = SearchConfig.model_validate(data | {"objectives": [{"name": "fd"}]})
    folder = SearchFolder.create(tmp_path / "new", config)
    Study.create(folder.study, "new", [Objective("fd")], RandomConfig(), 0).close()
    with pytest.raises(UserError, match="search 'new' must have a finished trial, it has none"):
        Curves.of_search(folder)


HEAD = "trial,label,role,repeats,seed,param.x,images_seen,minimize.fd,metric.train_cpu_s"
SECONDS = "metric.evaluation_cpu_s"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "curves must be CSV, got .*: No columns to parse from file"),
        ("a,b\n1,2,3\n4\n", "must have a column minimize.NAME or maximize.NAME, got none"),
        (f"{HEAD}\n", f"curves must have the columns {SECONDS}"),
        (f"{HEAD},{SECONDS}\n", "curves must have the same milestones in each trial"),
        (
            f"{HEAD},{SECONDS}\n0,u,baseline,,0,1,100,3,1,1\n1,v,proposal,,0,1,200,3,1,1\n",
            "curves must have the same milestones in each trial",
        ),
        (f"{HEAD},{SECONDS}\n0,u,proposal,,0,1,100,3,1,1\n", "curves must hold one baseline"),
        (
            f"{HEAD},{SECONDS}\n0,u,baseline,,0,1,100,,1,1\n",
            "curves must have a value in every line, got an empty one",
        ),
        (f"{HEAD},{SECONDS}\n0,u,baseline,,0,1,100,good,1,1\n", "could not convert string"),
    ],
)
def test_a_table_that_holds_no_curves_is_refused_in_one_line(
    text: str, line: str, tmp_path: Path
) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=line) as refused:
        Curves.read(path)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be a file that can be read, got .*: No such file"):
        Curves.read(tmp_path / "nowhere.csv")
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"trial,label\n" * 999)[:40])
    with pytest.raises(UserError, match=r"curves must be CSV, got .*end-of-stream"):
        Curves.read(cut)
    cut.write_bytes(b"no gzip at all")
    with pytest.raises(UserError, match=r"curves must be .*, got .*[Nn]ot a gzipped file"):
        Curves.read(cut)
