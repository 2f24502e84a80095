"""A search file's fields: what each refuses, and what follows from the budget."""

import pytest

from stepsearch.cluster import LanesConfig, fit_lanes
from stepsearch.config import Config, parse
from stepsearch.errors import UserError
from stepsearch.search.config import (
    BudgetConfig,
    FinalistsConfig,
    PricesConfig,
    SearchConfig,
    TrialSchedulerConfig,
)

NAMES = "a string that matches ^[A-Za-z0-9][A-Za-z0-9._-]*$"
LINES = [
    (SearchConfig, {"name": "a/b"}, f"name must be {NAMES}, got 'a/b'"),
    (SearchConfig, {"name": ".hidden"}, f"name must be {NAMES}, got '.hidden'"),
    (SearchConfig, {"name": 7}, "name must be a string, got 7"),
    (SearchConfig, {"name": "x" * 101},
     f"name must be a string of 100 or fewer characters, got '{'x' * 101}'"),
    (SearchConfig, {"storage": None}, "storage must be a path, got None"),
    (SearchConfig, {"storage": "gs://bucket/a"},
     "storage must be a folder or s3://bucket/prefix, without credentials (AWS_ACCESS_KEY_ID and "
     "AWS_SECRET_ACCESS_KEY or ~/.aws hold them; AWS_ENDPOINT_URL names another server than "
     "Amazon's), got 'gs://...'"),
    (SearchConfig, {"storage": "s3://bucket/a", "tracking": {"uri": "sqlite:////a/mlflow.db"}},
     "tracking.uri must name an MLflow server (http://...) where storage is a bucket, "
     "got 'sqlite:////a/mlflow.db': a file would be lost with this machine"),
    (SearchConfig, {"cluster": ""}, "cluster must be a string of 1 or more characters, got ''"),
    (SearchConfig, {"seed": -1}, "seed must be at least 0, got -1"),
    (SearchConfig, {"seed": 2**31}, "seed must be less than 2147483648, got 2147483648"),
    (SearchConfig, {"seed": 1.5}, "seed must be an integer, got 1.5"),
    (SearchConfig, {"objectives": "fd"}, "objectives must be a list, got 'fd'"),
    (SearchConfig, {"objectives": ["fd"]}, "objectives[0] must be a mapping, got 'fd'"),
    (SearchConfig, {"objectives": [{"name": "fd", "direction": "up"}]},
     "objectives[0].direction must be one of 'minimize' or 'maximize', got 'up'"),
    (SearchConfig, {"guards": 3}, "guards must be a mapping, got 3"),
    (SearchConfig, {"guards": {"recall": "x"}}, "guards.recall must be a number, got 'x'"),
    (SearchConfig, {"budget": 3}, "budget must be a mapping, got 3"),
    (SearchConfig, {"budget": {"money": 10}},
     "budget.money must have a price: set prices.gpu_hour or prices.cpu_hour, got money 10"),
    (SearchConfig, {"budget": {"money": 10}, "prices": {"currency": "EUR"}},
     "budget.money must have a price: set prices.gpu_hour or prices.cpu_hour, got money 10"),
    (SearchConfig, {"prices": 2}, "prices must be a mapping, got 2"),
    (SearchConfig, {"lanes": 2}, "lanes must be a mapping, got 2"),
    (SearchConfig, {"optuna_sampler": "tpe"}, "optuna_sampler must be a mapping, got 'tpe'"),
    (SearchConfig, {"optuna_sampler": {"kind": "best"}},
     "optuna_sampler.kind must be one of 'tpe', 'gp', 'cmaes', 'nsga2', 'nsga3', 'qmc', "
     "'random', 'grid', got 'best'"),
    (SearchConfig, {"trial_scheduler": "asha"}, "trial_scheduler must be a mapping, got 'asha'"),
    (SearchConfig, {"finalists": 1}, "finalists must be a mapping, got 1"),
    (SearchConfig, {"warm_start": 1}, "warm_start must be a string, got 1"),
    (SearchConfig, {"retries": -1}, "retries must be at least 0, got -1"),
    (SearchConfig, {"watchdog_s": 0}, "watchdog_s must be greater than 0, got 0"),
    (SearchConfig, {"tracking": "http://a"}, "tracking must be a mapping, got 'http://a'"),
    (BudgetConfig, {"trials": 0}, "trials must be at least 1, got 0"),
    (BudgetConfig, {"trials": 2.5}, "trials must be an integer, got 2.5"),
    (BudgetConfig, {"images": 0}, "images must be at least 1, got 0"),
    (BudgetConfig, {"reports": 0}, "reports must be at least 1, got 0"),
    (BudgetConfig, {"first_report": 0}, "first_report must be greater than 0, got 0"),
    (BudgetConfig, {"first_report": 1.1}, "first_report must be at most 1, got 1.1"),
    (BudgetConfig, {"hours": 0}, "hours must be greater than 0, got 0"),
    (BudgetConfig, {"gpu_hours": "8h"}, "gpu_hours must be a number, got '8h'"),
    (BudgetConfig, {"cpu_hours": -1}, "cpu_hours must be greater than 0, got -1"),
    (BudgetConfig, {"money": float("inf")}, "money must be a finite number, got inf"),
    (PricesConfig, {"gpu_hour": -1}, "gpu_hour must be at least 0, got -1"),
    (PricesConfig, {"cpu_hour": "2 EUR"}, "cpu_hour must be a number, got '2 EUR'"),
    (PricesConfig, {"currency": ""},
     "currency must be a string of 1 or more characters, got ''"),
    (LanesConfig, {"priority": -1}, "priority must be at least 0, got -1"),
    (LanesConfig, {"priority": 10}, "priority must be at most 9, got 10"),
    (LanesConfig, {"share": 0}, "share must be greater than 0, got 0"),
    (LanesConfig, {"share": 1.5}, "share must be at most 1, got 1.5"),
    (LanesConfig, {"count": 0}, "count must be at least 1, got 0"),
    (LanesConfig, {"workers": 0}, "workers must be at least 1, got 0"),
    (LanesConfig, {"min_workers": 0}, "min_workers must be at least 1, got 0"),
    (LanesConfig, {"workers": 2, "min_workers": 4},
     "min_workers must be at most workers (2), got 4"),
    (LanesConfig, {"cpus": 0}, "cpus must be greater than 0, got 0"),
    (LanesConfig, {"gpus": -1}, "gpus must be at least 0, got -1"),
    (TrialSchedulerConfig, {"kind": "hyperband"},
     "kind must be one of 'asha', 'median' or 'fifo', got 'hyperband'"),
    (TrialSchedulerConfig, {"reduction": 1}, "reduction must be greater than 1, got 1"),
    (TrialSchedulerConfig, {"grace": -0.1}, "grace must be at least 0, got -0.1"),
    (TrialSchedulerConfig, {"grace": 1}, "grace must be less than 1, got 1"),
    (TrialSchedulerConfig, {"min_trials": 0}, "min_trials must be at least 1, got 0"),
    (FinalistsConfig, {"count": -1}, "count must be at least 0, got -1"),
    (FinalistsConfig, {"seeds": 0}, "seeds must be at least 1, got 0"),
    (FinalistsConfig, {"by": 3}, "by must be a string, got 3"),
]  # fmt: skip
REQUIRED = {"name": "a", "space": {}, "trainer": {}}


