"""Where a study lies: a sqlite file inside the search's folder, or a database server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.storages import RDBStorage
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from stepsearch.errors import UserError


@contextmanager
def connect(storage: str | Path, *, new: bool) -> Iterator[RDBStorage]:
    """Open a sqlite file (a path) or a database (a URL); closed again if the block fails.

    Only with `new` may the file be made.
    """
    database = _database(_url(storage, new))
    try:
        yield database
    except BaseException:
        disconnect(database)
        raise


def disconnect(database: RDBStorage) -> None:
    """Close the connections of this process."""
    database.remove_session()
    database.engine.dispose()


def _url(storage: str | Path, new: bool) -> str:
    if "://" in str(storage):
        return str(storage)
    path = Path(storage).absolute()
    if not path.parent.is_dir():
        raise UserError(f"storage must lie in a folder that exists, got {path}")
    if not new and not path.is_file():
        raise UserError(f"storage must be the file of a study, got {path}, which does not exist")
    return URL.create("sqlite", database=str(path)).render_as_string()


def _database(url: str) -> RDBStorage:
    try:
        return RDBStorage(url)
    except ImportError:
        problem = "its driver is not installed (PostgreSQL: pip install 'psycopg[binary]')"
    except (SQLAlchemyError, RuntimeError) as error:  # RuntimeError: another Optuna's tables
        problem = str(getattr(error, "orig", None) or error).splitlines()[0]
    place = url.rpartition("@")[2].partition("?")[0]  # without user, password and options
    raise UserError(f"storage must be a database that opens, got {place}: {problem}")
