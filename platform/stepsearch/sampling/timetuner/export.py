"""Exporting tau: a folder that plain PyTorch and diffusers can use."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepsearch.config import parse
from stepsearch.errors import UserError
from stepsearch.sampling.files import new_folder
from stepsearch.sampling.timetuner.card import card
from stepsearch.sampling.timetuner.draw import Verdict, check_tau
from stepsearch.sampling.timetuner.gradient import Tuned
from stepsearch.sampling.timetuner.network import Network
from stepsearch.sampling.timetuner.samplers import SolverConfig
from stepsearch.sampling.timetuner.tuned_file import NAME, TunedFile
from stepsearch.sampling.timetuner.tuned_timesteps import fingerprint

_SCRIPT = Path(__file__).with_name("tuned_timesteps.py")


def write_tuned(
    folder: Path | str,
    network: Network,
    denoiser: nn.Module,
    sampler: SolverConfig,
    tuned: Tuned,
    verdict: Verdict,
    *,
    note: str = "",
    force: bool = False,
) -> Path:
    """Write timetuner.json, tuned_timesteps.py and a README.md; returns `folder`.

    The folder appears whole or not at all. Raises UserError if the folder exists, if tau does not
    fit, or if tau did worse than the untuned times and `force` is not given.
    """
    folder = Path(folder)
    if verdict.worse and not force:
        rule = "tau must do no worse than untuned on held-out seeds, unless forced (--force)"
        raise UserError(f"{rule}: {verdict}")
    file = _file(network, denoiser, sampler, tuned, verdict, note)
    with new_folder(folder) as temporary:
        content = file.model_dump(mode="json", by_alias=True)
        lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        (temporary / NAME).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        shutil.copyfile(_SCRIPT, temporary / _SCRIPT.name)
        (temporary / "README.md").write_text(card(file, str(verdict)), encoding="utf-8")
    return folder


def _file(
    network: Network,
    denoiser: nn.Module,
    sampler: SolverConfig,
    tuned: Tuned,
    verdict: Verdict,
    note: str,
) -> TunedFile:
    import diffusers

    solver = network.solver
    tau = check_tau(tuned.tau, network)
    return parse(
        TunedFile,
        {
            **solver.as_schedule(),
            "tau": tau.tolist(),
            "tau_scope": network.scope,
            "guidance_scale": network.guidance_scale,
            "prediction_type": solver.prediction_type,
            "scales": _scales(network, tau),
            "sampler": sampler,
            "scheduler": _saved(solver.scheduler),
            "denoiser": fingerprint(denoiser),
            "loss": {"untuned": tuned.loss_untuned, "tuned": tuned.loss},
            "verdict": asdict(verdict) | {"worse": verdict.worse},
            "note": note,
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        },
        NAME,
    )


def _scales(network: Network, tau: Tensor) -> list[Any] | None:
    """For tau_scope full, (alpha, sigma) at tau and at the nominal time of each slot."""
    if network.scope != "full":
        return None
    told = [tuple(map(float, network.solver.scales_at(t))) for t in tau]
    return list(zip(told, network.solver.scales[: len(told)], strict=True))


def _saved(scheduler: Any) -> dict[str, Any] | None:
    """A scheduler's class and settings, if diffusers has it."""
    import diffusers

    name = type(scheduler).__name__
    return {"class": name, "config": _settings(scheduler)} if hasattr(diffusers, name) else None


def _settings(scheduler: Any) -> dict[str, Any]:
    """A scheduler's configuration as JSON has it, which knows no infinity: a default there."""
    config = json.loads(scheduler.to_json_string())
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and abs(value if isinstance(value, float) else 0) < math.inf
    }
