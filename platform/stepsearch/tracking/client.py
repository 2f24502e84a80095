"""Opens MLflow late and quietly, and says in one line what is wrong with it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stepsearch.errors import UserError
from stepsearch.tracking.config import hide_password

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
PATIENCE = {
    # The writer thread retries by itself, in order; MLflow's own retries would hide an outage.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "10",
}

# Answers that stay the same however often a record is sent.
FINAL_CODES = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
FINAL_HTTP_STATUS = {400, 413}
# What MLflow says of most errors of its database: a value it cannot hold, but a restart as well.
DOUBTFUL_CODE = "BAD_REQUEST"
# Answers that only a person can change.
REFUSING_CODES = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn whatever goes wrong with MLflow inside the block into a one-line UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"tracking.uri must answer, got {hide_password(uri)!r}: {reason(error)}"
        ) from None


def load() -> Any:
    """Import MLflow, which takes a second or two."""
    for name, value in (QUIET | PATIENCE).items():
        os.environ.setdefault(name, value)
    import mlflow

    _hush()
    return mlflow


def connect(uri: str) -> Any:
    """An MlflowClient of `uri`, known to answer; creates a sqlite file and its tables once."""
    mlflow = load()
    _ping_database(uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)
    return client


def _ping_database(uri: str) -> None:
    """Ask a database server once; MLflow would ask ten times in two minutes."""
    if uri.startswith(("sqlite", "http", "databricks")):
        return
    from sqlalchemy import create_engine, pool

    create_engine(uri, poolclass=pool.NullPool).connect().close()


def _hush() -> None:
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow 3.17 with SQLAlchemy 2.1; fatal where warnings are errors.
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
    # It prints the traceback of each database error and raises it as well; raising is enough.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def reason(error: BaseException) -> str:
    """The first cause of an error, in one short line."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first_line = str(error).strip().partition("\n")[0]
    return hide_password(first_line)[:200] or type(error).__name__


def is_final(error: Exception) -> bool:
    """Whether sending the same record again cannot help."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in FINAL_CODES
    response = getattr(error, "response", None)
    if response is not None:
        return getattr(response, "status_code", None) in FINAL_HTTP_STATUS
    return isinstance(error, FileNotFoundError | TypeError | ValueError | LookupError)


def is_doubtful(error: Exception) -> bool:
    """Whether it takes several such answers to be sure that the record is at fault."""
    return getattr(error, "error_code", None) == DOUBTFUL_CODE


def is_away(error: Exception) -> bool:
    """Whether MLflow may come back by itself; a wrong password needs a person."""
    code = getattr(error, "error_code", None)
    return not isinstance(error, UserError | ImportError) and code not in REFUSING_CODES
