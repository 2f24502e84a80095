"""The folder of a search: all that is needed to resume, audit and export it."""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stepsearch.bucket import Bucket, S3Url
from stepsearch.config import Config, Place
from stepsearch.errors import UserError
from stepsearch.search.amounts import Amounts
from stepsearch.search.files import dump_yaml, read_yaml, replace, to_yaml
from stepsearch.search.ledger import Ledger
from stepsearch.search.mirror import BucketMirror, Mirror, taken


class SearchFolder:
    """The paths inside one search's folder; `mirror` knows where else its content lies.

    search.yaml    the resolved configuration        history.jsonl   every metric of every report
    study.db       the Optuna study                  trials/003/     checkpoint, pictures, config
    cache/         what the trainer prepared once    lanes/, tune/   scratch of Ray Train and Tune
    spool.jsonl    records that wait for MLflow      summary/        leaderboard, quality curves
    spent.json     hours, GPU-hours, money
    """

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self.path = path
        self.mirror = mirror or Mirror(path)
        self.config = path / "search.yaml"
        self.study = path / "study.db"
        self.history = path / "history.jsonl"
        self.spool = path / "spool.jsonl"
        self.summary = path / "summary"
        self.spent = path / "spent.json"
        self.lanes = path / "lanes"
        self.tune = path / "tune"
        self.page = path / ".mlflow-page"
        self._closed = path / ".closed"

    @property
    def cache(self) -> Path:
        """Shared by the searches of one storage: a classifier is trained once for a dataset."""
        return self.path.parent / ".cache"

    @property
    def id(self) -> str:
        """The name with a few letters that no other search has: searches may share an MLflow."""
        return (self.path / ".id").read_text()

    @property
    def is_one(self) -> bool:
        """Whether a search made this folder, and not somebody else."""
        return (self.path / ".id").exists()

    @property
    def trials(self) -> Path:
        """There once the first trial has been proposed."""
        return self.path / "trials"

    def trial(self, number: int) -> Path:
        return self.trials / f"{number:03d}"

    @classmethod
    def of(cls, storage: Place, name: str) -> SearchFolder:
        """Where a search of that name lies or would lie."""
        if isinstance(storage, S3Url):
            path = storage.home / name
            return cls(path, BucketMirror(storage, path))
        return cls(storage / name)

    @classmethod
    def create(
        cls, path: Path, config: Config, mirror: Mirror | None = None, data: str = ""
    ) -> SearchFolder:
        """Make the folder of a new search and write its configuration, or nothing at all.

        `data` is the fingerprint of its data set. Raises UserError when the name is taken or the
        storage cannot be written.
        """
        folder = cls(path, mirror)
        folder.refresh()
        if path.exists():
            raise taken(folder.mirror.place)
        text = dump_yaml(config)
        try:
            path.mkdir(parents=True)
            replace(path / ".id", f"{path.name}-{uuid.uuid4().hex[:8]}")
            replace(path / ".data", data)
            replace(folder.config, text)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(
                f"storage must be a folder that can be written, got {str(path.parent)!r}: {reason}"
            ) from None
        try:
            folder.mirror.publish()
        except BaseException:
            shutil.rmtree(path)
            raise
        return folder

    @classmethod
    def find(cls, storage: Place, name: str) -> SearchFolder:
        """The folder of an existing search. Raises UserError with the names that there are."""
        folder = cls.of(storage, name)
        folder.refresh()
        try:
            found = folder.config.exists()
        except OSError as error:  # somebody else's, or no name that a file can have
            raise UserError(
                f"search must be one that can be read, got {name!r} in {storage}: {error.strerror}"
            ) from None
        if not found:
            known = ", ".join(names(storage)) or "none yet"
            raise UserError(f"search must be one of those in {storage} ({known}), got {name!r}")
        return folder

    def read_config(self) -> dict[str, Any]:
        """The resolved configuration, as plain data. Raises UserError if the file is damaged."""
        return read_yaml(self.config)

    def check_data(self, data: str) -> None:
        """Raise UserError unless the data set's fingerprint is that of the search's beginning."""
        if not self.has_data(data):
            raise UserError(
                f"trainer.dataset must be as it was when {self.path.name!r} began, got other "
                "images, labels or another split: search it under a new name"
            )

    def has_data(self, data: str) -> bool:
        """Whether the search began with the data set of this fingerprint."""
        with suppress(FileNotFoundError):
            return (self.path / ".data").read_text() == data
        return True  # of an older version

    def extend(self, trials: int, limits: Amounts) -> bool:
        """Write down what the search may spend now: all or nothing; whether that is new.

        Nothing is lowered. What ended it is forgotten first: that there is more than before is
        not seen again by the resume after one that fails.
        """
        data = self.read_config()
        before = data["budget"]
        larger = {name: max(limit, before.get(name) or 0.0) for name, limit in limits.items()}
        now = before | larger | {"trials": max(trials, before["trials"])}
        if now == before:
            return False
        Ledger.read(self.spent).model_copy(update={"ended": None}).write(self.spent)
        replace(self.config, to_yaml(data | {"budget": now}))
        return True

    def close(self, trials: int) -> None:
        """Note that everything is there that a search leaves at its end, after so many trials."""
        replace(self._closed, str(trials))

    def is_closed(self, trials: int) -> bool:
        return self._closed.exists() and self._closed.read_text() == str(trials)

    def refresh(self) -> None:
        """Read it as it is now in the storage; the copy of a driver on this machine is that."""
        if not self.mirror.is_copy:
            return
        with suppress(_Running), self._locked_here():
            try:
                self.mirror.fetch()
            finally:
                if not self.config.exists():
                    shutil.rmtree(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the search for this process: two drivers would spoil each other's records."""
        with self._locked_here(), self.mirror.held():
            yield

    @contextmanager
    def _locked_here(self) -> Iterator[None]:
        import fcntl

        if self.mirror.is_copy:
            _make(self.path)
        file = self.path / ".lock"
        file.touch()
        with file.open("r+") as lock:  # who comes too late must not empty it
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _Running(
                    f"search {self.path.name!r} must not be running already: another driver has it"
                ) from None
            lock.write(f"{os.getpid()} {socket.gethostname()}\n")
            lock.flush()
            try:
                yield
            finally:
                lock.truncate(0)

    @property
    def owner(self) -> tuple[int, str] | None:
        """The process that holds the search, and its host; None if nobody does."""
        import fcntl

        try:
            with (self.path / ".lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, host = (self.path / ".lock").read_text().partition("\n")[0].partition(" ")
            return (int(pid), host) if host else None
        except FileNotFoundError:
            pass
        return None


def _make(copy: Path) -> None:
    try:
        copy.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            "XDG_CACHE_HOME, or else HOME, must name a folder that can be written: "
            f"{copy}: {error.strerror}"
        ) from None


class _Running(UserError):
    """Another process of this machine has the search."""


def names(storage: Place) -> list[str]:
    """The searches in a storage: in a folder oldest first, in a bucket by name."""
    if isinstance(storage, S3Url):
        bucket = Bucket(storage)
        return [name for name in bucket.folders() if bucket.read(f"{name}/search.yaml")]
    try:
        if storage.is_dir():
            os.listdir(storage)  # glob would find nothing where it may not look
    except OSError as error:
        raise UserError(
            f"storage must be a folder that can be read, got {str(storage)!r}: {error.strerror}"
        ) from None
    files = storage.glob("*/search.yaml")
    return [f.parent.name for f in sorted(files, key=lambda f: f.stat().st_mtime)]
