"""float16's loss scale: what overflows is skipped, counted and resumed, and reaches no average."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stepsearch.diffusion.loss_scale import DynamicLossScale, LossScale, loss_scale
from stepsearch.diffusion.training import Training
from stepsearch.errors import Diverged

Build = Callable[..., Training]
CPU = torch.device("cpu")


def weights(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def set_scale(training: Training, scale: float) -> None:
    training._scale.load_state_dict({**training._scale.state_dict(), "scale": torch.tensor(scale)})


def scale_of(training: Training) -> float:
    return float(training.state_dict()["loss_scale"]["scale"])


def test_only_float16_is_scaled() -> None:
    assert type(loss_scale("float32", CPU)) is type(loss_scale("bfloat16", CPU)) is LossScale
    assert isinstance(loss_scale("float16", CPU), DynamicLossScale)


def test_a_step_that_overflows_is_skipped_and_counted(build_training: Build) -> None:
    training = build_training(precision="float16", lr_scheduler="constant", warmup_steps=0)
    training.run(8)
    before = weights(training.denoiser)
    set_scale(training, 2.0**60)
    summary = training.run(16)
    assert torch.equal(weights(training.denoiser), before)
    assert training.skipped_steps == 1
    assert scale_of(training) == 2.0**59
    assert summary.grad_norm == 0
    assert torch.isfinite(weights(training.ema)).all()
    assert training.state_dict()["optimizer"]["state"][0]["step"] == 1
    set_scale(training, 2.0**16)
    training.run(24)
    assert training.skipped_steps == 1
    assert not torch.equal(weights(training.denoiser), before)


def test_the_scale_does_not_change_the_step(build_training: Build) -> None:
    small, large = (build_training(precision="float16") for _ in range(2))
    set_scale(small, 2.0**10)
    assert small.run(24).grad_norm == pytest.approx(large.run(24).grad_norm, rel=1e-3)
    assert small.skipped_steps == large.skipped_steps == 0


def test_a_gradient_that_overflows_unscaled_has_diverged(build_training: Build) -> None:
    training = build_training(precision="float16")
    set_scale(training, 1.0)
    training._gradient.fill_(torch.inf)  # as of a backward before
    with pytest.raises(Diverged, match=r"of gradient norms (inf|nan)"):
        training.run(8)


def test_the_scale_grows_after_2000_steps_without_overflow() -> None:
    scale = DynamicLossScale(CPU)
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    optimizer = torch.optim.AdamW([weight], fused=True)
    for _ in range(1999):
        scale.step(optimizer, torch.tensor(1.0))
    assert scale.up(torch.ones(())) == 2.0**16
    scale.step(optimizer, torch.tensor(1.0))
    assert scale.up(torch.ones(())) == 2.0**17
    scale.step(optimizer, torch.tensor(torch.inf))
    assert scale.up(torch.ones(())) == 2.0**16
    assert int(scale.state_dict()["without"]) == 0


def test_the_scale_is_resumed(build_training: Build, tmp_path: Path) -> None:
    one, other = (build_training(precision="float16") for _ in range(2))
    set_scale(one, 2.0**60)
    one.run(16)
    assert one.skipped_steps == 2
    one.save(tmp_path / "checkpoint")
    other.load(tmp_path / "checkpoint")
    assert (scale_of(other), other.skipped_steps) == (2.0**58, 2)
    assert one.run(24).mean_loss == other.run(24).mean_loss
    assert scale_of(one) == scale_of(other)
    assert torch.equal(weights(one.ema), weights(other.ema))
