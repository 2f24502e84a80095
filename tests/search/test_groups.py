"""Which family is best, and whether the difference is real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from search_spaces import FamiliesSpace
from stepsearch.errors import UserError
from stepsearch.search.agenda import Agenda
from stepsearch.search.config import SearchConfig
from stepsearch.search.groups import Groups, compare_groups
from stepsearch.search.history import History
from stepsearch.search.leaderboard import PROPOSAL, Leaderboard, Row, leaderboard
from stepsearch.study import Objective, RandomConfig, Study

Values = dict[str, Sequence[float]]
FAMILIES = FamiliesSpace(families=("speed", "min_snr", "p2"))


def board(values: Values, direction: str = "minimize") -> Leaderboard:
    """A trial a family; the first value is of the seed that chose it."""
    rows = [
        Row(
            number=number,
            label=name,
            role=PROPOSAL,
            params={"family": name},
            outcome="finished",
            reason=None,
            images_seen=10,
            values=tuple(of),
            metrics={},
            excess={},
            speed_up=None,
            earlier=None,
        )
        for number, (name, of) in enumerate(values.items())
    ]
    return Leaderboard(Objective("fd", direction), tuple(rows))


def compared(values: Values, direction: str = "minimize") -> Groups:
    found = compare_groups(board(values, direction), "family")
    assert found is not None
    return found


CLEAR = {"speed": [1.0, 1.02, 0.98, 1.0], "p2": [2.0, 2.1, 1.95, 2.0], "uniform": [3, 3.1, 2.9, 3]}


def test_a_clear_difference_is_real() -> None:
    found = compared(CLEAR)
    assert [group.name for group in found.of] == ["speed", "p2", "uniform"]
    assert found.of[0].chance > 0.99
    assert sum(group.chance for group in found.of) == pytest.approx(1)
    assert found.gap[0] == pytest.approx(
        np.exp(np.mean(np.log([2.1, 1.95, 2.0])) - np.mean(np.log([1.02, 0.98, 1.0]))) - 1
    )
    assert found.differs
    assert found.seeds == 3
    assert str(found).startswith(
        "by family, on 3 seeds that chose none of them: speed 1 (P(best) 1.00), p2 2.02 ("
    )
    assert str(found).endswith("so the first is the best")


def test_what_is_larger_may_be_better() -> None:
    found = compared(CLEAR, "maximize")
    assert [group.name for group in found.of] == ["uniform", "p2", "speed"]
    assert found.differs


def test_values_may_be_negative() -> None:
    found = compared({"a": [0, -1.0, -1.1, -0.9], "b": [0, 1.0, 1.1, 0.9]})
    assert found.of[0].name == "a"
    assert found.gap[0] == pytest.approx(2.0)


def test_the_seed_that_chose_a_trial_does_not_count() -> None:
    """The lucky one has a first value far below its others."""
    found = compared({"lucky": [0.1, 1.3, 1.2, 1.25], "steady": [1.0, 1.0, 0.9, 0.95]})
    assert found.of[0].name == "steady"


def test_what_seeds_do_to_all_alike_is_no_noise() -> None:
    seeds = np.array([1.0, 2.0, 0.5, 1.5])
    found = compared({"a": list(seeds), "b": list(1.1 * seeds), "c": list(1.3 * seeds)})
    assert found.gap == pytest.approx((0.1, 0.1, 0.1))


def test_equal_families_are_rarely_taken_for_different_ones() -> None:
    """95 % intervals of the first two of five that are equal: the choice of two makes it more."""
    random = np.random.default_rng(0)
    found = [
        compared({name: list(np.exp(0.1 * random.normal(size=4))) for name in "abcde"})
        for _ in range(300)
    ]
    assert np.mean([groups.differs for groups in found]) < 0.06
    assert np.mean([groups.of[0].chance for groups in found]) < 0.8


def test_nothing_is_said_of_too_few_seeds_or_groups() -> None:
    assert compare_groups(board({"a": [1, 1], "b": [2, 2]}), "family") is None
    assert compare_groups(board({"a": [1, 1, 1]}), "family") is None
    assert compare_groups(board(CLEAR), "other") is None


# --- in a search --------------------------------------------------------------------------------


@pytest.fixture
def config(small: Callable[..., SearchConfig]) -> SearchConfig:
    made = small(budget={"trials": 7}, finalists={"count": 2, "seeds": 3, "by": "family"})
    return made.model_copy(update={"space": FAMILIES})


def test_the_best_of_each_family_is_repeated(config: SearchConfig) -> None:
    config = config.resolved()
    with Study.create(None, "groups", config.objectives, RandomConfig(), 0) as study:
        history = History()
        agenda = Agenda(
            config, study, lambda: leaderboard(study.trials(), history, config.primary, {})
        )
        agenda.enqueue_fixed_points()
        worth = {"uniform": 5.0, "speed": 1.0, "min_snr": 3.0, "p2": 2.0}
        families: dict[int, Any] = {}
        for _ in range(7):
            proposal = agenda.next()
            assert proposal is not None
            record = next(r for r in study.trials() if r.number == proposal.number)
            families[proposal.number] = family = record.params["family"]
            value = worth[family] + 0.01 * proposal.number
            history.add(proposal.number, config.budget.images, {config.primary.name: value})
            study.tell(proposal.number, "finished", [value])
        repeated = [agenda.next() for _ in range(6)]
        numbers = [proposal.attrs["repeats"] for proposal in repeated if proposal is not None]
        assert [families[number] for number in numbers] == ["uniform", "speed", "p2"] * 2
        assert agenda.next() is None


def test_a_parameter_that_the_space_lacks_is_refused(config: SearchConfig) -> None:
    config.check_space()
    finalists = config.finalists.model_copy(update={"by": "famly"})
    with pytest.raises(UserError) as error:
        config.model_copy(update={"finalists": finalists}).check_space()
    assert str(error.value) == (
        "finalists.by must be a parameter of the baseline (family), got 'famly'"
    )


def test_importance_looks_inside_one_family(config: SearchConfig) -> None:
    """Twelve trials of SpeeD whose value is its tau, among others."""
    config, facts = config.resolved(), config.trainer.facts()
    with Study.create(None, "inside", config.objectives, RandomConfig(), 0) as study:
        for _ in range(60):
            proposal = study.ask(lambda trial: config.space.suggest(trial, facts))
            assert proposal is not None
            params = next(r for r in study.trials() if r.number == proposal.number).params
            study.tell(proposal.number, "finished", [params.get("speed.tau", 9.0)])
        found = study.importance(("family", "speed"))
        assert next(iter(found)) == "speed.tau"
        assert "family" not in found
        assert sum(found.values()) == pytest.approx(1)
        assert study.importance(("family", "nothing")) == {}
