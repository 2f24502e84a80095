"""A folder on its way from the head of a cluster to the machine that asked for it.

Ray's job server hands out files only from the folder of its logs, so the folder lies there as one
file, for as long as the job that made it runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
import threading
import zipfile
from pathlib import Path

from stepsearch.errors import StepsearchError, UserError
from stepsearch.search.job_server import JobServer

_OFFERED_S = 3600.0
_LINE = re.compile(r"^parcel (\S+) ([0-9a-f]{64})$", re.MULTILINE)


def offer(folder: Path, logs: Path) -> None:
    """On the head: pack `folder`, say so, and keep the parcel until SIGTERM comes, or an hour."""
    fetched = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: fetched.set())
    parcel = logs / f"stepsearch-{secrets.token_hex(8)}.zip"
    try:
        with zipfile.ZipFile(parcel, "x") as packed:
            for path in sorted(folder.rglob("*")):
                packed.write(path, path.relative_to(folder))
        print(f"parcel {parcel.name} {_digest(parcel)}", flush=True)
        fetched.wait(_OFFERED_S)
    finally:
        parcel.unlink(missing_ok=True)
        signal.signal(signal.SIGTERM, before)


def is_offered(said: str) -> bool:
    """Whether a job that makes a parcel has come so far."""
    return _LINE.search(said) is not None


def fetch(server: JobServer, job: str, said: str, out: Path) -> None:
    """Bring the parcel of `job`, which has said so, into the new folder `out`: all or nothing.

    A zip file makes no links, and no file outside `out`, whatever names it holds. Raises UserError
    if `out` cannot be written, StepsearchError if the parcel comes damaged.
    """
    ((name, digest),) = _LINE.findall(said)
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    parcel = scratch.with_suffix(".zip")
    try:
        scratch.mkdir(parents=True)
        server.download(job, name, parcel)
        if _digest(parcel) != digest:
            raise StepsearchError(f"the bundle came damaged from {server.address}: ask again")
        with zipfile.ZipFile(parcel) as packed:
            packed.extractall(scratch)
        scratch.replace(out)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"folder must be writable, got {str(out)!r}: {reason}") from None
    finally:
        parcel.unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
