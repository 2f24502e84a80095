"""The one door to boto3: the objects below one address of an S3-compatible store.

Credentials, region and endpoint come from the environment or AWS's own files, never from a search
file. An object is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from stepsearch.errors import UserError

log = logging.getLogger("stepsearch.storage")
T = TypeVar("T")

_ADDRESS = re.compile(
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[A-Za-z0-9_][A-Za-z0-9._=+-]*)*)/?"
)
_REFUSED_CONDITION = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_MISSING = {"NoSuchKey", "404"}
_BUSY = {"SlowDown", "RequestTimeout", "Throttling"}
_LONGEST_PAUSE_S = 15.0


class Refused(UserError):
    """The store answered, and will say the same next time: no such bucket, no right to it."""


class Away(UserError):
    """The store gave no answer, or was too busy for one; later it may."""


class S3Url(str):
    """`s3://bucket/prefix`, checked and without a slash at its end."""

    @classmethod
    def parse(cls, text: str, field: str = "storage") -> S3Url:
        """Raises ValueError, which shows no more of a wrong address than its scheme."""
        match = _ADDRESS.fullmatch(text)
        if match is None:
            scheme = text.partition("://")[0]
            raise ValueError(
                f"{field} must be a folder or s3://bucket/prefix, without credentials "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws hold them; "
                f"AWS_ENDPOINT_URL names another server than Amazon's), got '{scheme[:20]}://...'"
            )
        return cls(f"s3://{match[1]}{match[2]}")

    @property
    def bucket(self) -> str:
        return self.split("/")[2]

    @property
    def prefix(self) -> str:
        """Empty, or with a slash at its end."""
        path = "/".join(self.split("/")[3:])
        return f"{path}/" if path else ""

    @property
    def parent(self) -> S3Url:
        """Without the last part of the prefix."""
        return S3Url(self.rpartition("/")[0])

    def __truediv__(self, name: str) -> S3Url:
        return S3Url(f"{self}/{name}")

    @property
    def home(self) -> Path:
        """The folder of this machine where one works with what lies there; it can be deleted."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        whole = f"{os.environ.get('AWS_ENDPOINT_URL_S3') or os.environ.get('AWS_ENDPOINT_URL')}"
        digest = hashlib.sha256(f"{whole} {self}".encode()).hexdigest()
        return cache / "stepsearch" / f"{self.bucket}-{digest[:12]}"


@dataclass(frozen=True)
class Stored:
    """An object that was read."""

    data: bytes
    tag: str
    age_s: float
    """By the store's own clock."""


