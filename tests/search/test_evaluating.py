"""What looking at the trials has cost, of all their time."""

from __future__ import annotations

import pytest

from stepsearch.search.evaluating import Evaluating
from stepsearch.search.history import History

REPORT = {
    "train_cpu_s": 6.0,
    "evaluation_cpu_s": 4.0,
    "drawing_cpu_s": 2.4,
    "judging_cpu_s": 0.7,
    "drawn_images": 1000.0,
    "network_evaluations": 10_000.0,
}


def recorded(*reports: dict[str, float]) -> Evaluating | None:
    history = History()
    for images_seen, report in enumerate(reports):
        history.add(images_seen % 2, images_seen, report)
    return Evaluating.of(history)


def test_drawing_and_judging_are_shares_of_all_that_trials_took() -> None:
    found = recorded(REPORT, REPORT, REPORT)
    assert found is not None
    assert found.share == pytest.approx(0.31)
    assert str(found) == (
        "took 31% of the trials' CPU time (drawing 24%, judging 7%): "
        "3,000 images, 30,000 network evaluations"
    )


@pytest.mark.parametrize(("train", "said"), [(2.2, False), (2.0, True)])
def test_from_half_on_it_says_how_to_evaluate_less(train: float, said: bool) -> None:
    found = recorded(REPORT | {"train_cpu_s": train})
    assert (found is not None and "fewer judge.samples" in str(found)) is said


@pytest.mark.parametrize(
    "report",
    [
        {"tuning_cpu_s": 3.0, "evaluation_cpu_s": 4.0},
        {"train_cpu_s": 6.0, "evaluation_cpu_s": 4.0},
        REPORT | {"train_cpu_s": float("nan")},
        REPORT | {"evaluation_cpu_s": -6.0},
    ],
)
def test_nothing_is_said_where_nothing_is_known(report: dict[str, float]) -> None:
    assert recorded(report) is None
    assert recorded() is None