@pytest.mark.parametrize(("model", "data", "line"), LINES)
def test_every_field_refuses_with_one_line(model: type[Config], data, line):
    required = REQUIRED if model is SearchConfig else {}
    with pytest.raises(UserError) as caught:
        parse(model, required | data)
    assert str(caught.value) == line


def test_no_field_is_forgotten_above():
    plain = {"space", "trainer"}  # of any type here; each has a configuration of its own
    for model in {model for model, _, _ in LINES}:
        tested = {key for owner, data, _ in LINES if owner is model for key in data}
        assert tested | plain >= model.model_fields.keys(), model


@pytest.mark.parametrize("field", ["name", "space", "trainer"])
def test_what_has_no_default_is_required(field):
    with pytest.raises(UserError, match=rf"^{field} is required$"):
        parse(SearchConfig, {key: value for key, value in REQUIRED.items() if key != field})


@pytest.mark.parametrize(
    ("budget", "milestones"),
    [
        ({}, (12_000, 21_000, 30_000, 39_000, 48_000)),
        ({"reports": 1}, (48_000,)),
        ({"reports": 3, "first_report": 0.5, "images": 100}, (50, 75, 100)),
        ({"reports": 3, "first_report": 1, "images": 100}, (100,)),
        ({"reports": 8, "images": 3}, (1, 2, 3)),
    ],
)
def test_milestones_rise_from_the_first_report_to_the_whole_budget(budget, milestones):
    assert BudgetConfig(**budget).milestones() == milestones


