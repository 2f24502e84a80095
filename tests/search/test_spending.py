"""Budgets in hours, CPUs and money: what is tried, what is kept back, what is known afterwards."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stepsearch.cluster import LaneShape
from stepsearch.errors import StepsearchError, UserError
from stepsearch.search.agenda import Agenda
from stepsearch.search.amounts import check_budget, in_words, used
from stepsearch.search.board import Board, Entry
from stepsearch.search.config import BudgetConfig, PricesConfig, SearchConfig
from stepsearch.search.history import History
from stepsearch.search.leaderboard import PROTECTED, leaderboard
from stepsearch.search.ledger import Ledger
from stepsearch.search.spending import Spending, until_the_end
from stepsearch.study import Proposal, RandomConfig, Study

Small = Callable[..., SearchConfig]
PRICES = {"cpu_hour": 0.5, "gpu_hour": 2.0, "currency": "EUR"}


class Clock:
    """Seconds; the lanes are there from 0 on."""

    now = 0.0
    up = True

    def __call__(self) -> float:
        return self.now

    @property
    def seconds(self) -> float:
        return self.now


@dataclass
class Lane:
    """What it holds."""

    up: bool = False
    seconds: float = 0.0


class Theatre:
    """A search whose trials take seconds of a clock that jumps from one ending to the next."""

    def __init__(
        self,
        config: SearchConfig,
        path: Path,
        lanes: int,
        *,
        seed: int = 0,
        noise: float = 0.0,
        stopped: float = 0.0,
    ) -> None:
        """A trial takes an hour, give or take `noise`; a share of `stopped` ends half-way."""
        self.config, self.lanes, self.clock = config.resolved(), lanes, Clock()
        self.draw, self.noise, self.stopped = random.Random(seed), noise, stopped
        self.study = Study.create(None, "a", self.config.objectives, RandomConfig(), 0)
        self.history, self.path = History(), path
        self.spending = self.driver()
        self.agenda = Agenda(self.config, self.study, self.standings, self.spending)
        self.agenda.enqueue_fixed_points()
        self.due: list[tuple[float, int, str]] = []
        self.begun: dict[int, tuple[float, float]] = {}
        self.roles: Counter[str] = Counter()

    def driver(self) -> Spending:
        shape = LaneShape(self.lanes, workers=1, cpus=2.0, gpus=0)
        config, clock = self.config, self.clock
        holds = [clock] * self.lanes
        return Spending(self.path, config.budget, config.prices, shape, lambda: holds, clock=clock)

    def standings(self) -> Any:
        return leaderboard(self.study.trials(), self.history, self.config.primary, {})

    def play(self) -> Theatre:
        self.fill()
        while self.due:
            self.clock.now, number, outcome = heapq.heappop(self.due)
            del self.begun[number]
            metric = self.config.primary.name
            self.history.add(number, self.config.budget.images, {metric: self.draw.random()})
            self.study.tell(number, outcome, [self.history.last(number)[metric]])  # type: ignore[arg-type]
            self.spending.ended(number, outcome)
            self.fill()
        assert self.agenda.exhausted
        return self

    def fill(self) -> None:
        while len(self.due) < self.lanes:
            images = self.config.budget.images
            self.spending.progress(
                {
                    number: int(images * (self.clock.now - since) / whole)
                    for number, (since, whole) in self.begun.items()
                }
            )
            proposal = self.agenda.next()
            if proposal is None:
                return
            self.start(proposal)

    def start(self, proposal: Proposal) -> None:
        role = proposal.attrs.get("role", "proposal")
        whole = 3600 * (1 + self.noise * self.draw.uniform(-1, 1))
        stops = role not in PROTECTED and self.draw.random() < self.stopped
        self.spending.began(proposal.number, role)
        self.roles[role] += 1
        self.begun[proposal.number] = self.clock.now, whole
        due = self.clock.now + (whole / 2 if stops else whole)
        heapq.heappush(self.due, (due, proposal.number, "pruned" if stops else "finished"))


@pytest.mark.parametrize(
    ("budget", "proposals", "repeats"),
    [
        ({"hours": 12.5}, 6, 4),  # the baseline, the paper's setting, six more, two pairs
        ({"hours": 12.4}, 5, 4),  # a sixth would leave too little if all took a tenth longer
        ({"cpu_hours": 25}, 6, 4),
        ({"money": 12.5}, 6, 4),
        ({"hours": 20, "money": 12.5}, 6, 4),
        ({"hours": 6.5}, 0, 4),
        ({"hours": 5.5}, 0, 2),  # one seed more for both, not two for one of them
        ({"hours": 1.5}, 0, 0),
        ({"hours": 100}, 10, 4),
    ],
)
def test_proposals_are_tried_as_long_as_the_finalists_seeds_can_be_paid_too(
    small: Small, tmp_path: Path, budget: dict[str, float], proposals: int, repeats: int
) -> None:
    config = small(
        budget=budget | {"trials": 12}, prices=PRICES, finalists={"count": 1, "seeds": 3}
    )
    played = Theatre(config, tmp_path / "spent.json", lanes=1).play()
    assert (played.roles["proposal"], played.roles["repeat"]) == (proposals, repeats)
    spent = played.spending.spent
    assert all(spent[name] <= limit + 1e-9 for name, limit in budget.items())  # type: ignore[index]
    assert (played.agenda.ended is None) == (proposals == 10)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limited", ["hours", "cpu_hours", "money"])
def test_no_budget_is_overrun_by_more_than_what_was_running(
    small: Small, tmp_path: Path, limited: str, seed: int
) -> None:
    draw = random.Random(seed)
    lanes, seeds, hours = draw.choice([1, 2, 3, 8]), draw.choice([2, 3]), draw.uniform(6, 16)
    shape = LaneShape(lanes, 1, 2.0, 0)
    limit = used(shape, PricesConfig(**PRICES), hours, lanes * hours)[limited]  # type: ignore[index,arg-type]
    config = small(
        budget={limited: limit, "trials": 200},
        prices=PRICES,
        finalists={"count": draw.choice([0, 1, 2]), "seeds": seeds},
    )
    played = Theatre(
        config, tmp_path / "spent.json", lanes, seed=seed, noise=0.1, stopped=0.5
    ).play()
    spent = played.spending.spent["hours"]
    assert spent <= hours + 1.1
    assert played.agenda.ended is not None
    assert played.roles["repeat"] == config.finalists.repeats, "what was kept back for them"
    assert played.roles["proposal"] > 0


def test_what_is_spent_is_known_to_the_next_driver(small: Small, tmp_path: Path) -> None:
    config = small(budget={"hours": 12, "trials": 12}, prices=PRICES)
    first = Theatre(config, tmp_path / "spent.json", lanes=2)
    first.fill()
    first.clock.now = 1800.0
    first.spending.ended(0, "interrupted")
    first.spending.write()
    again = first.driver()
    again.began(0, "baseline")
    first.clock.now = 3600.0  # the clock of both: `again` has held its lanes for an hour, too
    again.ended(0, "finished")
    ledger = Ledger.read(tmp_path / "spent.json")
    assert ledger.spent == {"hours": 1.5, "gpu_hours": 0.0, "cpu_hours": 6.0, "money": 3.0}
    assert ledger.originals.mean == ledger.whole.mean == 1800 + 1800
    assert ledger.running == {1: 1800.0}


def test_hours_without_a_lane_cost_nothing(small: Small, tmp_path: Path) -> None:
    config = small(budget={"hours": 2})
    lanes = [Lane(), Lane()]
    clock, shape = Clock(), LaneShape(2, workers=1, cpus=2.0, gpus=0)
    spending = Spending(tmp_path / "a", config.budget, None, shape, lambda: lanes, clock=clock)

    def after(hours: float, *held: float) -> float:
        """Hours that are spent when so many have passed, in which each lane was held so long."""
        clock.now += 3600 * hours
        for lane, more in zip(lanes, held, strict=True):
            lane.seconds += 3600 * more
        return spending.spent["hours"]

    assert after(3.0, 0.0, 0.0) == 0.0, "others hold the cluster"
    lanes[0].up = True
    assert after(1.0, 0.5, 0.0) == 0.5, "the first lane came half an hour ago"
    lanes[1].up = True
    assert after(0.25, 0.25, 0.125) == 0.75
    lanes[0].up = False
    assert after(0.25, 0.0, 0.25) == 1.0, "the second one is there still"
    lanes[1].up = False
    assert after(0.25, 0.0, 0.125) == 1.125
    assert after(3.0, 0.0, 0.0) == 1.125, "the node died, and another one is waited for"
    assert spending.lacks("proposal", 0, 0) is None
    lanes[1].up = True
    assert after(1.0, 0.0, 0.875) == 2.0
    assert spending.lacks("proposal", 0, 0) == "the budget of 2 hours is spent: 2"


def test_a_trial_that_goes_on_after_the_engine_died_is_as_long_as_all_its_parts(
    small: Small, tmp_path: Path
) -> None:
    theatre = Theatre(small(), tmp_path / "spent.json", lanes=2)
    for seconds in (1000.0, 100.0):
        theatre.spending.began(0, "baseline")
        theatre.clock.now += seconds
        theatre.spending.write()
    theatre.spending.ended(0, "finished")
    assert Ledger.read(tmp_path / "spent.json").whole.mean == 1100.0


def test_before_a_trial_has_ended_its_length_is_guessed_from_those_that_run(
    small: Small, tmp_path: Path
) -> None:
    config = small(budget={"hours": 3, "trials": 12})
    theatre = Theatre(config, tmp_path / "spent.json", lanes=2)
    assert theatre.spending.lacks("proposal", 0, 0) is None, "nothing is known yet"
    theatre.spending.began(0, "baseline")
    theatre.clock.now = 3600.0
    theatre.spending.progress({0: config.budget.images // 2})
    assert theatre.spending.lacks("proposal", 0, 0) is None
    assert theatre.spending.lacks("proposal", 2, 0) == (
        "the budget of 3 hours is nearly spent: 1 used, a trial takes 2, "
        "the repeats of the finalists take 2.4"
    )
    theatre.clock.now = 3 * 3600.0
    assert theatre.spending.lacks(None, 1, 0) == "the budget of 3 hours is spent: 3"


@pytest.mark.parametrize(
    ("lanes", "originals", "repeats", "early", "late", "seconds"),
    [
        (1, [], [], 0, 0, 0.0),
        (1, [3.0], [], 0, 0, 3.0),
        (1, [3.0], [], 1, 1, 23.0),
        (2, [3.0, 5.0], [], 0, 2, 15.0),  # the finalists wait for the longer one
        (2, [5.0], [], 2, 0, 15.0),
        (2, [], [4.0], 0, 1, 10.0),
        (4, [5.0], [], 2, 2, 15.0),
    ],
)  # fmt: skip
def test_the_time_to_the_end_is_that_of_the_busiest_lane(
    lanes: int,
    originals: list[float],
    repeats: list[float],
    early: int,
    late: int,
    seconds: float,
) -> None:
    found = until_the_end(lanes, originals, repeats, early=early, late=late, whole=10.0)
    assert found == seconds


@pytest.mark.parametrize(
    "content",
    [
        b'{"spent": 3}',
        b'{"spent"\xba{}}',
        b'{"spent": {"hours": 1}}',
        b'{"spent": {"hours": 1e999, "gpu_hours": 0, "cpu_hours": 0, "money": 0}}',
    ],
)
def test_a_ledger_that_was_tampered_with_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "spent.json").write_bytes(content)
    with pytest.raises(StepsearchError, match=r"spent\.json must be as a driver left it"):
        Ledger.read(tmp_path / "spent.json")


def test_spending_is_told_in_the_units_of_the_budget() -> None:
    prices = PricesConfig(cpu_hour=0.5, gpu_hour=2, currency="EUR")
    spent = used(LaneShape(4, workers=2, cpus=3, gpus=1), prices, hours=0.5, lane_hours=2)
    assert spent == {"hours": 0.5, "gpu_hours": 4, "cpu_hours": 12, "money": 14}
    budget = BudgetConfig(hours=1, money=20)
    assert in_words(spent, budget, prices) == "0.5 of 1 hour · 4 GPU-hours · 14 of 20 EUR"
    assert in_words(spent, BudgetConfig(), prices) == "30 min 00 s · 4 GPU-hours · 14 EUR"


def test_the_progress_is_that_of_what_ends_the_search_first() -> None:
    board = Board("a", "fd", minimize=True, budget=100, total=4, milestones=(100,))
    board.entries[0] = Entry(0, "uniform", "baseline", state="finished")
    board.entries[1] = Entry(1, "paper", "paper", images_seen=50)
    board.spent_share = 0.2
    assert board.share_done == 0.375
    board.spent_share = 0.6
    assert board.share_done == 0.6


@pytest.mark.parametrize("budget", [{"gpu_hours": 1}, {"money": 1}])
def test_a_budget_that_the_lanes_never_use_up_is_refused(budget: dict[str, float]) -> None:
    shape = LaneShape(2, workers=1, cpus=1, gpus=0)
    with pytest.raises(UserError, match="must be something that the lanes use: one has 1 CPUs"):
        check_budget(BudgetConfig(**budget), PricesConfig(gpu_hour=2), shape)  # type: ignore[arg-type]
