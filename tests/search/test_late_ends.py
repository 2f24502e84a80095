"""A driver that is killed at its beginning or its end: the next one makes up for it."""

from __future__ import annotations

import shutil

import pytest

from stepsearch.errors import UserError
from stepsearch.search.driver import launch, resume
from stepsearch.search.folder import SearchFolder
from stepsearch.search.ledger import Ledger
from stepsearch.search.result import SearchResult
from stepsearch.study import Study
from stepsearch.tracking.client import connect
from stepsearch.tracking.tags import TRIAL
from tests.search.conftest import Small


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_verdict_of_a_driver_that_was_killed_before_it_is_left_behind_later(
    small: Small,
) -> None:
    config = small(budget={"trials": 2, "reports": 1}, trial_scheduler={"kind": "fifo"}).resolved()
    result = launch(config)
    client = connect(config.tracking.store_uri(config.storage))
    [parent] = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
        if TRIAL not in run.data.tags
    ]
    folder = SearchFolder.find(config.storage, config.name)
    left = [folder.summary / "leaderboard.csv", folder.path / "bundle" / "README.md"]
    assert all(path.exists() for path in left)
    for path in left:
        shutil.rmtree(path.parent)
    folder.close(1)
    client.update_run(parent.info.run_id, status="RUNNING")
    assert resume(config).records == result.records
    assert all(path.exists() for path in left)
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"
    shutil.rmtree(folder.summary)
    resume(config)
    assert not folder.summary.exists(), "all was left behind: the search is only read"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_launch_that_was_killed_before_its_points_were_queued_begins_with_the_baseline(
    small: Small,
) -> None:
    config = small(budget={"trials": 2, "reports": 1}, trial_scheduler={"kind": "fifo"}).resolved()
    data = config.trainer.facts().fingerprint
    folder = SearchFolder.create(config.folder, config, None, data)
    Study.create(folder.study, config.name, config.objectives, config.optuna_sampler, 0).close()
    result = resume(config)
    assert [record.attrs["label"] for record in result.records] == ["uniform", "SpeeD (paper)"]


@pytest.mark.usefixtures("ray_cluster")
def test_more_of_a_budget_is_not_forgotten_by_a_resume_that_fails(small: Small) -> None:
    many = {"trials": 4, "hours": 1.0}
    config = small(budget=many, lanes={"count": 999}).resolved()
    folder = SearchFolder.create(config.folder, config, None, config.trainer.facts().fingerprint)
    Study.create(folder.study, config.name, config.objectives, config.optuna_sampler, 0).close()
    Ledger(ended="the budget of 1 hour is spent: 1").write(folder.spent)
    assert resume(config).ledger.ended is not None
    for _ in range(2):
        with pytest.raises(UserError, match="lanes must fit into the cluster: 999"):
            resume(config.extended(hours=8.0))
    assert SearchResult.read(config).ledger.ended is None


def test_no_resume_lowers_a_budget(small: Small) -> None:
    config = small(budget={"trials": 4, "hours": 8.0}).resolved()
    folder = SearchFolder.create(config.folder, config)
    assert not folder.extend(3, {"hours": 1.0})
    assert folder.extend(3, {"hours": 9.0, "cpu_hours": 2.0})
    budget = folder.read_config()["budget"]
    assert (budget["trials"], budget["hours"], budget["cpu_hours"]) == (4, 9.0, 2.0)
