"""A search's folder and its storage: the same, or a working copy here and a bucket's objects.

In the bucket lie, below the search's name,

    state.zip      study, history, spending, what waits for MLflow: as they were at one moment
    search.yaml    the configuration
    trials/003/    checkpoint, losses, pictures, as the lanes and the driver put them there
    summary/       leaderboard and quality curves; bundle/, the winner
    lock.json      who runs it

and `.cache/` beside the searches. The bucket is the truth: a copy is brought to what it says
before it is read or gone on from. The state goes there before a trial begins, before a trial goes
on after a report, and after its end; so no checkpoint knows of a report that the state lacks.
"""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stepsearch.bucket import Bucket, S3Url, patiently
from stepsearch.config import Place
from stepsearch.errors import StepsearchError, UserError
from stepsearch.search.lease import Lease
from stepsearch.study import snapshot

CHECKPOINTS = "*.pt"
"""Large; nobody but a lane that goes on and `export` has a use for them."""
CACHE = ".cache"
STATE, CONFIG = "state.zip", "search.yaml"
_RECORDS = (
    ".id",
    ".data",
    CONFIG,
    "spool.jsonl",
    "history.jsonl",
    "spent.json",
    ".mlflow-page",
    ".closed",
)
_STUDY, _TRIALS, _LOCK = "study.db", "trials", ".lock"
_ENDS = ("summary", "bundle")


class Mirror:
    """Of a search whose folder is its storage: nothing needs to be done."""

    place: Place
    """Where everything is, for a person."""
    is_copy = False

    def __init__(self, folder: Path) -> None:
        self.place = self._folder = folder

    def publish(self) -> None:
        """Put a new search there. Raises UserError if its name is taken."""

    def fetch(self) -> None:
        """Bring the records here; to be called by whoever holds the folder's lock."""

    def keep(self) -> None:
        """Put the records there; returns when they are."""

    def bring_trial(self, number: int, *, checkpoints: bool = False) -> None:
        """Bring a trial's files here."""

    def keep_files(self, folder: Path) -> None:
        """Put the files of a folder inside the search's there, or nothing without one."""

    def keep_ends(self) -> None:
        """Put there what a search leaves at its end."""

    def bring_cache(self) -> None:
        """Bring here what trials share."""

    def keep_cache(self) -> None:
        """Put there what trials share."""

    def remove(self) -> None:
        """Remove the search, here and there."""
        shutil.rmtree(self._folder)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the search against drivers on other machines."""
        yield


class BucketMirror(Mirror):
    """Of a search in a bucket. While the store is away, what must be kept waits for it."""

    is_copy = True

    def __init__(self, storage: S3Url, folder: Path) -> None:
        self.place, self._folder = storage / folder.name, folder
        self._bucket, self._shared = Bucket(self.place), Bucket(storage / CACHE)
        self._lease: Lease | None = None
        self._tag, self._last, self._config = "", b"", b""

    def publish(self) -> None:
        """The state first: `has_begun` can clear away what is cut short between the two."""
        data = self._packed()
        if not self._bucket.write(STATE, data, instead_of=""):
            found = self._bucket.read(STATE)
            if found is None or found.data != data:  # else the answer had been lost
                raise taken(self.place)
        self._put_state()

    def fetch(self) -> None:
        found = self._bucket.read(STATE)
        if found is not None and found.tag == self._tag and (self._folder / CONFIG).exists():
            return
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        if found is not None:
            self._unpack(found.data)
            self._tag = found.tag

    def keep(self) -> None:
        if self._lease is not None:
            patiently(self._lease.check)
            patiently(self._put_state)

    def bring_trial(self, number: int, *, checkpoints: bool = False) -> None:
        folder = f"{_TRIALS}/{number:03d}/"
        patiently(lambda: self._bring(folder, checkpoints=checkpoints))

    def keep_files(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                put(self._bucket, path, path.relative_to(self._folder).as_posix())

    def keep_ends(self) -> None:
        for name in _ENDS:
            self.keep_files(self._folder / name)

    def bring_cache(self) -> None:
        patiently(lambda: bring_cache(self._shared, self._folder.parent / CACHE))

    def keep_cache(self) -> None:
        cache = self._folder.parent / CACHE
        known = patiently(self._shared.names)
        for path in cached(cache):
            name = path.relative_to(cache).as_posix()
            if known.get(name) != path.stat().st_size:
                put(self._shared, path, name)

    def remove(self) -> None:
        self._lease = None  # there is nothing to keep any more
        super().remove()
        self._bucket.remove("")

    @contextmanager
    def held(self) -> Iterator[None]:
        with Lease(self._bucket).held() as self._lease:
            self.fetch()
            self._bring_what_waits()
            try:
                yield
                self.keep()
            except BaseException:
                with suppress(StepsearchError):  # who leaves in a hurry does not wait for a store
                    if self._lease is not None:
                        self._lease.check()
                        self._put_state()
                raise
            finally:
                self._lease = None

    def _bring_what_waits(self) -> None:
        """The files of records that MLflow has not taken yet."""
        spool = self._folder / "spool.jsonl"
        if spool.exists() and spool.stat().st_size:
            for folder in (_TRIALS, *_ENDS):
                self._bring(f"{folder}/", checkpoints=False)

    def _put_state(self) -> None:
        """Only what has changed: the same files make the same archive."""
        config = (self._folder / CONFIG).read_bytes()
        if config != self._config:
            self._bucket.write(CONFIG, config)
            self._config = config
        data = self._packed()
        if data != self._last:
            self._tag = self._bucket.write(STATE, data)
            self._last = data

    def _packed(self) -> bytes:
        """The study is asked first, the history later: none of its trials lacks a report there."""
        content: dict[str, bytes] = {}
        study = self._folder / _STUDY
        if study.exists():
            content[_STUDY] = snapshot(study)
        for name in _RECORDS:
            with suppress(FileNotFoundError):
                content[name] = (self._folder / name).read_bytes()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, data in content.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
            if (self._folder / _TRIALS).exists():
                archive.writestr(zipfile.ZipInfo(f"{_TRIALS}/"), b"")
        return packed.getvalue()

    def _unpack(self, data: bytes) -> None:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for name in {_STUDY, *_RECORDS, f"{_TRIALS}/"} & set(archive.namelist()):
                    archive.extract(name, self._folder)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UserError(f"{self._bucket.url}/{STATE} cannot be unpacked: {error}") from None

    def _bring(self, folder: str, *, checkpoints: bool) -> None:
        for name in self._bucket.names(folder):
            if checkpoints or not Path(name).match(CHECKPOINTS):
                self._bucket.download(name, self._folder / name)


def taken(place: Place) -> UserError:
    """There is a search already."""
    above, _, name = str(place).rpartition("/")
    return UserError(
        f"name must be new, got {name!r}, which exists in {above}: `resume {name}` goes on with it"
    )


def put(bucket: Bucket, path: Path, name: str) -> None:
    """Upload a file, however long the store is away."""
    patiently(lambda: bucket.upload(path, name))


def bring_cache(shared: Bucket, cache: Path) -> None:
    """Download what is not there: a name stands for one content."""
    for name, size in shared.names().items():
        path = cache / name
        if not path.exists() or path.stat().st_size != size:
            shared.download(name, path)


def cached(cache: Path) -> Iterator[Path]:
    """The files that trials share; not the locks of this machine's processes."""
    for path in sorted(cache.rglob("*")):
        if path.is_file() and path.suffix != ".lock" and not path.name.startswith("."):
            yield path
