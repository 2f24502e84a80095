"""Where a search is recorded: one absolute MLflow URI, by default a sqlite file in the storage."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from stepsearch.config import Config

_SECRETS = "password|passwd|pwd|sslpassword|token|secret"
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")


class TrackingConfig(Config):
    """The MLflow server or database that keeps the runs."""

    uri: str | None = Field(
        default=None,
        description="MLflow tracking URI: http(s)://host:port, sqlite:////absolute/path.db, "
        "postgresql://...; by default sqlite in <storage>/mlflow.db",
    )
    experiment: str | None = Field(
        default=None,
        min_length=1,
        max_length=500,
        description="MLflow experiment; by default stepsearch/<kind of the search space>",
    )

    @field_validator("uri")
    @classmethod
    def _must_be_absolute(cls, uri: str | None) -> str | None:
        if uri is None or uri == "databricks":
            return uri
        scheme, separator, rest = uri.partition("://")
        if not separator or scheme.partition("+")[0] not in SCHEMES:
            # MLflow 3.13 and later refuse a plain folder (./mlruns, file:...).
            raise ValueError(
                f"tracking.uri must start with one of {', '.join(SCHEMES)} and ://, "
                f"got {hide_password(uri)!r}"
            )
        if _has_secret(uri):
            raise ValueError(
                f"tracking.uri must hold no password, got {hide_password(uri)!r}: {_way(scheme)}"
            )
        if scheme == "sqlite" and not rest.startswith("//"):
            raise ValueError(
                f"tracking.uri must hold an absolute path (sqlite:////folder/mlflow.db), "
                f"got {uri!r}"
            )
        return uri

    def store_uri(self, storage: Path) -> str:
        """The URI to open: the configured one, or the sqlite file of the storage folder."""
        return self.uri or f"sqlite:///{storage.resolve() / 'mlflow.db'}"

    def artifact_root(self, storage: Path) -> Path | None:
        """The folder for artifacts, or None where a server keeps them."""
        return None if self.is_server else storage.resolve() / "mlartifacts"

    @property
    def is_server(self) -> bool:
        """Whether a server answers at the URI, which then has its own page and artifacts."""
        return (self.uri or "").startswith(("http", "databricks"))


def hide_password(text: str) -> str:
    """The text with each URI's password, if it has one, replaced by stars.

    A server takes no user's name alone: what stands before its @ is a token.
    """
    text = re.sub(r"(https?://)[^/@\s]*@", r"\1***@", text)
    text = re.sub(r"(://[^:/@\s]*):[^\s]*@", r"\1:***@", text)
    return re.sub(rf"([?&](?:{_SECRETS})=)[^&\s]*", r"\1***", text, flags=re.IGNORECASE)


def _has_secret(uri: str) -> bool:
    return hide_password(uri) != uri


def _way(scheme: str) -> str:
    """Where the password goes instead."""
    if scheme.startswith("http"):
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if scheme.startswith("postgresql"):
        return "set PGPASSWORD, or write it to ~/.pgpass"
    return "write it to a file of the database's client, e.g. ?read_default_file=/root/.my.cnf"
