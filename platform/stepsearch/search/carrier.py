"""How a trial's files come to the node that trains it, and from there to the storage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from stepsearch.bucket import Bucket, S3Url, patiently
from stepsearch.search.mirror import CACHE, CHECKPOINTS, bring_cache
from stepsearch.search.trial import Trial

_BEFORE = ".before"
"""The checkpoint before the last one is kept against a damaged file; objects are whole."""


@dataclass
class Carrier:
    """Of one worker. Where all nodes share the storage, nothing needs to be carried.

    From a bucket a trial is brought to a folder of the worker's own, and what the trainer changes
    there is saved before each report and when the trial leaves its lane. `meanwhile` is called
    again and again while the store is away. Raises Refused when the store takes no more.
    """

    storage: S3Url | None
    search: str
    worker: str = ""
    """Which of the search's workers this is: its folder's name."""
    _saved: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _there: Bucket | None = None
    _here: Path | None = None

    def bring(self, trial: Trial, meanwhile: Callable[[], object]) -> Trial:
        """The trial, to be trained on this node."""
        if self.storage is None:
            return trial
        home = self.storage.home
        here = self._here = home / ".lanes" / self.search / self.worker
        self.clear()  # of the trial before
        here.mkdir(parents=True)
        self._there = Bucket(self.storage / self.search / "trials" / f"{trial.number:03d}")
        shared, there = Bucket(self.storage / CACHE), self._there
        patiently(partial(bring_cache, shared, home / CACHE), meanwhile)
        for name in patiently(there.names, meanwhile):
            patiently(partial(there.download, name, here / name), meanwhile)
        self._saved = {path: _state(path) for path in _files(here)}
        return replace(trial, folder=here, cache=home / CACHE)

    def save(self, meanwhile: Callable[[], object]) -> None:
        """Put there what has changed since the last time."""
        if self._there is None or self._here is None:
            return
        there, here = self._there, self._here
        for path in _files(here):
            if self._saved.get(path) != (state := _state(path)):
                name = path.relative_to(here).as_posix()
                patiently(partial(there.upload, path, name), meanwhile)
                self._saved[path] = state

    def clear(self) -> None:
        """Leave nothing of a trial on this node."""
        if self._here is not None:  # a worker may have had no trial at all
            with suppress(FileNotFoundError):
                shutil.rmtree(self._here)


def _files(folder: Path) -> list[Path]:
    """The checkpoints last: what belongs to them is there when they are."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in paths if path.suffix != _BEFORE]
    return sorted(kept, key=lambda path: (path.match(CHECKPOINTS), path))


def _state(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size
