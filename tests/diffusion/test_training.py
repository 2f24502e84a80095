"""The training loop against a plain one, its averages, its lr_scheduler and its failures."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from stepsearch.config import parse
from stepsearch.diffusion import training as loop
from stepsearch.diffusion.data_order import DataOrder
from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.ema import MovingAverage
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.errors import Diverged, UserError
from stepsearch.strategies import PredictionType, Strategy, strategy

Build = Callable[..., Training]


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()


@dataclass
class PlainLoop:
    """The training loop as one would write it first: no flat vectors, no fused optimizer."""

    network: torch.nn.Module
    strategy: Strategy
    prediction_type: PredictionType
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alpha_bar = torch.tensor(VPConfig().build().alpha_bar, dtype=torch.float32)
        self.order = DataOrder(100, 0, torch.device("cpu"))
        self.generator = generator("training", 0)
        self.parameters = list(self.network.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.1, fused=False)

    def step(self, step: int, lr: float) -> None:
        loss = self.loss(DigitsConfig().load().train[self.order.indices(8 * step, 8)])
        gradients = torch.autograd.grad(loss, self.parameters)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for p, gradient in zip(self.parameters, gradients, strict=True):
            p.grad = gradient / max(1, norm)
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        d = min(0.9, (1 + step) / (10 + step))
        pairs = zip(self.average, self.parameters, strict=True)
        self.average = [d * average + (1 - d) * p.detach() for average, p in pairs]
        self.losses.append(loss.item())
        self.norms.append(norm.item())

    def loss(self, x0: torch.Tensor) -> torch.Tensor:
        t = self.strategy.draw(8, self.generator)
        eps = torch.randn(8, 1, 8, 8, generator=self.generator)
        abar = self.alpha_bar[t].view(-1, 1, 1, 1)
        w = torch.tensor(self.strategy.w)[t].view(-1, 1, 1, 1)
        targets = {
            "epsilon": eps,
            "v_prediction": abar.sqrt() * eps - (1 - abar).sqrt() * x0,
            "sample": x0,
        }
        output = self.network(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, t).sample
        return (w * (output - targets[self.prediction_type]) ** 2).mean()


@pytest.mark.parametrize("prediction_type", VPConfig().targets)
def test_the_loop_equals_a_plain_one_of_pytorch(
    build_training: Build, prediction_type: PredictionType
) -> None:
    timesteps = strategy("min_snr").build(VPConfig().build().alpha_bar, prediction_type)
    plain = PlainLoop(build_training().denoiser, timesteps, prediction_type)
    for step, lr in enumerate([0, 2e-3, 4e-3, 4e-3]):
        plain.step(step, lr)
    training = build_training(
        timesteps=timesteps,
        prediction_type=prediction_type,
        lr_scheduler="constant",
        warmup_steps=2,
        weight_decay=0.1,
    )
    summary = training.run(32)
    assert summary.steps == 4
    assert summary.mean_loss == pytest.approx(np.mean(plain.losses), rel=1e-5)
    assert summary.grad_norm == pytest.approx(np.mean(plain.norms), rel=1e-5)
    close = {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(weights(training.denoiser), weights(plain.network), **close)
    average = torch.cat([part.flatten() for part in plain.average])
    torch.testing.assert_close(weights(training.ema), average, **close)


def test_an_epoch_shows_every_image_once_and_epochs_differ() -> None:
    order = DataOrder(100, 0, torch.device("cpu"))
    first, second = order.indices(0, 100), order.indices(100, 100)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert not torch.equal(first, second)
    across = order.indices(90, 210)  # from the middle of one epoch to the end of the third
    assert torch.equal(across, torch.cat([first[90:], second, order.indices(200, 100)]))
    assert not torch.equal(first, DataOrder(100, 1, torch.device("cpu")).indices(0, 100))


def test_the_seed_decides_everything(build_training: Build) -> None:
    def run(seed: int) -> torch.Tensor:
        training = build_training(seed=seed)
        torch.rand(seed + 1)  # the global random state has no say
        training.run(40)
        return weights(training.denoiser)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_stopping_in_between_changes_nothing(build_training: Build) -> None:
    whole, stopped = build_training(), build_training()
    whole.run(120)
    for until in (8, 50, 51, 120):
        stopped.run(until)
    assert whole.images_seen == stopped.images_seen == 120
    assert torch.equal(weights(whole.ema), weights(stopped.ema))


def test_run_ends_with_the_first_step_that_reaches_its_goal(build_training: Build) -> None:
    training = build_training()
    assert training.run(20).steps == 3
    assert training.images_seen == 24
    nothing = training.run(24)
    assert nothing.steps == 0
    assert math.isnan(nothing.mean_loss)
    assert nothing.count.sum() == 0


def test_a_long_run_asks_now_and_then_whether_to_go_on(
    build_training: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def tick() -> bool:
        asked.append(training.images_seen)
        return len(asked) < 3

    training, whole = build_training(), build_training()
    training.run(80, tick)
    assert asked == [], "that took no seconds"
    monkeypatch.setattr(loop, "_TICK_S", 0.0)
    assert training.run(480, tick).steps == 30
    assert asked == [160, 240, 320]
    training.run(400)
    whole.run(400)
    assert torch.equal(weights(training.ema), weights(whole.ema))


def test_a_goal_beyond_the_budget_is_refused(build_training: Build) -> None:
    with pytest.raises(ValueError, match=r"^until must be at most the budget \(480\), got 481$"):
        build_training().run(481)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0, 0.5, 1, 1, 1, 1, 1]),
        ("cosine", [0, 0.5, 1, 0.8536, 0.5, 0.1464, 0]),
    ],
)
def test_the_learning_rate_warms_up_and_ends_with_the_budget(
    build_training: Build, kind: str, expected: list[float]
) -> None:
    training = build_training(budget=48, lr=1.0, lr_scheduler=kind, warmup_steps=2)
    rates = []
    for until in range(0, 49, 8):
        training.run(until)
        rates += training.state_dict()["lr_scheduler"]["_last_lr"]
    assert rates == pytest.approx(expected, abs=1e-4)


def test_the_average_forgets_the_first_weights_quickly() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(network.weight)
    average = MovingAverage(network, decay=0.5)
    values = []
    for updates in range(12):
        average.update(torch.ones(1), updates)
        values.append(1 - average.module.weight.item())
    # (1 + n) / (10 + n) reaches the decay 1/2 at n = 8
    expected = np.cumprod([min(0.5, (1 + n) / (10 + n)) for n in range(12)])
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_a_halflife_is_in_images_whatever_the_batch() -> None:
    for batch_size in (1, 8, 500):
        decay = TrainingConfig(batch_size=batch_size).decay(1000)
        assert decay ** (1000 / batch_size) == pytest.approx(0.5)


def test_several_averages_are_those_of_several_trainings(build_training: Build) -> None:
    """A half-life of 76 images, at 8 a step, is a decay of 0.93."""
    halflives = (76, 4)
    both = build_training(ema_halflives=halflives)
    both.run(160)
    assert list(both.averages) == [76, 4]
    for halflife, average in both.averages.items():
        decay = 0.5 ** (8 / halflife)
        single = build_training(ema_decay=decay)
        single.run(160)
        assert torch.equal(weights(average), weights(single.ema))
        assert not average.training
    plain = build_training()
    plain.run(160)
    assert torch.equal(weights(both.ema), weights(plain.ema))
    assert not plain.averages


def test_the_averaged_denoiser_is_ready_for_sampling(build_training: Build) -> None:
    training = build_training()
    training.run(8)
    assert training.denoiser.training
    assert not training.ema.training
    assert not any(p.requires_grad for p in training.ema.parameters())


def test_diffusers_saves_and_loads_what_was_trained(build_training: Build, tmp_path: Path) -> None:
    training = build_training()
    training.run(16)
    for network in (training.denoiser, training.ema):
        assert isinstance(network, UNet2DModel)
        network.save_pretrained(tmp_path)
        assert torch.equal(weights(UNet2DModel.from_pretrained(tmp_path)), weights(network))


def test_training_learns_the_digits(build_training: Build) -> None:
    training = build_training(
        timesteps=strategy("uniform").build(VPConfig().build().alpha_bar),
        images=DigitsConfig().load().train,
        budget=64 * 60,
        batch_size=64,
    )
    first = training.run(64 * 10)
    training.run(64 * 50)
    last = training.run(64 * 60)
    assert first.mean_loss > 0.5  # a network that answers 0 has loss 1
    assert last.mean_loss < 0.25


# --- what can go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_loss_that_is_not_finite_ends_the_run(build_training: Build, value: float) -> None:
    images = torch.zeros(16, 1, 8, 8)
    training = build_training(images=images)
    training.run(40)
    images[:] = value
    with pytest.raises(Diverged, match=r"diverged by images_seen=80: sum of losses (nan|inf)"):
        training.run(480)


def test_a_loss_that_is_not_finite_in_the_last_step_is_noticed(build_training: Build) -> None:
    training = build_training(images=torch.full((16, 1, 8, 8), float("nan")))
    with pytest.raises(Diverged, match="images_seen=8:"):
        training.run(8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 8.5}, "batch_size must be an integer, got 8.5"),
        ({"lr": 0}, "lr must be greater than 0, got 0"),
        ({"lr": float("inf")}, "lr must be a finite number, got inf"),
        (
            {"lr_scheduler": "linear"},
            "lr_scheduler must be one of 'constant' or 'cosine', got 'linear'",
        ),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"grad_clip": 0}, "grad_clip must be greater than 0, got 0"),
        ({"accumulation": 0}, "accumulation must be at least 1, got 0"),
        ({"label_dropout": 1}, "label_dropout must be less than 1, got 1"),
        ({"label_dropout": -0.1}, "label_dropout must be at least 0, got -0.1"),
        ({"ema_decay": 1}, "ema_decay must be less than 1, got 1"),
        ({"ema_decay": -0.5}, "ema_decay must be at least 0, got -0.5"),
        ({"ema_halflives": 1000}, "ema_halflives must be a list, got 1000"),
        ({"ema_halflives": [1000, 0]}, "ema_halflives[1] must be at least 1, got 0"),
        ({"ema_halflives": [0.5]}, "ema_halflives[0] must be an integer, got 0.5"),
        (
            {"ema_halflives": range(1, 10)},
            "ema_halflives must be a list of 8 or fewer, got range(1, 10)",
        ),
        (
            {"ema_halflives": [500, 1000, 500]},
            "ema_halflives must differ from each other, got [500, 1000, 500]",
        ),
        (
            {"precision": "fp16"},
            "precision must be one of 'float32', 'bfloat16' or 'float16', got 'fp16'",
        ),
        ({"compile": "max"}, "compile must be true or false, got 'max'"),
        ({"channels_last": 2}, "channels_last must be true or false, got 2"),
        (
            {"gradient_checkpointing": "all"},
            "gradient_checkpointing must be true or false, got 'all'",
        ),
        (
            {"prediction_type": "eps"},
            "prediction_type must be one of 'epsilon', 'v_prediction', 'sample', 'flow' or 'edm',"
            " got 'eps'",
        ),
        ({"learning_rate": 1}, "learning_rate is not a known key"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(TrainingConfig, fields, "training")
    assert str(error.value).startswith(f"training.{message}")


@pytest.mark.parametrize("slices", [2, 3, 8])
def test_slices_of_a_batch_add_up_to_its_gradient(build_training: Build, slices: int) -> None:
    whole, sliced = build_training(), build_training(slices=slices)
    expected, losses = whole.run(80), sliced.run(80)
    np.testing.assert_allclose(losses.loss, expected.loss, rtol=1e-4)
    np.testing.assert_array_equal(losses.count, expected.count)
    torch.testing.assert_close(
        weights(sliced.denoiser), weights(whole.denoiser), rtol=1e-4, atol=1e-5
    )
