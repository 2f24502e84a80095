"""Bundles of small denoisers, and a Python that has diffusers but not stepsearch."""

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import DiTConfig, MultistageUNetConfig, UNetConfig
from stepsearch.diffusion.noise import PROCESSES
from stepsearch.diffusion.training import TrainingConfig
from stepsearch.sampling.bundle import Bundle, Provenance, write_bundle
from stepsearch.sampling.sampler import SamplerConfig
from stepsearch.strategies import SpeedConfig, StrategyConfig
from stepsearch.strategies.staged import build_staged


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    """make_bundle(noise={"schedule": "cosine"}, ...): a bundle of a denoiser with new weights."""

    def make(
        *,
        noise: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        sampler: dict[str, Any] | None = None,
        config: StrategyConfig | None = None,
        boundaries: tuple[float, ...] = (),
        transformer: bool = False,
        class_conditional: bool = False,
        **changes: Any,
    ) -> Bundle:
        noise = {"kind": "vp"} | (noise or {})
        process = PROCESSES[noise["kind"]].model_validate(noise).build()
        trained = TrainingConfig.model_validate(training or {})
        config = config or SpeedConfig(tau=process.T // 2, k=4, lam=0.7)
        denoiser: Any = UNetConfig(channels=(8, 16))
        if boundaries:
            denoiser = MultistageUNetConfig(
                channels=(8, 16), decoders=((16, 24), (8, 8)), boundaries=boundaries
            )
        elif transformer:
            denoiser = DiTConfig(layers=2)
        if class_conditional:
            denoiser = denoiser.model_copy(update={"class_conditional": True})
        data = DigitsConfig().load()
        starts = denoiser.starts(data, process)
        network = denoiser.build_for(data, process, seed=0)
        if transformer:  # a new one answers 0
            weights = torch.Generator().manual_seed(0)
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.1, generator=weights)
        parts = {
            "process": process,
            "sampler": SamplerConfig.model_validate(sampler or {}),
            "training": trained,
            "config": config,
            "strategy": build_staged(config, process.alpha_bar, trained.prediction_type, starts),
            "denoiser": network,
            "recipe": "name: digits-speed\n",
            "leaderboard": pd.DataFrame({"rank": [1, 2], "trial": [7, 0], "value": [1.5, None]}),
            "provenance": Provenance(
                search="digits-speed",
                trial=7,
                seed=3,
                images_seen=64_000,
                objective="fd_digits",
                metrics={"precision": 0.91, "fd_digits": 12.25},
                baseline={"precision": 0.9, "fd_digits": 15.5},
                values=(12.25, 12.75, 12.5),
                baseline_values=(15.5, 16.5, 16.0),
                speed_up="1.42x (3 seeds)",
                git_commit="0123abc",
                versions={"torch": torch.__version__},
            ),
        }
        shares = data.class_shares if class_conditional else None
        return Bundle(**{**parts, "class_shares": shares, **changes})

    return make


PlainPython = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory: pytest.TempPathFactory) -> PlainPython:
    """plain_python(*arguments, cwd=folder) runs a Python without stepsearch.

    A new virtual environment sees this one's packages through a .pth file. The .pth files among
    those packages, by which an editable stepsearch is found, are not read a second time.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_packages = home / "lib" / version / "site-packages"
    packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "packages.pth").write_text("\n".join(sorted(packages)))
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(home / "hf")}

    def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [home / "bin" / "python", "-I", *arguments],
            cwd=cwd,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="module")
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    return make_bundle()


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that was written."""
    return write_bundle(tmp_path_factory.mktemp("exports") / "winner", bundle)
