"""The doctor: looks for what would stop a search on this machine, its cluster and its storage."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from stepsearch.bucket import S3Url
from stepsearch.config import Place
from stepsearch.errors import UserError
from stepsearch.search.machine import existing, free_bytes
from stepsearch.search.nodes import Finding, examine_cluster
from stepsearch.search.probe import probing
from stepsearch.tracking import TrackingConfig
from stepsearch.tracking.client import answering, connect

__all__ = ["Finding", "examine", "show_findings"]

INSTALL = "pip install -c constraints.txt -e ."
_CODE = Path(__file__).parents[2]
_LITTLE_DISK = 10**9
_IMPORT_TIMEOUT_S = 180
_OWN_STORE = TrackingConfig()
_SHOWN = ("torch", "ray", "optuna", "mlflow", "diffusers")


def show_findings(findings: Sequence[Finding], console: Console) -> None:
    """A line each; a terminal wraps them itself, so that commands can be copied."""
    for finding in findings:
        mark = Text("ok  ", style="green") if finding.ok else Text("MEND", style="bold red")
        console.print(mark, Text(f"{finding.what}: {finding.says}"), soft_wrap=True)


def examine(address: str, storage: Place, tracking: TrackingConfig = _OWN_STORE) -> list[Finding]:
    """Examine this environment, the storage, MLflow and every node of the cluster at `address`.

    This machine is taken for the driver's, and so must reach MLflow; of the nodes it is only told.
    Leaves nothing behind: a probe file in the storage is removed again.
    """
    server = tracking.uri if (tracking.uri or "").startswith("http") else None
    home = storage.home if isinstance(storage, S3Url) else storage
    findings = [*_packages(), _denoiser(), _source_root(_CODE), _disk(home)]
    place = storage if isinstance(storage, S3Url) else existing(storage)
    with ExitStack() as opened:
        try:
            probe = opened.enter_context(probing(place))
        except OSError as error:
            problem = f"{place} cannot be written ({error.strerror}): name another with --storage"
            findings.append(Finding(False, "storage", problem))
            return findings + examine_cluster(address, server=server)
        except UserError as error:
            findings.append(Finding(False, "storage", str(error)))
            return findings + examine_cluster(address, server=server)
        findings.append(Finding(True, "storage", f"{place} can be written"))
        if tracking.uri:
            findings.append(_answers(tracking.uri))
        elif isinstance(storage, Path):  # a search in a bucket needs a server for its records
            findings.append(_store(storage))
        return findings + examine_cluster(address, probe, server)


def _packages() -> Iterator[Finding]:
    """Python, one line for all packages that are as they must be, and one for each other."""
    try:
        about = metadata.metadata("stepsearch")
    except metadata.PackageNotFoundError:
        yield Finding(False, "stepsearch", f"is not installed: {INSTALL}")
        return
    python, rule = platform.python_version(), about["Requires-Python"]
    fits = SpecifierSet(rule).contains(python, prereleases=True)
    yield Finding(fits, "python", python if fits else f"{python}, must be {rule}")
    lines = about.get_all("Requires-Dist", [])
    needed = [requirement for requirement in map(Requirement, lines) if _applies(requirement)]
    problems = list(_misfits(needed))
    if not problems:
        shown = ", ".join(f"{name} {metadata.version(name)}" for name in _SHOWN)
        yield Finding(True, "packages", f"{shown} and {len(needed) - len(_SHOWN)} more")
    yield from problems


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _misfits(needed: list[Requirement]) -> Iterator[Finding]:
    for requirement in needed:
        name, rule = requirement.name, requirement.specifier
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(False, name, f"is not installed: {INSTALL}")
            continue
        if not rule.contains(version, prereleases=True):
            yield Finding(False, name, f"{version}, must be {rule}: {INSTALL}")


def _denoiser() -> Finding:
    """A torchvision that was built for another torch breaks diffusers' networks."""
    command = [sys.executable, "-c", "from diffusers import UNet2DModel"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Finding(False, "diffusers", f"took over {_IMPORT_TIMEOUT_S} s to import")
    if done.returncode == 0:
        return Finding(True, "diffusers", "UNet2DModel can be imported")
    problem = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    torchvision = list(metadata.distributions(name="torchvision"))
    cure = "pip uninstall torchvision" if torchvision else INSTALL
    return Finding(False, "diffusers", f"UNet2DModel cannot be imported ({problem}): {cure}")


def _source_root(root: Path) -> Finding:
    """A checkout's platform/ would shadow Python's own module if it held Python files."""
    strangers = sorted(root.glob("*.py")) if root.name == "platform" else []
    if strangers:
        return Finding(False, "platform", f"shadows the standard library's: rm {strangers[0]}")
    return Finding(True, "platform", "the standard library's module is not shadowed")


def _disk(storage: Path) -> Finding:
    free = free_bytes(storage)
    says = f"{decimal(free)} are free at {storage}"
    if free < _LITTLE_DISK:
        return Finding(False, "disk", f"only {says}: make room, or name another with --storage")
    return Finding(True, "disk", says)


def _answers(uri: str) -> Finding:
    """As a search's driver would ask it, credentials included."""
    try:
        with answering(uri):
            connect(uri)
    except UserError as error:
        return Finding(False, "mlflow", str(error))
    return Finding(True, "mlflow", f"{uri} answers")


def _store(storage: Path) -> Finding:
    """Open the storage's own store; before there is one, a new one elsewhere."""
    is_there = (storage / "mlflow.db").exists()
    with TemporaryDirectory() as scratch:
        found = _answers(_OWN_STORE.store_uri(storage if is_there else Path(scratch)))
    if not found.ok:
        return found
    if is_there:
        return Finding(True, "mlflow", f"the store in {storage} opens")
    return Finding(True, "mlflow", f"a new store opens; the first search makes one in {storage}")
