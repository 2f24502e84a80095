"""A search that is launched again under its name: it goes on, if it is the same search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder


def has_begun(config: SearchConfig) -> bool:
    """Whether there are trials to go on with.

    What a launch left that was killed before its first trial is removed, so that it can be
    launched anew. Raises UserError if another driver is about to begin it.
    """
    folder = SearchFolder.of(config.storage, config.name)
    folder.refresh()
    if folder.trials.exists() or not folder.is_one:
        return folder.trials.exists()
    with folder.locked():
        folder.mirror.remove()
    return False


def again(config: SearchConfig, recorded: SearchConfig) -> SearchConfig:
    """`recorded`, on the cluster and with at least the trials of `config`.

    Raises UserError, with the key, if anything else has changed: that is another search.
    """
    trials = max(config.budget.trials, recorded.budget.trials)
    expected = recorded.model_copy(update={"cluster": config.cluster}).extended(trials)
    given = config.resolved().extended(trials)
    change = next(_changes(expected.model_dump(mode="json"), given.model_dump(mode="json")), None)
    if change is not None:
        key, before, now = change
        raise UserError(
            f"{key} must stay {before!r} in search {config.name!r}, got {now!r}: "
            "a changed search needs a name of its own"
        )
    return expected


def _changes(
    before: Mapping[str, Any], now: Mapping[str, Any], where: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key in {**before, **now}:  # in the order of the file
        one, other = before.get(key), now.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _changes(one, other, f"{where}{key}.")
        elif one != other:
            yield f"{where}{key}", one, other
