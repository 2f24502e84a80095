"""Where docs/deploy/slurm.sh is run: a real SLURM of two nodes, or one node without SLURM."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"

CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin"

# One node's `srun` and a `scontrol` that remembers what it was told.
SRUN = '#!/bin/sh\nshift\nSLURM_PROCID=0 exec "$@"\n'
SCONTROL = '#!/bin/sh\necho "$@" > "$TOLD"\n'


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def make_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make_venv(folder: Path) -> Path:
    """What slurm.sh needs of a virtual environment: this one's Python and the command."""
    bin_ = folder / "venv" / "bin"
    bin_.mkdir(parents=True)
    here = Path(sys.executable).parent
    (bin_ / "activate").write_text(
        f"export PATH={bin_}:{here}:$PATH PYTHONPATH={ROOT}:{ROOT}/platform\n"
    )
    make_program(bin_ / "stepsearch", f'#!/bin/sh\nexec python {ROOT}/run_search.py "$@"\n')
    return folder / "venv"


class OneNode:
    """Runs the script by itself, with stand-ins for the two commands of SLURM it calls."""

    nodes = 1

    def __init__(self, folder: Path) -> None:
        self.folder, self._told = folder, folder / "told"
        programs = folder / "programs"
        programs.mkdir()
        make_program(programs / "srun", SRUN)
        make_program(programs / "scontrol", SCONTROL)
        job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "1"}
        self.environment = os.environ | job | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "TOLD": str(self._told),
            "SLURM_CPUS_ON_NODE": "1",
        }  # fmt: skip

    def submit(self, *command: str) -> None:
        self._command = command
        with (self.folder / "job.log").open("ab") as log:
            self._job = subprocess.Popen(
                ["bash", *command], env=self.environment, cwd=self.folder, stdout=log, stderr=log
            )

    def pause(self) -> None:
        self._job.send_signal(signal.SIGUSR1)

    def start_again(self) -> None:
        """What SLURM does with a job that asks to be queued again."""
        self._job.wait(timeout=120)
        assert self._told.read_text() == f"requeue {self.environment['SLURM_JOB_ID']}\n"
        self.submit(*self._command)

    def wait(self) -> None:
        assert self._job.wait(timeout=300) == 0

    def stop(self) -> None:
        self._job.terminate()
        self._job.wait(timeout=60)


class Slurm:
    """A cluster of this machine's own; its daemons are processes that `stop` ends."""

    nodes = 2

    def __init__(self, folder: Path) -> None:
        self.folder, self._started = folder, list[subprocess.Popen[bytes]]()
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        folder = self.folder
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                host=socket.gethostname(),
                user=getpass.getuser(),
                folder=folder,
                ports=free_ports(3),
            )
        )
        own = {"key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        files = [f"--{option}={folder}/munge.{ending}" for option, ending in own.items()]
        self._run("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files)
        self._run("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._run("slurmd", "-D", "-N", node)
        self._wait_for("idle", "sinfo", "--noheader", "--format=%T")

    def submit(self, *command: str) -> None:
        places = ("--chdir", str(self.folder), "--output", str(self.folder / "job.log"))
        self._job = self._ask("sbatch", "--parsable", *places, *command)

    def pause(self) -> None:
        """As the time limit does, which SLURM looks at once a minute only."""
        self._ask("scancel", "--batch", "--signal=USR1", self._job)

    def start_again(self) -> None:
        """SLURM leaves two minutes between a job's end and its next beginning."""
        self._wait_for("PENDING", "squeue", "--noheader", "--format=%T", timeout=180)
        self._ask("scontrol", "update", f"jobid={self._job}", "starttime=now")

    def wait(self) -> None:
        self._wait_for("", "squeue", "--noheader", "--format=%T", timeout=300)
        assert " JobState=COMPLETED " in self._ask("scontrol", "show", "--oneliner", "job")

    def stop(self) -> None:
        """Also what still runs of a job, which would outlive the daemons."""
        try:
            self._ask("scancel", "--quiet", "--user", getpass.getuser())
            self._wait_for("", "squeue", "--noheader", "--format=%T")
        finally:
            for process in reversed(self._started):
                process.terminate()
            for process in self._started:
                process.wait(timeout=30)

    def _run(self, program: str, *words: str) -> None:
        with (self.folder / f"{program}.out").open("ab") as out:
            command = [shutil.which(program, path=PATH) or program, *words]
            self._started.append(
                subprocess.Popen(command, env=self.environment, stdout=out, stderr=out)
            )

    def _ask(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _wait_for(self, answer: str, *command: str, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while (said := self._ask(*command, check=False)) != answer:
            assert time.monotonic() < deadline, f"{command[0]} says {said!r}, not {answer!r}"
            time.sleep(0.2)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[OneNode | Slurm]:
    """SLURM with its two nodes where it is installed (slurm-wlm, munge); else one node alone."""
    if not all(shutil.which(program, path=PATH) for program in PROGRAMS):
        node = OneNode(tmp_path)
        yield node
        node.stop()
        return
    slurm = Slurm(tmp_path)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
