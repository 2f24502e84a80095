"""Each kind of process and denoiser in one trial: trained, judged, counted and exported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stepsearch.diffusion.multistage.accounting import stage_costs
from stepsearch.search.trial import Trial
from tests.trainers.conftest import Listener
from trainers import DenoisingConfig, trainer
from trainers.rows import read_rows
from trainers.stages import drawing_cost
from trainers.stopwatch import OF_THE_CLOCK
from trainers.training_trial import CHECKPOINT, run

JUDGE = {"samples": 32, "classifier": {"budget": 1000}}


@dataclass(frozen=True)
class Done:
    """A trial of 64 images, and its bundle."""

    config: DenoisingConfig
    folder: Path
    metrics: dict[str, float]
    bundle: Path

    def trained_on(self, **fields: Any) -> DenoisingConfig:
        """The next trial's configuration, which starts from the bundle's pipeline."""
        saved = {"kind": "pretrained", "path": str(self.bundle / "pipeline")}
        further: DenoisingConfig = trainer(denoiser=saved, judge=JUDGE, **fields)
        further.check(workers=1)
        start = further.training_for(0, budget=64).denoiser.state_dict()
        averaged = self.config.loaded(self.folder / CHECKPOINT, 0, 64).ema.state_dict()
        assert all(torch.equal(start[name], value) for name, value in averaged.items())
        assert further.probe(gpu=False).step_s > 0
        return further


def done(tmp_path: Path, **fields: Any) -> Done:
    config = trainer(judge=JUDGE, **fields)
    config.check(workers=1)
    folder, bundle = tmp_path / "trial", tmp_path / "bundle"
    folder.mkdir()
    listener = Listener(last=64)
    run(Trial(0, config, 0, (64,), folder, tmp_path), listener)
    metrics = listener.heard[64]
    assert all(math.isfinite(value) for value in metrics.values())
    config.illustrate(folder)
    origin = {"search": "s", "trial": 0, "seed": 0, "images_seen": 64, "objective": "fd_digits"}
    config.export(
        bundle,
        trial=folder,
        budget=64,
        recipe="",
        leaderboard=pd.DataFrame({"trial": [0]}),
        provenance={**origin, "metrics": metrics, "baseline": {}},
    )
    return Done(config, folder, metrics, bundle)


@pytest.mark.parametrize(
    ("noise", "target", "sampler"),
    [({"kind": "edm"}, "edm", "dpm"), ({"kind": "flow", "timesteps": 300}, "flow", "euler")],
)
def test_another_process(
    tmp_path: Path, noise: dict[str, object], target: str, sampler: str
) -> None:
    trial = done(
        tmp_path,
        noise=noise,
        denoiser={"channels": [8, 16]},
        strategy={"kind": "min_snr"},
        training={"batch_size": 32, "prediction_type": target, "accumulation": 2},
        sampler={"kind": sampler, "num_steps": 3},
    )
    assert {path.name for path in (trial.folder / "pictures").iterdir()} == {
        "samples_000000064.png",
        "strategy.png",
        "loss_by_log_snr.png",
        "draws_by_log_snr.png",
    }
    with Image.open(trial.bundle / "samples.png") as drawn:
        assert drawn.getextrema()[0] < drawn.getextrema()[1]
    assert target in (trial.bundle / "README.md").read_text()


def test_a_denoiser_with_stages(tmp_path: Path) -> None:
    trial = done(
        tmp_path,
        denoiser={
            "kind": "multistage_unet",
            "channels": [8, 16],
            "decoders": [[16, 24], [8, 8]],
            "boundaries": [0.5],
        },
        strategy={"kind": "min_snr"},
        training={"batch_size": 32},
        sampler={"num_steps": 5},
    )
    metrics, network = trial.metrics, trial.config.training_for(0, 64).denoiser
    more = {"images_seen", "loss_stage_1", "loss_stage_2"}
    assert {*metrics, *OF_THE_CLOCK} == {*trial.config.reported(), *more}
    costs = stage_costs(network, (1, 8, 8))
    # trailing timesteps 999, 799, 599, 399, 199: three of the noisy stage, two of the other
    assert metrics["gflops_image"] == pytest.approx(5e-9 * costs.flops([2, 3]))
    # half of the images are of each stage
    (row,) = read_rows(trial.folder / "loss.jsonl")
    errors = np.average(np.nan_to_num(np.array(row["loss"], float)), weights=row["count"])
    assert (metrics["loss_stage_1"] + metrics["loss_stage_2"]) / 2 == pytest.approx(errors)
    assert (trial.bundle / "pipeline" / "unet" / "multistage.py").exists()


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_a_denoiser_with_classes(kind: str, tmp_path: Path) -> None:
    """Its bundle's pipeline is the start of the next trial, which is told classes, too."""
    fields = {
        "training": {"batch_size": 32, "warmup_steps": 2, "label_dropout": 0.2},
        "sampler": {"num_steps": 2, "guidance": 1.5},
    }
    size = {"unet": {"channels": [8, 16]}, "dit": {"layers": 1, "head_width": 8}}[kind]
    trial = done(tmp_path, denoiser={"kind": kind, "class_conditional": True, **size}, **fields)
    config, denoiser = trial.config, trial.config.training_for(0, 64).denoiser
    process, shape = config.noise.build(), (1, 8, 8)
    plain = config.sampler.model_copy(update={"guidance": 1.0})
    once = drawing_cost(denoiser, process, plain, "epsilon", shape)["gflops_image"]
    assert trial.metrics["gflops_image"] == 2 * once > 0
    assert "guidance_scale=1.5" in (trial.bundle / "README.md").read_text()
    trial.trained_on(**fields)


def test_a_transformer(tmp_path: Path) -> None:
    """Its bundle's pipeline is the start of the next trial."""
    fields = {
        "training": {"batch_size": 32, "warmup_steps": 2},
        "sampler": {"num_steps": 2},
    }
    trial = done(tmp_path, denoiser={"kind": "dit", "layers": 1, "head_width": 8}, **fields)
    assert (trial.bundle / "pipeline" / "unet" / "unconditional_dit.py").exists()
    further, second = trial.trained_on(**fields), tmp_path / "second"
    second.mkdir()
    run(Trial(0, further, 0, (64,), second, tmp_path), Listener(last=64))
