"""A search compares what its trials report, the right way round."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from stepsearch.errors import UserError
from stepsearch.search.metrics import check_metrics
from stepsearch.study import Objective
from tests.search.conftest import Small
from trainers import trainer


@pytest.mark.parametrize(
    ("objectives", "guards"),
    [
        ([], {}),
        ([Objective("kid_digits"), Objective("recall", "maximize")], {"off_manifold": 0.1}),
        ([Objective("train_cpu_s")], {"network_evaluations": 0.0}),
    ],
)
def test_what_trials_report_can_be_compared(objectives: Any, guards: Any) -> None:
    check_metrics(objectives, guards, trainer())


@pytest.mark.parametrize(
    ("objectives", "guards", "line"),
    [
        (
            [Objective("fd_digit")],
            {},
            r"s\[0\].name must be .*fd_digits, .*, got 'fd_digit'$",
        ),
        (
            [Objective("fd_digits", "maximize")],
            {},
            r"s\[0\].direction must be minimize for fd",
        ),
        ([Objective("gflops_image")], {}, r"got 'gflops_image'$"),
        ([], {"precision": 0.1}, r"got 'precision', which is better when higher$"),
        ([], {"off_manifold": 0.1, "of": 0.1}, r"got 'of'$"),
    ],
)
def test_what_they_do_not_is_refused(objectives: Any, guards: Any, line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        check_metrics(objectives, guards, trainer())
    assert str(refused.value).isprintable()


def test_a_search_is_checked_with_its_space_and_not_when_it_is_resumed(small: Small) -> None:
    typo = small(guards={"off_manifol": 0.02})
    typo.check_trainer()
    with pytest.raises(UserError, match="got 'off_manifol'"):
        typo.check_space()


def test_flops_are_reported_where_they_may_differ() -> None:
    stages = trainer(denoiser={"kind": "multistage_unet"})
    check_metrics([Objective("fd_digits"), Objective("gflops_image")], {}, stages)


def test_a_trainer_that_declares_nothing_is_believed() -> None:
    stranger = SimpleNamespace(objective=lambda: "distance", guards=lambda: {})
    check_metrics([Objective("anything", "maximize")], {"else": 0.1}, stranger)


def test_a_trainers_own_objective_and_guards_need_no_declaration() -> None:
    more = {"reported": lambda: {"recall": "maximize"}, "guards": lambda: {"waste": 0.1}}
    declared = SimpleNamespace(objective=lambda: "distance", **more)
    check_metrics([Objective("distance"), Objective("recall", "maximize")], {"waste": 1}, declared)
