"""Where a study lies: a sqlite file, a database server, or nowhere but in this process."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage

from stepsearch.errors import StepsearchError, UserError

LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay"}


@contextmanager
def connect(storage: str | Path | None, *, new: bool) -> Iterator[BaseStorage]:
    """Open a sqlite file (a path), a database (a URL) or, for None, memory of this process.

    It is closed again if the block fails. Only with `new` may the file be made.
    """
    database = _opened(storage, new)
    try:
        yield database
    except BaseException:
        disconnect(database)
        raise


@contextmanager
def readable(study: str) -> Iterator[None]:
    """Turn whatever a damaged storage makes Optuna raise in the block into a UserError."""
    try:
        yield
    except StepsearchError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).splitlines() or [type(cause).__name__]
        raise UserError(f"study {study!r} must be one that can be read: {reason[0]}") from error


def snapshot(file: Path) -> bytes:
    """A study's file as it is now, what lies in its log included; others may be writing it."""
    with closing(sqlite3.connect(file)) as study, closing(sqlite3.connect(":memory:")) as copy:
        study.backup(copy)
        return copy.serialize()


def disconnect(database: BaseStorage) -> None:
    """Close the connections of this process."""
    database.remove_session()
    if isinstance(database, RDBStorage):
        database.engine.dispose()


def _opened(storage: str | Path | None, new: bool) -> BaseStorage:
    if storage is None:
        return InMemoryStorage()
    return _database(str(storage)) if "://" in str(storage) else _file(Path(storage), new)


def _file(path: Path, new: bool) -> RDBStorage:
    from sqlalchemy.engine import URL  # slow to import; a process without a study does without

    path = path.absolute()
    if not path.parent.is_dir():
        raise UserError(f"storage must lie in a folder that exists, got {path}")
    if not new:
        check_there(path)
    url = URL.create("sqlite", database=str(path)).render_as_string()
    return _database(url, creator=partial(open_file, path))


def check_there(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"storage must be the file of a study, got {path}, which does not exist")


def open_file(path: Path) -> sqlite3.Connection:
    """A connection that waits for others' locks."""
    connection = sqlite3.connect(path, timeout=30, check_same_thread=False)
    if _is_local(path.parent):
        # A commit need not wait for the disk, and readers do not lock the driver out. What a
        # killed process wrote stays; a power cut may cost the last trials, not the file. Not on a
        # network's file system, where the hosts would not share the log's index.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """The same where one may only read: in somebody else's folder, on a disk mounted so."""
    with suppress(sqlite3.OperationalError):
        return open_file(path)
    # A study that nobody has open has no log, whose index cannot be made here.
    log = path.with_name(f"{path.name}-wal")
    how = "mode=ro" if log.exists() else "immutable=1"
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, timeout=30)


def _is_local(folder: Path) -> bool:
    """Whether `folder` lies on a disk of this machine; False where Linux is not asked."""
    mounts = Path("/proc/self/mounts")
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    places = {  # spaces are written as \040
        line.split()[1].encode().decode("unicode_escape"): line.split()[2] for line in lines
    }
    above = [place for place in places if folder.resolve().is_relative_to(place)]
    return bool(above) and places[max(above, key=len)] in LOCAL_FILE_SYSTEMS


def _database(url: str, **options: Any) -> RDBStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return RDBStorage(url, engine_kwargs=options)
    except ImportError:
        problem = "its driver is not installed (PostgreSQL: pip install 'psycopg[binary]')"
    except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: another Optuna's tables
        problem = str(getattr(error, "orig", None) or error).splitlines()[0]
    place = url.rpartition("@")[2].partition("?")[0]  # without user, password and options
    raise UserError(f"storage must be a database that opens, got {place}: {problem}")
