"""A probe: a few bytes in the storage that another node reads and answers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepsearch.bucket import Bucket, S3Url
from stepsearch.config import Place
from stepsearch.search.machine import probe_file


@contextmanager
def probing(place: Place) -> Iterator[str]:
    """A probe there for as long as the block lasts; its address is its content.

    Raises OSError, or for a bucket UserError, if it cannot be.
    """
    if not isinstance(place, S3Url):
        with probe_file(place) as path:
            yield str(path)
        return
    address = f"{place}/.stepsearch-{uuid.uuid4().hex}"
    write(address, address)
    try:
        yield address
    finally:
        remove(address)


def read(address: str) -> str | None:
    """None if there is none."""
    if not address.startswith("s3://"):
        return Path(address).read_text() if Path(address).is_file() else None
    bucket, name = _object(address)
    found = bucket.read(name)
    return found.data.decode() if found else None


def write(address: str, text: str) -> None:
    if address.startswith("s3://"):
        bucket, name = _object(address)
        bucket.write(name, text.encode())
    else:
        Path(address).write_text(text)


def remove(address: str) -> None:
    if address.startswith("s3://"):
        bucket, name = _object(address)
        bucket.remove(name)
    else:
        Path(address).unlink(missing_ok=True)


def _object(address: str) -> tuple[Bucket, str]:
    place, _, name = address.rpartition("/")
    return Bucket(S3Url(place)), name
