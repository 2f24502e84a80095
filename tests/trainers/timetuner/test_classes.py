"""Trials that tune the times of a denoiser with classes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner import load_tuned
from tests.trainers.timetuner.conftest import exported, heard
from trainers.subject import subject_of

GUIDED = {"num_steps": 4, "guidance": 2.0}


@pytest.fixture(scope="module")
def with_classes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folder of a denoiser of ten classes."""
    folder = tmp_path_factory.mktemp("checkpoints") / "digits by class"
    denoiser = UNetConfig(channels=(8, 16)).build((1, 8, 8), 0, classes=10)
    scheduler = DDPMScheduler(**VPConfig().build().scheduler_config())
    DDPMPipeline(unet=denoiser, scheduler=scheduler).save_pretrained(folder)
    return {"kind": "folder", "path": str(folder)}


def test_a_trial_is_guided_counted_and_exported_with_its_scale(
    config: Any, trial: Any, with_classes: Any, tmp_path: Path
) -> None:
    shares = {"sequential": 0.1, "parallel": 0.1, "end_to_end": 0.1, "r": (0.1,) * 4}
    guided = config(checkpoint=with_classes, sampler=GUIDED, times=shares)
    guided.check(workers=1)
    assert guided.facts().guides
    (metrics,) = heard(trial(guided))
    assert metrics["nfe"] == 8
    assert all(math.isfinite(value) for value in metrics.values())
    (plain,) = heard(trial(config(checkpoint=with_classes, sampler={"num_steps": 4})))
    assert plain["nfe"] == 4
    made = trial(config(checkpoint=with_classes, sampler=GUIDED))
    heard(made)
    file = load_tuned(exported(made, tmp_path / "tuned") / "timetuner.json")
    assert (file.guidance_scale, file.sampler.guidance) == (2.0, 2.0)
    assert file.nfe == len(file.tau) == 4


def test_analytic_samplers_are_measured_with_guidance(config: Any, with_classes: Any) -> None:
    gammas = []
    for guidance in (1.0, 3.0):
        sampler = {"kind": "analytic_ddim", "num_steps": 4, "guidance": guidance}
        made = config(checkpoint=with_classes, sampler=sampler)
        at = subject_of(made.checkpoint, made.dataset, torch.device("cpu"))
        gammas.append(at.network(made.sampler, "embedding").solver.scheduler.gamma)
    assert gammas[0].isfinite().all()
    assert not torch.equal(*gammas)


def test_the_teacher_is_guided_as_the_sampler_is(
    config: Any, trial: Any, with_classes: Any
) -> None:
    """Its own four steps from the same noise are no way off."""
    teacher = {"score": "teacher", "teacher": {"num_steps": 4}}
    made = config(checkpoint=with_classes, sampler=GUIDED, **teacher)
    with pytest.raises(Exception, match="must be above 0 to be compared with"):
        heard(trial(made))


def test_what_a_denoiser_has_not_learned_is_refused(
    config: Any, with_classes: Any, tmp_path: Path
) -> None:
    for fields, line in (
        (
            {"sampler": GUIDED},
            "sampler.guidance must be 1 for a denoiser without classes, got 2",
        ),
        (
            {"checkpoint": few(with_classes, tmp_path)},
            "dataset must have labels of the 9 classes that the checkpoint knows, got 10",
        ),
    ):
        with pytest.raises(UserError) as caught:
            config(**fields).check(workers=1)
        assert str(caught.value) == line
    with pytest.raises(UserError) as caught:
        config(teacher={"guidance": 2})
    assert str(caught.value) == (
        "trainer: teacher.guidance must be left out, as it is that of sampler, got 2"
    )


def few(checkpoint: dict[str, str], home: Path) -> dict[str, str]:
    """The same network with a class less."""
    folder = home / "few"
    UNetConfig(channels=(8, 16)).build((1, 8, 8), 0, classes=9).save_pretrained(folder / "unet")
    settings = Path(checkpoint["path"]) / "scheduler" / "scheduler_config.json"
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / settings.name).write_text(json.dumps(json.loads(settings.read_text())))
    return {"kind": "folder", "path": str(folder)}