class Bucket:
    """The objects below an address, by names relative to it.

    Every method raises Refused, or Away after a few attempts; the line begins with `field`, where
    the address was given. Thread-safe.
    """

    def __init__(self, url: S3Url, field: str = "storage") -> None:
        self.url, self.field = url, field

    @property
    def _client(self) -> Any:
        settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        return _connected(os.getpid(), tuple(sorted(settings.items())))

    def read(self, name: str) -> Stored | None:
        """An object; None if there is none."""
        from email.utils import parsedate_to_datetime

        with self._explained(_MISSING):
            found = self._client.get_object(**self._object(name))
            now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
            age = (now - found["LastModified"]).total_seconds()
            return Stored(found["Body"].read(), found["ETag"], age)
        return None

    def write(self, name: str, data: bytes, *, instead_of: str | None = None) -> str:
        """Write an object; its tag. With `instead_of`, only in the place of the object with that
        tag, or, for an empty one, of none: else nothing is written and the answer is empty.

        A server that ignores conditions writes in any case.
        """
        condition = {}
        if instead_of is not None:
            condition = {"IfMatch": instead_of} if instead_of else {"IfNoneMatch": "*"}
        place = self._object(name)
        with self._explained(_REFUSED_CONDITION | (_MISSING if instead_of else set())):
            return str(self._client.put_object(**place, Body=data, **condition)["ETag"])
        return ""

    def upload(self, path: Path, name: str) -> None:
        with self._explained(), path.open("rb") as file:
            self._client.upload_fileobj(file, self.url.bucket, self.url.prefix + name)

    def download(self, name: str, path: Path) -> None:
        """Write an object to a file, all of it or nothing; an object that is gone leaves none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with self._explained(_MISSING):
                with part.open("wb") as file:
                    self._client.download_fileobj(self.url.bucket, self.url.prefix + name, file)
                part.replace(path)
        finally:
            with suppress(OSError):
                part.unlink()

    def names(self, folder: str = "") -> dict[str, int]:
        """The names that begin so, and how many bytes each has."""
        return {name: size for name, (size, _) in self.listing(folder).items()}

    def listing(self, folder: str = "") -> dict[str, tuple[int, str]]:
        """The names that begin so, each with its bytes and the tag of its content."""
        start = len(self.url.prefix)
        objects = [o for page in self._pages(folder) for o in page.get("Contents", ())]
        return {o["Key"][start:]: (o["Size"], o["ETag"]) for o in objects}

    def folders(self) -> list[str]:
        """The first parts of all names that have several."""
        start = len(self.url.prefix)
        pages = self._pages("", Delimiter="/")
        return [p["Prefix"][start:-1] for page in pages for p in page.get("CommonPrefixes", ())]

    def remove(self, folder: str) -> None:
        """All objects whose names begin so."""
        for name in self.names(folder):
            with self._explained(_MISSING):
                self._client.delete_object(**self._object(name))

    def _pages(self, folder: str, **options: Any) -> list[dict[str, Any]]:
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.url.bucket, Prefix=self.url.prefix + folder, **options
            )
            return list(pages)

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.url.bucket, "Key": self.url.prefix + name}

    @contextmanager
    def _explained(self, expected: set[str] | frozenset[str] = frozenset()) -> Iterator[None]:
        """Turn boto3's errors into ours; those of `expected` just end the block."""
        try:
            from botocore import exceptions as boto
        except ImportError:
            raise Refused(
                f"{self.field} must have boto3, got {str(self.url)!r}: pip install boto3"
            ) from None
        gone = (
            boto.ConnectionError,
            boto.HTTPClientError,
            boto.IncompleteReadError,
            boto.ResponseStreamingError,
            boto.CredentialRetrievalError,
        )
        try:
            yield
        except boto.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in expected:
                return
            raise self._problem(code, status) from None
        except gone as error:
            raise self._away(type(error).__name__) from None
        except (boto.BotoCoreError, ValueError) as error:  # ValueError: a wrong endpoint
            if isinstance(error, UserError):
                raise
            reason = re.sub(r"://[^/@\s]*@", "://***@", str(error)).splitlines()[0]
            raise Refused(
                f"{self.field} must be a bucket that can be asked, got {str(self.url)!r}: {reason}"
            ) from None

    def _problem(self, code: str, status: int) -> UserError:
        if code == "NotImplemented":
            return Refused(
                f"{self.field} must be a bucket whose server knows conditional writes, "
                f"got {str(self.url)!r}"
            )
        if status >= 500 or status == 429 or code in _BUSY:
            return self._away(code or str(status))
        if code == "NoSuchBucket":
            return Refused(f"{self.field} must be a bucket that exists, got {str(self.url)!r}")
        return Refused(
            f"{self.field} must be a bucket that you may read and write, got {str(self.url)!r}: "
            f"{code or status}"
        )

    def _away(self, reason: str) -> Away:
        named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        server = re.sub(r"://[^/@\s]*@", "://***@", named) or "Amazon S3"
        return Away(
            f"{self.field} must be a bucket whose server answers, got {str(self.url)!r} at "
            f"{server}: {reason}"
        )


@lru_cache(maxsize=1)
def _connected(pid: int, settings: tuple[tuple[str, str], ...]) -> Any:
    """boto3's client, thread-safe and slow to make: one a process, while its settings stay."""
    import boto3
    from botocore.config import Config

    options = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard"})
    return boto3.session.Session().client("s3", config=options)


def patiently(act: Callable[[], T], meanwhile: Callable[[], object] = lambda: None) -> T:
    """Do it again until the store is there; `meanwhile` is called before each further attempt."""
    pause = 0.5
    while True:
        try:
            return act()
        except Away as error:
            if pause == 0.5:
                log.warning("waiting: %s", error)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
        meanwhile()
