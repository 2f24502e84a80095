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
OF_ANYTHING = 4
"""Every fourth kill is of any process: that of Ray's own ones, or of the driver, ends the driver."""
SEARCH = {
    "budget": {"trials": 8, "images": 4000, "reports": 6},
    "trial_scheduler": {"kind": "fifo"},
    "retries": 100,
}


def kill_one_of(driver: subprocess.Popen[str], chance: random.Random, *, any_at_all: bool) -> str:
    """Kill a random actor of the search, or any process of it, the driver among them; its name."""
    search = psutil.Process(driver.pid)
    with suppress(psutil.Error):  # one has just gone by itself
        of_ray = search.children(recursive=True)
        actors = [p for p in of_ray if p.cmdline() and p.cmdline()[0].startswith("ray::")]
        victim = chance.choice([search, *of_ray] if any_at_all else actors or [search])
        name = " ".join(victim.cmdline()[:2])[-60:]
        victim.kill()
        return name
    return ""


def wait_for_more(config: SearchConfig, driver: subprocess.Popen[str], before: int) -> int:
    """Until the search has more reports than before, or its driver is gone."""
    history = config.folder / "history.jsonl"
    while driver.poll() is None:
        if history.exists() and (now := len(history.read_text().splitlines())) > before:
            return now
        time.sleep(0.1)
    return before


def test_twenty_random_kills_change_nothing(small: Small, drive: Drive) -> None:
    config = small(**SEARCH)
    chance, killed, reports = random.Random(0), [], 0
    driver = drive(config, "run", "FILE")
    while len(killed) < KILLS:
        reports = wait_for_more(config, driver, reports)
        if driver.poll() is None:
            any_at_all = len(killed) % OF_ANYTHING == 0
            if name := kill_one_of(driver, chance, any_at_all=any_at_all):
                killed.append(name)
            time.sleep(chance.uniform(0, 2))
        if driver.poll() is not None:
            assert driver.returncode != 0, f"it ended after {killed}"
            driver = drive(config, "resume", config.name, "--storage", str(config.storage))
    driver.communicate()
    while driver.returncode != 0:
        driver = drive(config, "resume", config.name, "--storage", str(config.storage))
        driver.communicate(timeout=600)
    result = SearchResult.read(config.resolved())
    check_nothing_is_lost(result, config.budget.milestones())
    undisturbed = launch(small(name="undisturbed", **SEARCH))
    assert values_of(result) == values_of(undisturbed)