@pytest.mark.parametrize(
    ("count", "seeds", "repeats"), [(0, 3, 0), (1, 3, 4), (2, 2, 3), (2, 1, 0)]
)
def test_repeats_are_those_of_the_finalists_and_of_the_baseline(count, seeds, repeats):
    assert FinalistsConfig(count=count, seeds=seeds).repeats == repeats


def test_a_budget_can_be_raised_or_set_and_never_lowered():
    config = parse(SearchConfig, REQUIRED | {"budget": {"trials": 4, "hours": 2}})
    budget = config.extended(6, hours=2.5, cpu_hours=7).budget
    assert (budget.trials, budget.hours, budget.cpu_hours) == (6, 2.5, 7)
    assert config.extended() == config
    with pytest.raises(UserError, match=r"^trials must be at least the 4 of a, got 3$"):
        config.extended(3)
    with pytest.raises(UserError, match=r"^hours must be at least the 2 of a, got 1\.5$"):
        config.extended(hours=1.5)
    with pytest.raises(UserError, match=r"^budget\.gpu_hours must be greater than 0, got -1"):
        config.extended(gpu_hours=-1)
    with pytest.raises(UserError, match=r"^budget\.money must have a price"):
        config.extended(money=10)


@pytest.mark.parametrize(
    ("lanes", "count"),
    [
        ({}, 8),
        ({"share": 0.5}, 4),
        ({"share": 0.3}, 2),  # whole lanes only
        ({"share": 0.5, "count": 3}, 3),
        ({"share": 0.5, "cpus": 4}, 2),
        ({"share": 0.5, "gpus": 0.5}, 8),
        ({"share": 0.5, "workers": 2}, 2),
    ],
)
def test_a_share_is_a_part_of_the_lanes_that_the_cluster_holds(lanes, count):
    cluster = {"CPU": 16.0, "GPU": 8.0}
    assert fit_lanes(LanesConfig(**lanes), cluster).count == count


@pytest.mark.parametrize(
    ("fewest", "fewer"), [(None, ()), (12, ()), (7, ()), (6, (6,)), (2, (6, 4, 3, 2))]
)
def test_fewer_workers_share_a_batch_as_evenly(fewest, fewer):
    assert LanesConfig(workers=12, min_workers=fewest).fewer == fewer


@pytest.mark.parametrize(("cpus", "count"), [(8, 2), (7, 1), (3, 1), (2, 1)])
def test_lanes_are_counted_with_all_their_workers_while_one_fits(cpus, count):
    shape = fit_lanes(LanesConfig(workers=4, min_workers=2), {"CPU": float(cpus)})
    assert (shape.count, shape.workers, shape.fewer) == (count, 4, (2,))


def test_lanes_that_do_not_fit_with_the_fewest_workers_are_refused():
    with pytest.raises(UserError, match=r"1 x 2 workers need 2 CPUs and 0 GPUs, it has 1 CPUs"):
        fit_lanes(LanesConfig(workers=4, min_workers=2), {"CPU": 1.0})
