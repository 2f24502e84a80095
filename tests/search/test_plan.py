"""The plan of a search: what it prints, what it foresees, and that it writes nothing."""

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from stepsearch.cluster import LaneShape
from stepsearch.errors import UserError
from stepsearch.search.config import BudgetConfig, SearchConfig, TrialSchedulerConfig
from stepsearch.search.forecast import budgets, estimate
from stepsearch.search.plan import decisions, show_plan
from stepsearch.search.schedulers import trial_scheduler
from stepsearch.search.trial import Cost
from stepsearch.study import Objective

Small = Callable[..., SearchConfig]
COST = Cost(batch_size=32, step_s=0.5, evaluation_s=2.0, prepare_s=10.0, checkpoint_bytes=1000)


def printed(config: SearchConfig, width: int = 80) -> str:
    page = io.StringIO()
    show_plan(config, Console(file=page, width=width, highlight=False))
    return page.getvalue()


def test_the_plan_shows_the_trials_in_their_order_and_what_they_need(
    small: Small, tmp_path: Path
) -> None:
    config = small(budget={"trials": 6}, finalists={"count": 1, "seeds": 3}, lanes={"count": 1})
    page = printed(config)
    order = ["uniform ", "SpeeD (paper) ", "4 proposals", "by random", "4 repeats", "rungs"]
    positions = [page.index(what) for what in order]
    assert positions == sorted(positions)
    assert "fd_digits, minimized" in page
    assert "160  asha lets the better 1/2 go on" in page
    assert "640  the end" in page
    assert "1 x 1 worker" in page
    assert "20 steps, 4 evaluations" in page
    assert page.count("density p") == page.count("weight w") == 2
    sampler = " ".join(page[page.index("sampler: {") :].split())
    assert sampler.startswith(
        "sampler: {kind: ddim, num_steps: 2, guidance: 1.0, clip_sample: true"
    )
    assert max(map(len, page.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_what_a_trial_does_once_is_in_the_estimate(small: Small) -> None:
    config, shape = small(budget={"trials": 6}), LaneShape(1, 1, 1.0, 0.0)
    dear = replace(COST, once_s=3.0)
    less, more = (estimate(config, shape, cost, 6) for cost in (COST, dear))
    assert more.trial_s - less.trial_s == 3
    assert more.work_s - less.work_s == 3 * (6 + config.finalists.repeats)
    assert "once a trial" in printed(small({"judge": {"sampling_seeds": 2}}))
    assert "once a trial" not in printed(config)


def test_fixed_points_beyond_the_budget_are_not_promised(ray_cluster: None, small: Small) -> None:
    page = printed(small(budget={"trials": 1}), width=120)
    assert "trial 0: uniform" in page
    assert "SpeeD (paper)" not in page
    assert "proposal" not in page
    assert max(map(len, page.splitlines())) <= 120
    assert "CPUs    2; this machine has 2" in page


def test_a_name_that_exists_is_mentioned_and_nothing_in_it_is_touched(small: Small) -> None:
    config = small()
    config.folder.mkdir(parents=True)
    assert "`resume small` goes on with it" in printed(config)
    assert list(config.folder.iterdir()) == []


def test_the_plan_refuses_what_a_run_would_refuse(small: Small) -> None:
    with pytest.raises(UserError, match="lanes must fit into the cluster: 999 x 1 workers"):
        printed(small(lanes={"count": 999}))
    with pytest.raises(UserError, match="num_steps must divide T = 1000, got 3"):
        printed(small({"sampler": {"num_steps": 3}}))


def test_a_probe_that_diverges_is_a_users_error(small: Small) -> None:
    with pytest.raises(UserError, match="trainer must not diverge in its first steps"):
        printed(small({"training": {"lr": 1e38, "warmup_steps": 0, "grad_clip": 1e38}}))


def test_estimate_counts_steps_evaluations_trials_and_lanes(small: Small) -> None:
    config = small(budget={"trials": 5, "images": 650}, finalists={"count": 1, "seeds": 2})
    whole = estimate(config, LaneShape(count=2, workers=1, cpus=1, gpus=0), COST, 5)
    trial = 21 * 0.5 + 4 * 2.0  # the last step goes over 650 images
    assert whole.trial_s == trial
    assert whole.work_s == 10 + (5 + 2) * trial
    assert whole.wall_s == 10 + (3 + 1) * trial  # 5 trials on 2 lanes, then the 2 repeats
    assert whole.disk_bytes == 7000


def test_the_plan_says_which_budget_ends_the_search(small: Small) -> None:
    limits = {"trials": 5, "images": 650, "hours": 50 / 3600, "cpu_hours": 1, "money": 0.02}
    prices = {"cpu_hour": 1, "currency": "EUR"}
    config = small(budget=limits, prices=prices, finalists={"count": 1, "seeds": 2})
    rows = budgets(config, LaneShape(count=2, workers=1, cpus=1, gpus=0), COST)
    assert rows == [  # a round of two trials takes 18.5 s, preparing 10 s, the repeats a round
        ["budget.hours", "0.0139 hours", "enough for 2 of 5 trials and the repeats"],
        ["budget.cpu_hours", "1 CPU-hour", "not reached; all trials take 0.0467"],
        ["budget.money", "0.02 EUR",
         "ends the search: not enough for the fixed points and repeats"],
    ]  # fmt: skip
    free = small(prices=prices, budget={"images": 650})
    assert budgets(free, LaneShape(1, 1, cpus=1, gpus=0), COST) == [
        ["price", "0.0233 EUR", "of all trials, none stopped early"]
    ]
    page = printed(small(prices=prices, budget={"hours": 0.0001}, lanes={"count": 1}), width=100)
    assert "budget.hours   0.0001 hours  ends the search: not enough" in page


def test_two_workers_share_the_work_of_a_trial(small: Small) -> None:
    alone = estimate(small(), LaneShape(1, 1, cpus=1, gpus=0), COST, 4)
    both = estimate(small(), LaneShape(1, 2, cpus=1, gpus=0), COST, 4)
    assert both.work_s == alone.work_s
    assert both.wall_s - 10 == (alone.wall_s - 10) / 2


@pytest.mark.parametrize(
    ("budget", "scheduler"),
    [
        ({}, {}),
        ({}, {"grace": 0}),
        ({"reports": 6, "first_report": 0.1}, {"reduction": 3, "grace": 0}),
        ({"reports": 7, "first_report": 0.05}, {"reduction": 1.3, "grace": 0.3}),
        ({"reports": 12, "first_report": 0.02}, {"reduction": 1.1, "grace": 0.1}),
        ({"reports": 1}, {}),
        ({}, {"kind": "fifo"}),
    ],
)
def test_decisions_are_those_of_rays_own_schedulers(
    budget: dict[str, Any], scheduler: dict[str, Any]
) -> None:
    config, rule = BudgetConfig(**budget), TrialSchedulerConfig(**scheduler)
    milestones = config.milestones()
    stopped = [_stops_at(i, config, rule) for i in range(len(milestones) - 1)]
    assert decisions(config, rule) == [*stopped, False]


def test_the_median_rule_may_stop_a_trial_at_every_report_but_the_last() -> None:
    median = TrialSchedulerConfig(kind="median", grace=0)
    assert decisions(BudgetConfig(reports=3), median) == [True, True, False]


def test_no_rule_stops_a_trial_before_its_grace_is_over() -> None:
    budget = BudgetConfig(reports=5, first_report=0.2)
    for kind in ("asha", "median"):
        rule = TrialSchedulerConfig(kind=kind, grace=0.6)
        assert decisions(budget, rule)[:3] == [False, False, True]


def _stops_at(milestone: int, budget: BudgetConfig, rule: TrialSchedulerConfig) -> bool:
    """Whether a trial that is the best until then and the worst there is stopped there."""
    scheduler = trial_scheduler(rule, budget, Objective("fd"))
    verdict = ""
    other, falling = [1.0] * budget.reports, [0.5] * milestone + [100.0]
    for number, values in enumerate((other, falling)):
        config = {"number": number, "protected": False}
        trial: Any = SimpleNamespace(trial_id=str(number), config=config)
        scheduler.on_trial_add(None, trial)  # type: ignore[arg-type]
        for images_seen, value in zip(budget.milestones(), values, strict=False):
            result = {"images_seen": images_seen, "fd": value}
            verdict = scheduler.on_trial_result(None, trial, result)  # type: ignore[arg-type]
    return verdict == TrialScheduler.STOP


def test_the_plan_knows_nothing_of_torch() -> None:
    code = "import sys, stepsearch.search.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
