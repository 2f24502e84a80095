"""The agenda of a driver that goes on after a kill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stepsearch.search.agenda import Agenda
from stepsearch.search.config import SearchConfig
from stepsearch.search.history import History
from stepsearch.search.leaderboard import leaderboard
from stepsearch.study import RandomConfig, Study


def test_a_trial_whose_ask_was_cut_short_is_given_out_once_and_counted_once(
    small: Callable[..., SearchConfig],
) -> None:
    config = small(budget={"trials": 3}).resolved()
    with Study.create(None, "small", config.objectives, RandomConfig(), 0) as study:

        def agenda() -> Agenda:
            board = leaderboard(study.trials(), History(), config.primary, {})
            return Agenda(config, study, lambda: board)

        first = agenda()
        first.enqueue_fixed_points()
        numbers = [_number(first.next()), _number(first.next())]
        study._study.ask()  # what a kill in the middle of `ask` leaves behind
        study._half_asked = study._cut_short()
        second = agenda()
        asked = [_number(second.next()) for _ in range(4)]
        assert (numbers, asked) == ([0, 1], [0, 1, 2, None])


def _number(proposal: Any) -> int | None:
    return proposal and proposal.number
