"""The command that opens MLflow's page on a search's own store."""

from __future__ import annotations

import sys
from pathlib import Path

from stepsearch.errors import UserError
from stepsearch.tracking.config import TrackingConfig

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SETTINGS = (
    "MLFLOW_DISABLE_TELEMETRY=true",
    # Jobs serve language model evaluations; without them the page takes half the memory and time.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false",
)


def ui_command(
    config: TrackingConfig, storage: Path, host: str = "127.0.0.1", port: int = 5000
) -> list[str]:
    """The `mlflow server` command line for the configured store, on this machine only.

    Raises UserError if the host is not loopback, or if a server runs elsewhere already.
    """
    if config.is_server:
        raise UserError(f"tracking.uri is a server with its own page: open {config.uri}")
    if host not in LOOPBACK:
        # The page asks nobody for a password. From elsewhere, forward the port with ssh.
        raise UserError(f"host must be one of {', '.join(LOOPBACK)}, got {host!r}")
    if not 1 <= port <= 65535:
        raise UserError(f"port must be in 1..65535, got {port}")
    server = [sys.executable, "-m", "mlflow", "server"]
    store = ["--backend-store-uri", config.store_uri(storage)]
    files = ["--artifacts-destination", str(config.artifact_root(storage))]
    address = ["--host", host, "--port", str(port), "--workers", "1"]
    return ["env", *SETTINGS, *server, *store, *files, *address]
