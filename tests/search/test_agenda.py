"""What a search tries, in which order, and what fills a lane that would wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from stepsearch.search.agenda import Agenda
from stepsearch.search.config import SearchConfig
from stepsearch.search.history import History
from stepsearch.search.leaderboard import leaderboard
from stepsearch.study import Proposal, RandomConfig, Study

Small = Callable[..., SearchConfig]


class Desk:
    """An agenda, and trials that end with a given value."""

    def __init__(self, config: SearchConfig, study: Study) -> None:
        self.config, self.study, self.history = config.resolved(), study, History()
        self.agenda = self.successor()
        self.agenda.enqueue_fixed_points()

    def successor(self) -> Agenda:
        """The agenda of a driver that resumes the search."""
        primary = self.config.primary

        def standings():
            return leaderboard(self.study.trials(), self.history, primary, {})

        return Agenda(self.config, self.study, standings)

    def end(self, proposal: Proposal | None, value: float) -> None:
        assert proposal is not None
        metric = self.config.primary.name
        self.history.add(proposal.number, self.config.budget.images, {metric: value})
        self.study.tell(proposal.number, "finished", [value])


@pytest.fixture
def desk(small: Small) -> Iterator[Desk]:
    config = small(budget={"trials": 3}, finalists={"count": 1, "seeds": 3})
    objectives = config.resolved().objectives
    with Study.create(None, "desk", objectives, RandomConfig(), 0) as study:
        yield Desk(config, study)


def label(proposal: Proposal | None) -> str | None:
    return proposal and proposal.attrs.get("label")


def test_fixed_points_come_first_then_proposals_then_repeats_in_pairs(desk):
    for value in (3.0, 2.0, 1.0):
        desk.end(desk.agenda.next(), value)
    records = desk.study.trials()
    assert [record.attrs.get("label") for record in records[:2]] == ["uniform", "SpeeD (paper)"]
    repeats = [desk.agenda.next() for _ in range(4)]
    assert [repeat.attrs["repeats"] for repeat in repeats] == [0, 2, 0, 2]
    assert [repeat.attrs["seed"] for repeat in repeats] == [1, 1, 2, 2]
    assert desk.agenda.next() is None
    assert desk.agenda.exhausted


def test_the_baselines_repeats_fill_a_lane_that_would_wait_for_the_last_trial(desk):
    for value in (3.0, 2.0):
        desk.end(desk.agenda.next(), value)
    last = desk.agenda.next()
    early = [desk.agenda.next(), desk.agenda.next()]
    assert [label(repeat) for repeat in early] == ["uniform, seed 1", "uniform, seed 2"]
    assert desk.agenda.next() is None
    assert not desk.agenda.exhausted
    desk.end(last, 1.0)
    assert [desk.agenda.next().attrs["repeats"] for _ in range(2)] == [last.number] * 2
    assert desk.agenda.next() is None
    assert desk.agenda.exhausted


def test_nothing_is_repeated_early_while_there_is_nothing_to_compare(desk):
    baseline, paper, last = [desk.agenda.next() for _ in range(3)]
    desk.end(baseline, 3.0)
    assert desk.agenda.next() is None
    desk.end(paper, 2.0)
    assert label(desk.agenda.next()) == "uniform, seed 1"
    desk.end(last, 1.0)


def test_a_resumed_search_goes_on_with_the_repeats_that_are_missing(desk):
    for value in (3.0, 2.0):
        desk.end(desk.agenda.next(), value)
    last, repeat = desk.agenda.next(), desk.agenda.next()
    agenda = desk.successor()
    assert [agenda.next().number for _ in range(2)] == [last.number, repeat.number]
    assert label(agenda.next()) == "uniform, seed 2"
    assert agenda.next() is None
    assert not agenda.complete
