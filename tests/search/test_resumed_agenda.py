"""The agenda of a driver that goes on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stepsearch.search.agenda import Agenda
from stepsearch.search.config import SearchConfig
from stepsearch.search.history import History
from stepsearch.search.leaderboard import leaderboard
from stepsearch.study import RandomConfig, Study

FINALISTS = {"count": 1, "seeds": 2}


class Search:
    """A study, and the agendas of one driver after the other."""

    def __init__(self, config: SearchConfig, study: Study) -> None:
        self.config, self.study, self.history = config, study, History()
        self.driver().enqueue_fixed_points()

    def driver(self, **options: Any) -> Agenda:
        def standings() -> Any:
            return leaderboard(self.study.trials(), self.history, self.config.primary, {})

        return Agenda(self.config, self.study, standings, **options)

    def tell(self, number: int, value: float) -> None:
        metric = self.config.primary.name
        self.history.add(number, self.config.budget.images, {metric: value})
        self.study.tell(number, "finished", [value])

    def cut_an_ask_short(self) -> None:
        """What a kill in the middle of `ask` leaves behind."""
        self.study._study.ask()
        self.study._half_asked = self.study._cut_short()

    def queue_a_repeat(self) -> None:
        best = min(leaderboard(self.study.trials(), self.history, self.config.primary, {}).rows,
                   key=lambda row: row.values[0])  # fmt: skip
        what = {"role": "repeat", "repeats": best.number, "seed": 1}
        self.study.enqueue(best.params, label=f"{best.label}, seed 1", **what)

    def run(self, agenda: Agenda) -> list[tuple[str, int]]:
        """The roles and seeds of all that is left."""
        found = []
        while (proposal := agenda.next()) is not None:
            found.append((proposal.attrs.get("role", ""), proposal.attrs.get("seed", 0)))
            self.tell(proposal.number, 9.0)
        assert agenda.exhausted
        return found


@pytest.fixture
def search(small: Callable[..., SearchConfig]) -> Iterator[Callable[..., Search]]:
    studies: list[Study] = []

    def make(**changes: Any) -> Search:
        config = small(**changes).resolved()
        studies.append(Study.create(None, "small", config.objectives, RandomConfig(), 0))
        return Search(config, studies[-1])

    yield make
    for study in studies:
        study.close()


def test_a_trial_whose_ask_was_cut_short_is_given_out_once_and_counted_once(search: Any) -> None:
    made = search(budget={"trials": 3})
    first = made.driver()
    numbers = [_number(first.next()), _number(first.next())]
    made.cut_an_ask_short()
    second = made.driver()
    asked = [_number(second.next()) for _ in range(4)]
    assert (numbers, asked) == ([0, 1], [0, 1, 2, None])


def test_it_is_given_out_though_the_budget_is_spent(search: Any) -> None:
    class Empty:
        def lacks(self, role: str | None, early: int, late: int) -> str | None:
            return "the budget of 1 hour is spent: 1"

    made = search(budget={"trials": 6})
    first = made.driver()
    for value in (3.0, 2.0):
        made.tell(_number(first.next()), value)
    made.cut_an_ask_short()
    second = made.driver(purse=Empty())
    assert made.run(second) == [("", 0)]
    assert second.ended is not None


def test_a_repeat_whose_ask_was_cut_short_is_that_repeat(search: Any) -> None:
    made = search(budget={"trials": 2}, finalists=FINALISTS)
    first = made.driver()
    for value in (3.0, 2.0):
        made.tell(_number(first.next()), value)
    made.queue_a_repeat()
    made.cut_an_ask_short()
    assert made.run(made.driver()) == [("repeat", 1)] * 2


def test_a_repeat_that_was_queued_is_no_original_of_a_larger_search(search: Any) -> None:
    made = search(budget={"trials": 2}, finalists=FINALISTS)
    first = made.driver()
    for value in (3.0, 2.0):
        made.tell(_number(first.next()), value)
    made.queue_a_repeat()
    made.config = made.config.extended(3)
    assert made.run(made.driver()) == [("repeat", 1), ("", 0), ("repeat", 1)]
    repeated = [r.attrs["repeats"] for r in made.study.trials() if r.attrs.get("role") == "repeat"]
    assert sorted(repeated) == [0, 1]


def _number(proposal: Any) -> Any:
    return proposal and proposal.number
