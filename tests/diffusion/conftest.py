"""Small trainings, here and in processes of their own."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.training import Training

SCRIPT = Path(__file__).with_name("train_in_a_process.py")
PLATFORM = Path(__file__).parents[2] / "platform"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def build_training() -> Callable[..., Training]:
    """build_training(images=..., budget=..., **fields of TrainingConfig); digits by default."""
    build: Callable[..., Training] = runpy.run_path(str(SCRIPT))["build"]
    return build


@pytest.fixture
def start_training() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the script beside this file; what still runs after the test is killed."""
    environment = {**os.environ, "PYTHONPATH": str(PLATFORM), "OMP_NUM_THREADS": "1"}
    started = []

    def start(**options: object) -> "subprocess.Popen[str]":
        arguments = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def batch(process: NoiseProcess) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0, noise and t: one small image for each timestep."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, process.T, 3, 4, 4, generator=generator)
    return x0, noise, torch.arange(process.T)
