"""Whole searches on a real Ray cluster: what is trained, what is recorded, what is left behind."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import pytest
import ray
from mlflow import MlflowClient

from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch, resume
from stepsearch.search.result import SearchResult
from stepsearch.study import StoredStudy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

Small = Callable[..., SearchConfig]


def runs(config: SearchConfig) -> dict[str, dict[str, str]]:
    """The MLflow runs of a search: trial number (or "search") -> status, outcome, parent."""
    client = MlflowClient(config.tracking.store_uri(config.storage))
    experiments = [e.experiment_id for e in client.search_experiments()]
    found = {}
    for run in client.search_runs(experiments):
        tags = run.data.tags
        if not tags["stepsearch.search"].startswith(f"{config.name}-"):
            continue
        key = tags.get("stepsearch.trial", "search")
        assert key not in found, f"two runs of {key}"
        found[key] = {
            "status": run.info.status,
            "outcome": tags["outcome"],
            "parent": tags.get("mlflow.parentRunId", ""),
        }
    return found


def all_cpus_are_free() -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if ray.available_resources().get("CPU") == 2:
            return True
        time.sleep(0.2)
    return False


STATUS = {"finished": "FINISHED", "pruned": "KILLED", "diverged": "FAILED", "error": "FAILED"}


def check_records_agree(result: SearchResult) -> None:
    """Optuna, MLflow and the history on disk tell the same of every trial, once."""
    found = runs(result.config)
    assert len(found) == len(result.records) + 1
    milestones = result.config.budget.milestones()
    for record in result.records:
        run = found[str(record.number)]
        assert record.outcome is not None
        assert run["status"] == STATUS[record.outcome]
        assert run["outcome"] == record.outcome
        curve = result.history.curve(record.number, result.config.primary.name)
        assert curve == record.intermediate
        if record.outcome == "finished":
            assert tuple(curve) == milestones


def test_a_search_trains_its_trials_and_every_record_agrees(small: Small) -> None:
    result = launch(small(trial_scheduler={"kind": "fifo"}, finalists={"count": 1, "seeds": 2}))
    roles = [record.attrs.get("role", "proposal") for record in result.records]
    assert roles == ["baseline", "paper", "proposal", "proposal", "repeat", "repeat"]
    assert {record.outcome for record in result.records} == {"finished"}
    check_records_agree(result)
    board = result.leaderboard
    assert board.baseline is not None
    assert board.winner is not None
    assert len(board.baseline.values) == 2
    assert len(board.winner.values) == 2
    assert all_cpus_are_free()
    assert resume(result.config).records == result.records, "there was nothing left to do"


def test_a_finished_search_can_be_given_more_trials(small: Small) -> None:
    first = launch(small(finalists={"count": 1, "seeds": 2}, budget={"trials": 3}))
    result = resume(first.config.extended(5))
    assert result.records[: len(first.records)] == first.records
    roles = [record.attrs.get("role", "proposal") for record in result.records[3:]]
    assert roles.count("proposal") == 2
    assert set(roles) == {"proposal", "repeat"}
    assert result.folder.read_config()["budget"]["trials"] == 5
    check_records_agree(result)


def test_early_stopped_trials_leave_nothing_behind(small: Small) -> None:
    """Six or more trials are pruned; the placement groups of nested Train runs leaked here."""
    result = launch(small(budget={"trials": 14}, trial_scheduler={"reduction": 4}))
    outcomes = [record.outcome for record in result.records]
    assert outcomes.count("pruned") >= 6
    assert outcomes[:2] == ["finished", "finished"], "fixed points are never stopped early"
    check_records_agree(result)
    assert all_cpus_are_free()


def test_two_workers_a_lane_train_one_trial_together(small: Small) -> None:
    config = small(budget={"trials": 2}, lanes={"count": 1, "workers": 2})
    result = launch(config)
    alone = launch(small(name="alone", budget={"trials": 2}, lanes={"count": 1}))
    check_records_agree(result)
    for record, other in zip(result.records, alone.records, strict=True):
        together = result.history.last(record.number)["train_loss"]
        assert math.isclose(together, alone.history.last(other.number)["train_loss"], rel_tol=1e-3)


def test_trials_that_diverge_are_recorded_as_such(small: Small) -> None:
    result = launch(small({"training": {"lr": 1e30, "warmup_steps": 0}}, budget={"trials": 2}))
    assert [record.outcome for record in result.records] == ["diverged", "diverged"]
    assert result.records[0].reason is not None
    assert result.winner is None
    check_records_agree(result)


def test_a_trial_that_raises_is_tried_again_and_then_is_an_error(small: Small) -> None:
    config = small(budget={"trials": 2}, retries=1)
    blocked = config.folder / "trials" / "001" / "checkpoint.pt"

    class Blocking:
        """Puts a folder where trial 1 wants to write its checkpoint."""

        def show(self, board: object) -> None:
            blocked.mkdir(parents=True)

        def say(self, line: str) -> None: ...

        def close(self) -> None: ...

    result = launch(config, Blocking())
    assert [record.outcome for record in result.records] == ["finished", "error"]
    assert "checkpoint" in (result.records[1].reason or "")
    check_records_agree(result)
    assert all_cpus_are_free()


def test_a_warm_start_learns_from_an_earlier_search_or_tries_its_points_again(
    small: Small,
) -> None:
    first = launch(small(name="first", trial_scheduler={"kind": "fifo"}, budget={"trials": 3}))
    second = launch(small(name="second", warm_start="first", budget={"trials": 2}))
    assert [record.number for record in first.records] == [0, 1, 2]
    assert len(second.records) == 2, "copies are not trials of this search"
    with StoredStudy.open(second.folder.study, "second") as study:
        sources = [record.attrs["source"] for record in study.warm_started()]
    assert sources == ["first/0", "first/1", "first/2"]
    check_records_agree(second)
    cosine = {"noise": {"schedule": "cosine"}}
    third = launch(small(cosine, name="third", warm_start="first", budget={"trials": 4}))
    roles = [record.attrs.get("role") for record in third.records]
    assert roles == ["baseline", "paper", "carried", None]
    assert third.records[2].outcome == "finished", "others are compared with it: it is not stopped"
    assert third.ranks is not None
    assert third.ranks.pairs == 2
    check_records_agree(third)
    with pytest.raises(UserError, match=r"search must be one of .*\(first, second, third\)"):
        launch(small(name="fourth", warm_start="nothing"))
    assert not (second.config.storage / "fourth").exists()


def test_several_objectives_with_early_stopping_on_the_first(small: Small) -> None:
    objectives = [{"name": "fd_digits"}, {"name": "recall", "direction": "maximize"}]
    result = launch(small(objectives=objectives, budget={"trials": 5}))
    finished = [record for record in result.records if record.outcome == "finished"]
    assert finished
    assert all(record.values is not None and len(record.values) == 2 for record in finished)
    check_records_agree(result)


def test_more_than_the_cluster_has_is_refused_before_anything_starts(small: Small) -> None:
    config = small(lanes={"count": 3})
    with pytest.raises(UserError, match=r"3 x 1 workers need 3 CPUs .* it has 2 CPUs"):
        launch(config)
    assert not config.folder.exists()
    assert runs(config) == {}
