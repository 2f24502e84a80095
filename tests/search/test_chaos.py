"""Twenty random kills during a search: workers, actors, Ray's own processes, the driver itself."""

from __future__ import annotations

import random
import subprocess
import time
from contextlib import suppress

import psutil
import pytest

from stepsearch.search.config import SearchConfig
from stepsearch.search.driver import launch
from stepsearch.search.result import SearchResult
from tests.search.conftest import Drive, Small
from tests.search.test_faults import check_nothing_is_lost, values_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

KILLS = 20
SEARCH = {
    "budget": {"trials": 8, "images": 2000, "reports": 6},
    "trial_scheduler": {"kind": "fifo"},
    "finalists": {"count": 1, "seeds": 2},
    "retries": 100,
}


def kill_some_of(driver: subprocess.Popen[str], chance: random.Random) -> list[str]:
    """Kill four random processes of the search, the driver among them; their names."""
    search = psutil.Process(driver.pid)
    names = []
    processes = [search, *search.children(recursive=True)]
    for victim in chance.sample(processes, min(4, len(processes))):
        with suppress(psutil.NoSuchProcess):  # it has gone with the first, or by itself
            name = " ".join(victim.cmdline()[:2])[-60:]
            victim.kill()
            names.append(name)
    return names


def wait_for_more(config: SearchConfig, driver: subprocess.Popen[str], before: int) -> int:
    """Until the search has more reports than before, or its driver is gone."""
    history = config.folder / "history.jsonl"
    while driver.poll() is None:
        if history.exists() and (now := len(history.read_text().splitlines())) > before:
            return now
        time.sleep(0.1)
    return before


def test_twenty_random_kills_change_nothing(
    small: Small, drive: Drive, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its driver waits a minute for a head that is gone; none comes back here.
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
    config = small(**SEARCH)
    chance, killed, reports = random.Random(0), [], 0
    driver = drive(config, "run", "FILE")
    while len(killed) < KILLS:
        reports = wait_for_more(config, driver, reports)
        if driver.poll() is None:
            killed += kill_some_of(driver, chance)
            time.sleep(chance.uniform(0, 1))
        if driver.poll() is not None:
            assert driver.returncode != 0, f"it ended after {killed}"
            driver = drive(config, "resume", config.name, "--storage", str(config.storage))
    driver.communicate()
    while driver.returncode != 0:
        driver = drive(config, "resume", config.name, "--storage", str(config.storage))
        driver.communicate(timeout=600)
    result = SearchResult.read(config.resolved())
    check_nothing_is_lost(result, config.budget.milestones())
    assert (result.folder.summary / "leaderboard.csv").exists()
    undisturbed = launch(small(name="undisturbed", **SEARCH))
    assert values_of(result) == values_of(undisturbed)
