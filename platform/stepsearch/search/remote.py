"""Searches that run on a cluster as Ray jobs: begun, watched and stopped from elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from stepsearch import shipping
from stepsearch.errors import UserError
from stepsearch.search import parcel
from stepsearch.search.config import SearchConfig
from stepsearch.search.files import dump_yaml
from stepsearch.search.job_server import JobServer, is_ended

_SEARCH, _STORAGE = "stepsearch", "stepsearch-storage"  # in the metadata of a search's jobs
_RUN = "python run_search.py run search.yaml --resume --address auto"


class Remote:
    """The searches of one cluster. `code` are the packages that run there, the command's first."""

    def __init__(self, address: str | None, code: Sequence[str], console: Console) -> None:
        self._server, self._code, self._console = JobServer(address), code, console

    def submit(self, config: SearchConfig) -> None:
        """Begin a search, or go on with it; returns once its driver has begun.

        Raises UserError if it is running already, and with the driver's own line if that refuses.
        """
        name, jobs = config.name, self._jobs(config.name)
        if jobs and not is_ended(jobs[-1]):
            raise UserError(
                f"search {name!r} must not be running already: job {jobs[-1].submission_id} has it"
            )
        number = max((int(job.submission_id.rpartition(".")[2]) for job in jobs), default=0) + 1
        facts = {_SEARCH: name, _STORAGE: str(config.storage)}
        with TemporaryDirectory() as folder:
            code = Path(folder)
            shipping.copy(self._code, code)
            (code / "search.yaml").write_text(dump_yaml(config), encoding="utf-8")
            # Two that are submitted at once have the same id, and Ray takes only one.
            job = self._server.submit(
                f"stepsearch-{name}.{number}", _RUN, code, metadata=facts, environment={}
            )
        try:
            said = self._server.follow(job, lambda said: f"search {name}: " in said)
        except KeyboardInterrupt:
            self._tell(f"job {job} goes on without this command")
            raise
        if f"search {name}: " not in said:  # there was nothing left to do
            return self.status(name, str(config.storage))
        self._tell(said)
        self._console.print(f"job {job} at {self._server.address} runs it", soft_wrap=True)
        self._tell(
            "\n".join(
                f"  {what + ':':30}python run_search.py {verb} {name} "
                f"--address {self._server.address}"
                for verb, what in {"status": "see where it stands", "cancel": "stop it"}.items()
            )
        )

    def status(self, name: str | None, storage: str) -> None:
        """Print where a search stands, as its own machine would; without a name, all of them."""
        if name is None:
            return self._list()
        said = self._ask("status", name, storage)
        for job in self._jobs(name)[-1:]:
            self._tell(f"job {job.submission_id}: {job.status.value}{_why(job)}")
        return self._tell(said)

    def ui(self, name: str, storage: str) -> None:
        """Print where the trials of a search can be looked at."""
        self._tell(self._ask("ui", name, storage))

    def export(
        self, name: str, storage: str, trial: int | None, out: Path, *, force: bool
    ) -> None:
        """Bring the bundle of a trial into the new folder `out`."""
        if out.exists():
            raise UserError(f"folder must not exist yet, got {str(out)!r}")
        words = [] if trial is None else ["--trial", str(trial)]
        words += ["--force"] if force else []
        self._ask(
            "export",
            name,
            storage,
            *words,
            until=parcel.is_offered,
            then=lambda job, said: parcel.fetch(self._server, job, said, out),
        )

    def cancel(self, name: str) -> None:
        """Stop a search as Ctrl-C does. Raises UserError if it is not running."""
        job = self._latest(name)
        if is_ended(job):
            raise UserError(
                f"search {name!r} must be running: job {job.submission_id} has ended "
                f"({job.status.value})"
            )
        self._server.stop(job.submission_id)

    def _ask(
        self,
        what: str,
        name: str,
        storage: str,
        *words: str,
        until: Callable[[str], bool] = lambda said: False,
        then: Callable[[str, str], None] = lambda job, said: None,
    ) -> str:
        """What a short job on the head says, which sees the storage and runs the same code."""
        named = storage.startswith("/") or "://" in storage
        where = storage if named else self._latest(name).metadata[_STORAGE]
        asked = ["answer", what, name, "--storage", where, "--to", self._server.address, *words]
        with TemporaryDirectory() as folder:
            shipping.copy(self._code, Path(folder))
            job = self._server.submit(
                None,
                shlex.join(["python", "run_search.py", *asked]),
                Path(folder),
                metadata={},
                environment={"COLUMNS": str(self._console.width)},
            )
        try:
            said = self._server.follow(job, until)
            then(job, said)
            return said
        finally:
            self._server.forget(job)

    def _jobs(self, name: str) -> list[Any]:
        return [job for job in self._server.jobs() if (job.metadata or {}).get(_SEARCH) == name]

    def _latest(self, name: str) -> Any:
        jobs = self._jobs(name)
        if not jobs:
            known = ", ".join(self._names()) or "none yet"
            raise UserError(
                f"search must be one of those at {self._server.address} ({known}), got {name!r}"
            )
        return jobs[-1]

    def _names(self) -> list[str]:
        names = ((job.metadata or {}).get(_SEARCH) for job in self._server.jobs())
        return list(dict.fromkeys(filter(None, names)))

    def _list(self) -> None:
        table = Table("search", "job", "began", "storage", box=None, pad_edge=False)
        for name in self._names():
            job = self._latest(name)
            began = datetime.fromtimestamp(job.start_time / 1000).strftime("%Y-%m-%d %H:%M")
            table.add_row(name, job.status.value, began, job.metadata[_STORAGE])
        if table.row_count:
            self._console.print(table)
        else:
            self._tell(f"no searches at {self._server.address}; `submit FILE.yaml` begins one")

    def _tell(self, said: str) -> None:
        self._console.print(said.rstrip(), soft_wrap=True)


def _why(job: Any) -> str:
    """Of one that has failed, the last thing that it said."""
    lines = (job.message or "").strip().splitlines() if job.status.value == "FAILED" else []
    return f" ({lines[-1]})" if lines else ""
