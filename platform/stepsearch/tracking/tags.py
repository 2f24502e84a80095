"""Names, tags and notes: what a person reads in the MLflow page."""

from __future__ import annotations

import getpass
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from stepsearch.tracking.records import Run

SEARCH = "stepsearch.search"
TRIAL = "stepsearch.trial"
ROLE = "role"  # search, or what the trial is for: baseline, paper, carried, proposal, repeat
OUTCOME = "outcome"
REASON = "reason"
NOTE = "mlflow.note.content"
COLOUR = "mlflow.runColor"  # of the run's curves in charts
PARENT = "mlflow.parentRunId"

PACKAGES = ("stepsearch", "torch", "diffusers", "ray", "optuna", "mlflow")


def identity(run: Run) -> dict[str, str]:
    """The tags by which a resumed search finds a run again."""
    if run.trial is None:
        return {SEARCH: run.search_id, ROLE: "search"}
    return {SEARCH: run.search_id, TRIAL: str(run.trial)}


def trial_name(number: int, label: str = "", params: Mapping[str, object] | None = None) -> str:
    """A run's name that sorts by number: `000 uniform`, `003 tau=612 k=4.1 lam=0.63`.

    MLflow's table shows some twenty characters of it.
    """
    shown = [f"{key}={short(value)}" for key, value in (params or {}).items()]
    return " ".join(filter(None, [f"{number:03d}", label, *shown]))


def short(value: object, digits: int = 2) -> str:
    """A parameter as a person would write it: 0.63, 4.1, 612, 1e-05."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e6 else f"{value:.{digits}g}"


def provenance() -> dict[str, str]:
    """Who runs which code: user, command, git state of the code, versions."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
        "versions": _versions(),
        **_git(Path(__file__).parent),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"


def _versions() -> str:
    found = [f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _git(folder: Path) -> dict[str, str]:
    commit = _git_says(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": _git_says(folder, "rev-parse", "--abbrev-ref", "HEAD"),
        "mlflow.source.git.dirty": str(bool(_git_says(folder, "status", "--porcelain"))),
    }


def _git_says(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or not a repository
        return ""
    return answer.stdout.strip()
