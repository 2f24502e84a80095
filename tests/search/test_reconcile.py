"""What `reconcile` finds and mends after somebody has spoilt MLflow's records of a real search."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from stepsearch.search.config import LanesConfig
from stepsearch.search.driver import launch, resume
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.search.reconcile import compare, reconcile
from stepsearch.search.result import SearchResult
from stepsearch.search.tracked import open_tracker
from stepsearch.study import RandomConfig, Study
from stepsearch.tracking.client import connect
from stepsearch.tracking.tags import OUTCOME, TRIAL
from tests.search.conftest import Small
from tests.search.test_faults import check_nothing_is_lost

pytestmark = [pytest.mark.slow]


@pytest.mark.usefixtures("ray_cluster")
def test_mlflow_is_brought_up_to_date_from_the_study_and_the_history(small: Small) -> None:
    config = small(budget={"trials": 3, "reports": 3}, trial_scheduler={"kind": "fifo"}).resolved()
    result = launch(config)
    assert reconcile(config) == []

    client = connect(config.tracking.store_uri(config.storage))
    runs = runs_of(client, result)
    client.delete_run(runs[0].info.run_id)
    client.update_run(runs[1].info.run_id, status="RUNNING")
    client.set_tag(runs[1].info.run_id, OUTCOME, "running")
    found = [str(difference) for difference in reconcile(config)]
    assert found == [
        "trial 0: MLflow had no run of it",
        "trial 1: MLflow took it for running, it is finished",
    ]
    check_nothing_is_lost(result, config.budget.milestones())
    assert reconcile(config) == []

    client.create_run(runs[2].info.experiment_id, tags=dict(runs[2].data.tags))
    [double] = reconcile(config)
    assert str(double) == "trial 2: MLflow has 2 runs of it"
    assert not double.mended


@pytest.mark.usefixtures("ray_cluster")
def test_a_resumed_search_reconciles_the_trials_that_had_ended(small: Small) -> None:
    config = small(budget={"trials": 2, "reports": 3}, trial_scheduler={"kind": "fifo"}).resolved()
    result = launch(config)
    client = connect(config.tracking.store_uri(config.storage))
    client.delete_run(runs_of(client, result)[0].info.run_id)
    resume(config.extended(3))
    check_nothing_is_lost(SearchResult.read(config), config.budget.milestones())


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_goes_on_with_another_number_of_lanes(small: Small) -> None:
    first = launch(small(budget={"trials": 1}, trial_scheduler={"kind": "fifo"}))
    fewer = first.config.model_copy(update={"lanes": LanesConfig(count=1)})
    second = resume(fewer.extended(2))
    assert (second.waiting, second.lost) == (0, 0), "MLflow has taken everything"
    client = connect(fewer.tracking.store_uri(fewer.home))
    experiments = [e.experiment_id for e in client.search_experiments()]
    [run] = client.search_runs(experiments, "tags.role = 'search'")
    assert (run.data.tags["lanes"], run.data.tags["trials"]) == ("1", "2")
    assert "lanes" not in run.data.params


def test_what_an_earlier_driver_left_for_mlflow_is_no_difference(
    small: Small, empty_database: Path
) -> None:
    config = small().resolved()
    folder = SearchFolder.create(config.home / config.name, config)
    shutil.copy(empty_database, config.home / "mlflow.db")
    history, metric = History(folder.history), config.primary.name
    with Study.create(None, "small", config.objectives, RandomConfig(), 0) as study:
        with open_tracker(config, folder, resumed=False) as tracker:
            tracker.start_search("small", {})
            for _ in range(30):
                proposal = study.ask(lambda t: {"training": {"lr": t.suggest_float("lr", 0, 1)}})
                assert proposal is not None
                number = proposal.number
                run = tracker.start_trial(number, f"{number:03d}", {})
                history.add(number, 640, {metric: 1.0})
                tracker.log(run, {metric: 1.0}, 640)
                study.tell(number, "finished", [1.0])
                tracker.end_trial(run, "finished")
            assert tracker.close(timeout=0).waiting > 30, "the driver dies"
        with open_tracker(config, folder, resumed=True) as tracker:
            records = tuple(study.trials())
            assert list(compare(config, folder, records, tracker)) == []


def runs_of(client: Any, result: SearchResult) -> dict[int, Any]:
    """MLflow's runs of the trials, by number."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    found = client.search_runs(experiments)
    return {int(run.data.tags[TRIAL]): run for run in found if TRIAL in run.data.tags}
