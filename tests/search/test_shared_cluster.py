"""A search on a cluster whose CPUs others hold, and one that ends by what it may spend."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from mlflow import MlflowClient

from stepsearch.search.board import Silent
from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch, resume
from stepsearch.search.result import SearchResult

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROOT = Path(__file__).parents[2]
Small = Callable[..., SearchConfig]
WAITS = "each of the others waits for 1 CPU that others hold"


class Tenant:
    """Somebody else's CPU; Ray's own actor, so that only `ray.kill` gives it back."""

    def here(self) -> None: ...


@pytest.fixture
def tenants(ray_cluster: None) -> Any:
    """Both CPUs of the cluster are taken."""
    actors = [ray.remote(Tenant).options(num_cpus=1).remote() for _ in range(2)]  # type: ignore[attr-defined]
    ray.get([actor.here.remote() for actor in actors])
    yield actors
    for actor in actors:
        ray.kill(actor)


class Listening(Silent):
    """Hears what is said; `on` says what to do when a line begins so, once each."""

    def __init__(self, on: dict[str, Callable[[], Any]]) -> None:
        self.lines: list[str] = []
        self._on = on

    def say(self, line: str) -> None:
        self.lines.append(line)
        for begin in [begin for begin in self._on if line.startswith(begin)]:
            self._on.pop(begin)()


def test_a_search_waits_for_cpus_begins_with_the_first_and_takes_up_the_rest(
    small: Small, tenants: list[Any]
) -> None:
    first, second = (lambda actor=actor: ray.kill(actor) for actor in tenants)
    view = Listening({"0 of 2": first, "1 of 2": lambda: None, "✓": second})
    budget = {"trials": 5, "images": 3200}
    result = launch(small(budget=budget, trial_scheduler={"kind": "fifo"}), view)
    assert {record.outcome for record in result.records} == {"finished"}
    lanes = [line for line in view.lines if "lanes are there" in line]
    assert lanes[:2] == [f"{n} of 2 lanes are there, {WAITS}" for n in (0, 1)]
    assert lanes[2:] == ["2 of 2 lanes are there"]
    spent = result.ledger.spent
    assert spent["hours"] < spent["cpu_hours"] < 2 * spent["hours"], "one of the two came later"


def test_a_search_ends_although_a_lane_of_it_still_waits(small: Small, tenants: list[Any]) -> None:
    ray.kill(tenants[0])
    result = launch(small(budget={"trials": 2}, trial_scheduler={"kind": "fifo"}))
    assert [record.outcome for record in result.records] == ["finished", "finished"]
    assert not [t for t in threading.enumerate() if t.name.startswith("lane-")]


def test_two_drivers_share_a_cluster_and_neither_fails(
    small: Small, tmp_path: Path, ray_credentials: dict[str, str]
) -> None:
    """The other one wants all CPUs while this one has them."""
    file = tmp_path / "other.yaml"
    other = small(name="other", lanes={"count": None}, trial_scheduler={"kind": "fifo"})
    file.write_text(yaml.safe_dump(other.model_dump(mode="json", exclude_none=True)))
    address = ray.get_runtime_context().gcs_address
    words = [sys.executable, str(ROOT / "run_search.py"), "run", str(file)]
    started: list[subprocess.Popen[str]] = []

    def start_the_other() -> None:
        """Returns when it waits; until then this search is held up, and its lanes stay."""
        command = [*words, "--set", f"cluster={address}"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | ray_credentials,
        )
        started.append(process)
        assert process.stdout is not None
        assert any(f"0 of 2 lanes are there, {WAITS}" in line for line in process.stdout)

    mine = launch(small(trial_scheduler={"kind": "fifo"}), Listening({"✓": start_the_other}))
    said, _ = started[0].communicate(timeout=240)
    assert started[0].returncode == 0, said
    for result in (mine, SearchResult.read(other.resolved())):
        assert [record.outcome for record in result.records] == ["finished"] * 4


def test_lanes_go_to_a_search_of_a_higher_priority_and_come_back(
    small: Small, tmp_path: Path, ray_credentials: dict[str, str]
) -> None:
    """No trial is stopped for it, and this search goes on meanwhile."""
    file = tmp_path / "urgent.yaml"
    urgent = small(name="urgent", lanes={"count": 2, "priority": 1}, budget={"trials": 2})
    file.write_text(yaml.safe_dump(urgent.model_dump(mode="json", exclude_none=True)))
    words = [sys.executable, str(ROOT / "run_search.py"), "run", str(file)]
    command = [*words, "--set", f"cluster={ray.get_runtime_context().gcs_address}"]
    back, said = threading.Event(), []

    def run_the_other() -> None:
        """Then stop this one, once it has all its lanes again."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | ray_credentials,
            check=False,
        )
        said.extend(done.stdout.splitlines())
        back.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    other = threading.Thread(target=run_the_other)
    view = Listening({"✓": other.start, "2 of 2 lanes are there": back.set})
    mine = launch(small(budget={"trials": 900}, trial_scheduler={"kind": "fifo"}), view)
    other.join()
    assert mine.interrupted
    assert {record.outcome for record in mine.records} <= {"finished", None}
    assert "a search of a higher priority waits: lanes go to it as their trials end" in view.lines
    assert back.is_set()
    waits = [f"{n} of 2 lanes are there, {WAITS}" for n in (0, 1)]
    heard = [line for line in said if "lanes are there" in line]
    assert heard in (waits, waits[1:]), "this one kept its last lane, and gave the other at once"
    theirs = SearchResult.read(urgent.resolved())
    assert [record.outcome for record in theirs.records] == ["finished"] * 2


def test_a_budget_ends_the_search_and_a_larger_one_goes_on(small: Small) -> None:
    prices = {"cpu_hour": 10, "currency": "EUR"}
    first = launch(small(budget={"trials": 3, "money": 1000}, prices=prices))
    assert first.ledger.ended is None
    hours = 2.5 * first.ledger.spent["hours"]  # to start again, and for more trials than before
    result = resume(first.config.extended(500, hours=hours))
    assert result.records[:3] == first.records
    assert 3 < len(result.records) < 500
    assert {record.outcome for record in result.records} <= {"finished", "pruned"}
    ended, spent = result.ledger.ended, result.ledger.spent
    assert ended is not None
    assert ended.startswith(f"the budget of {hours:.3g} hours is ")
    assert first.ledger.spent["hours"] < spent["hours"]
    assert spent["money"] == pytest.approx(10 * spent["cpu_hours"])
    client = MlflowClient(first.config.tracking.store_uri(first.config.storage))
    experiments = [e.experiment_id for e in client.search_experiments()]
    [parent] = client.search_runs(experiments, "tags.role = 'search'")
    assert parent.data.tags["ended_by"] == ended
    assert parent.data.metrics["spent_money"] > 0
    assert resume(result.config).records == result.records, "it is only read"
