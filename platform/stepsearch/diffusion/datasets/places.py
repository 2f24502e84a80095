"""Where pictures lie: a path, or an address whose files each machine copies once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from stepsearch.bucket import Bucket, S3Url
from stepsearch.config import path_or
from stepsearch.errors import UserError

log = logging.getLogger("stepsearch.datasets")

SCHEMES = ("s3", "gs", "az", "abfs", "hf", "https", "http")
_FIELD = "dataset.path"
_TAGS = (
    "ETag",
    "etag",
    "md5",
    "sha256",
    "oid",
    "blob_id",
    "mtime",
    "LastModified",
    "last_modified",
    "Last-Modified",
)
"""How stores name what changes with a file's content."""
_ADDRESS = re.compile(r"[a-z0-9]+://[^\s:@/?#]+(:\d+)?(/[^\s?#]*)?")


class Address(str):
    """`scheme://...`, checked and without a slash at its end; never with credentials."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises ValueError, which shows no more of a wrong address than its scheme."""
        scheme = text.partition("://")[0]
        if scheme not in SCHEMES or not _ADDRESS.fullmatch(text):
            raise ValueError(
                f"path must be a path or an address ({', '.join(SCHEMES)}) without credentials "
                f"and query, got '{scheme[:20]}://...'"
            )
        if scheme == "s3":
            S3Url.parse(text, "path")
        return cls(text.rstrip("/"))


if TYPE_CHECKING:
    Place = Path | Address
else:
    Place = path_or(Address.parse)


Listing = Mapping[str, tuple[int, str]]
"""Files by name relative to an address, which itself is the empty name: how many bytes, and what
tells one content from another."""


class Remote(NamedTuple):
    """What lies at an address."""

    listing: Listing
    copy: Callable[[str, Path], None]


def fetched(place: Path | Address) -> Path:
    """The place on this machine: a path itself, or a copy of what lies at an address.

    Only files that have changed are copied again, and an interrupted copy goes on; processes that
    ask at once copy once. Raises UserError if the address cannot be read.
    """
    if not isinstance(place, Address):
        return place
    from filelock import FileLock

    home = _home(place)
    remote = _s3(place) if place.startswith("s3://") else _others(place)
    if not remote.listing:
        raise UserError(f"dataset.path must exist, got {str(place)!r}")
    target = home / PurePosixPath(place).name
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            _follow(remote, target, home / "copied.jsonl", place)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"dataset.path must be copied to {home}, which fails: {reason}") from None
    return target


def cache() -> Path:
    """The folder for what a machine keeps of data sets; it can be deleted."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "stepsearch"


def _home(place: Address) -> Path:
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    digest = hashlib.sha256(f"{server} {place}".encode()).hexdigest()[:12]
    return cache() / "copied" / digest


def _follow(remote: Remote, target: Path, record: Path, place: Address) -> None:
    """Make `target` what the address is now; each file that is there has a line in `record`."""
    known = _copied(record)
    wanted = [file for file, entry in remote.listing.items() if known.get(file) != entry]
    gone = known.keys() - remote.listing.keys()
    if not wanted and not gone:
        return
    for file in gone:
        _inside(target, file).unlink(missing_ok=True)
    _write(record, {file: known[file] for file in known.keys() - gone - set(wanted)})
    size = sum(remote.listing[file][0] for file in wanted)
    log.info("copying %d files, %.1f MB, from %s", len(wanted), size / 1e6, place)
    with record.open("a") as lines:
        for file in wanted:
            remote.copy(file, _inside(target, file))
            lines.write(_line(file, remote.listing[file]))


def _copied(record: Path) -> Listing:
    known: dict[str, tuple[int, str]] = {}
    for line in record.read_text().splitlines() if record.exists() else ():
        with suppress(ValueError):  # the last line of a copy that was cut off
            file, size, tag = json.loads(line)
            known[file] = size, tag
    return known


def _write(record: Path, files: Listing) -> None:
    part = record.with_suffix(".part")
    part.write_text("".join(_line(file, entry) for file, entry in files.items()))
    part.replace(record)


def _line(file: str, entry: tuple[int, str]) -> str:
    return json.dumps([file, *entry]) + "\n"


def _inside(target: Path, file: str) -> Path:
    """Where a file goes."""
    parts = PurePosixPath(file).parts
    if ".." in parts or file.startswith("/"):
        raise UserError(f"dataset.path must hold files that stay inside it, got {file!r}")
    return target.joinpath(*parts)


def _s3(place: Address) -> Remote:
    url = S3Url.parse(place, _FIELD)
    if not url.prefix:
        bucket = Bucket(url, _FIELD)
        whole = bucket.listing()
        return Remote({n: e for n, e in whole.items() if not n.endswith("/")}, bucket.download)
    bucket, last = Bucket(url.parent, _FIELD), url.rpartition("/")[2]
    below = f"{last}/"
    listed = {name: e for name, e in bucket.listing(last).items() if not name.endswith("/")}
    found = {n: e for n, e in listed.items() if n == last or n.startswith(below)}
    listing = {name.removeprefix(last).lstrip("/"): entry for name, entry in found.items()}
    return Remote(
        listing, lambda file, to: bucket.download(f"{below}{file}" if file else last, to)
    )


def _others(place: Address) -> Remote:
    """By fsspec, which has each store's own way to find credentials."""
    from fsspec.core import url_to_fs

    with _explained(place):
        files, root = url_to_fs(str(place))
        listed = files.find(root, detail=True) or {root: None}  # whose info says why
        found = {path: info or files.info(path) for path, info in listed.items()}
    start = len(root.rstrip("/"))
    names = {path[start:].lstrip("/"): path for path in found}

    def copy(file: str, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(f".{to.name}.part")
        with _explained(place):
            files.get_file(names[file], str(part))
        part.replace(to)

    files_only = {n: path for n, path in names.items() if not n.endswith("/")}
    return Remote({name: _entry(found[path]) for name, path in files_only.items()}, copy)


def _entry(info: Mapping[str, Any]) -> tuple[int, str]:
    tag = next((str(info[key]) for key in _TAGS if info.get(key)), "")
    return int(info.get("size") or 0), tag


@contextmanager
def _explained(place: Address) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"dataset.path needs another package, got {str(place)!r}: {error}"
        ) from None
    except Exception as error:  # each store has errors of its own
        reason = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"dataset.path must be an address that can be read, got {str(place)!r}: {reason}"
        ) from None
