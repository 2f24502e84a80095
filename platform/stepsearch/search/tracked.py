"""The MLflow record of a search: opened from its configuration, delivered, closed."""

from __future__ import annotations

from dataclasses import replace

from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.search.result import SearchResult
from stepsearch.tracking import Tracker


def deliver(result: SearchResult) -> SearchResult:
    """Send what waits for MLflow."""
    return closed(open_tracker(result.config, result.folder, resumed=True), result)


def closed(tracker: Tracker, result: SearchResult) -> SearchResult:
    unsent = tracker.close()
    return replace(result, waiting=unsent.waiting, lost=unsent.lost)


def open_tracker(config: SearchConfig, folder: SearchFolder, *, resumed: bool) -> Tracker:
    return Tracker.open(
        config.tracking,
        config.home,
        spool=folder.spool,
        resumed=resumed,
        search_id=folder.id,
        family=config.space.kind,
        metric=config.primary.name,
        direction=config.primary.direction,
        params=tuple(config.space.fixed(config.trainer.facts())[0].params),
    )
