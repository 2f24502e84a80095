"""Ray's job server on the head of a cluster: commands of ours that run there."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stepsearch.errors import StepsearchError, UserError

STOP_S = 120
"""What a stopped job has for its checkpoints before Ray kills it; Ray itself would give it 3 s."""
_POLL_S = 0.5
_UNREACHABLE_S = 10.0
_DOWNLOAD_S = 3600
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
_RULE = "--address must be the Ray job server of a cluster (http://HEAD:8265)"


class JobServer:
    """A connection to it. Raises UserError unless there is one that lets us in."""

    def __init__(self, address: str | None) -> None:
        if not address:
            raise UserError(f"{_RULE}, got none; RAY_API_SERVER_ADDRESS can name it too")
        self.address = address.rstrip("/")
        _check_reachable(address)
        os.environ["RAY_API_SERVER_ADDRESS"] = self.address  # Ray would prefer another one there
        with _refusals(self.address):
            from ray._private.authentication.authentication_token_setup import (
                ensure_token_if_auth_enabled,
            )
            from ray.job_submission import JobSubmissionClient

            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.ERROR)
            ensure_token_if_auth_enabled(create_token_if_missing=False)
            self._client = JobSubmissionClient(self.address)
            self._client.list_jobs()

    def submit(
        self,
        job: str | None,
        entrypoint: str,
        code: Path,
        *,
        metadata: Mapping[str, str],
        environment: Mapping[str, str],
    ) -> str:
        """Run a shell command in a copy of the folder `code` on the head; returns the job's id.

        Raises UserError if there has been a job of this id.
        """
        env_vars = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), **environment}
        with _refusals(self.address):
            try:
                id_: str = self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=job,
                    runtime_env={"working_dir": str(code), "env_vars": env_vars},
                    metadata=dict(metadata),
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    line = f"job must be new, got {job}: another command began it"
                    raise UserError(line) from None
                raise StepsearchError(f"{self.address} refused a job: {_first(error)}") from None
            return id_

    def jobs(self) -> list[Any]:
        """Those that were submitted, with Ray's facts about each; the oldest first."""
        with _refusals(self.address):
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0)

    def output(self, job: str) -> str:
        """What a job has said so far, without what Ray says about it."""
        with _refusals(self.address):
            log: str = self._client.get_job_logs(job)
        _, _, said = log.partition(f"Running entrypoint for job {job}: ")
        return said.partition("\n")[2]

    def follow(self, job: str, until: Callable[[str], bool]) -> str:
        """Wait until `until` holds of its output, or it has ended well; returns the output.

        Raises UserError or StepsearchError with its own last line if it has failed.
        """
        while True:
            info, said = self._info(job), self.output(job)
            if until(said) or info.status == "SUCCEEDED":
                return said
            if info.status in _ENDED:
                raise _failure(job, info, said)
            time.sleep(_POLL_S)

    def stop(self, job: str) -> None:
        """Have it stopped, and wait until it has."""
        with _refusals(self.address):
            self._client.stop_job(job)
        deadline = time.monotonic() + STOP_S + 30
        while self._info(job).status not in _ENDED:
            if time.monotonic() > deadline:
                raise StepsearchError(f"job {job} does not stop: ray job logs {job}")
            time.sleep(_POLL_S)

    def forget(self, job: str) -> None:
        """End it where it still runs, and take it off the list."""
        self.stop(job)
        with _refusals(self.address):
            self._client.delete_job(job)

    def download(self, job: str, name: str, to: Path) -> None:
        """Bring a file from the folder of Ray's logs on the node where a job runs."""
        import requests
        from ray._private.authentication.http_token_authentication import (
            get_auth_headers_if_auth_enabled,
        )

        node = self._info(job).driver_node_id
        words = {"node_id": node, "filename": name, "lines": "-1", "timeout": str(_DOWNLOAD_S)}
        with (
            _refusals(self.address),
            requests.get(
                f"{self.address}/api/v0/logs/file",
                params=words,
                headers=get_auth_headers_if_auth_enabled({}),
                stream=True,
                timeout=_DOWNLOAD_S,
            ) as answer,
        ):
            if answer.status_code != 200:
                raise StepsearchError(f"{self.address} did not send {name}: {answer.text}")
            with to.open("wb") as file:
                for chunk in answer.iter_content(1 << 20):
                    file.write(chunk)

    def _info(self, job: str) -> Any:
        with _refusals(self.address):
            return self._client.get_job_info(job)


def is_ended(job: Any) -> bool:
    return job.status in _ENDED


def _check_reachable(address: str) -> None:
    """Ray itself would wait for minutes. Raises UserError."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{_RULE}, got {address!r}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=_UNREACHABLE_S).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{_RULE}, got {address!r}: {reason}") from None


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    """Ray's errors, in one line. Raises UserError."""
    from ray.exceptions import AuthenticationError
    from requests import RequestException

    try:
        yield
    except StepsearchError:
        raise
    except AuthenticationError:
        raise UserError(
            f"cluster {address!r} must be given its token: set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it"
        ) from None
    except (RuntimeError, ConnectionError, RequestException, ValueError) as error:
        raise UserError(f"{_RULE}, got {address!r}: {_first(error)}") from None


def _failure(job: str, info: Any, said: str) -> StepsearchError:
    lines = [line for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else _first(info.message or info.status.value)
    if info.driver_exit_code == 2 and last.startswith("error: "):
        return UserError(last.removeprefix("error: "))
    return StepsearchError(f"job {job} has ended ({info.status.value}): {last}")


def _first(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
