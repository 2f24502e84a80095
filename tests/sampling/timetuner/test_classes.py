"""Times for a denoiser that is told classes: with each image's own, and for a guidance scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.sampling.bundle.denoiser_pipeline import DenoiserPipeline
from stepsearch.sampling.guidance import labels_of
from stepsearch.sampling.sampler import SamplerConfig, generate
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    GradientConfig,
    Network,
    SolverConfig,
    Tuned,
    Verdict,
    by_class,
    draw,
    evaluate,
    guided,
    losses,
    tune_end_to_end,
    tune_slot,
    write_tuned,
)
from stepsearch.sampling.timetuner.tuned_timesteps import attach, load, scheduler
from tests.sampling.timetuner.in_range import inside

PROCESS = VPConfig().build()
NOISE, SHAPE = PROCESS.scheduler_config(), (1, 8, 8)
DATA = DigitsConfig().load()
QUICK = GradientConfig(batch_size=8, batches=2, held_out=1, iterations=2, check_every=1)
SAMPLER = SolverConfig(num_steps=4, clip_sample=True)
ROUNDING = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def denoiser() -> Any:
    network = UNetConfig(channels=(8, 16)).build(SHAPE, 0, classes=10).eval()
    with torch.no_grad():
        network.conv_out.weight.mul_(4)
    return network.requires_grad_(False)


def network_of(denoiser: Any, guidance: float, labels: Tensor | None = None) -> Network:
    solver = SAMPLER.build(NOISE, "v_prediction")  # its images are in range, untrained
    labels = DATA.train_labels if labels is None else labels
    return Network(by_class(denoiser, guidance), solver, labels=labels)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_untuned_times_draw_the_samplers_images(denoiser: Any, guidance: float) -> None:
    network = network_of(denoiser, guidance)
    images = draw(network, network.solver.times, 6, shape=SHAPE, seed=3)
    expected = generate(
        denoiser,
        PROCESS,
        SamplerConfig(num_steps=4, guidance=guidance),
        6,
        shape=SHAPE,
        prediction_type="v_prediction",
        seed=3,
        class_shares=DATA.class_shares,
    )
    torch.testing.assert_close(images, expected, **ROUNDING)
    assert inside(images) > 0.5
    later = draw(network, network.solver.times, 2, shape=SHAPE, seed=3, first=4, batch_size=1)
    torch.testing.assert_close(later, images[4:], **ROUNDING)


def test_every_image_is_tuned_on_with_its_own_class(denoiser: Any) -> None:
    """Images that are as bright as their class says, hardly noised: the network sees both."""
    labels = torch.arange(10).repeat(5)
    images = ((labels - 4.5) / 5).view(-1, 1, 1, 1).expand(-1, *SHAPE).contiguous()
    seen: list[tuple[float, int]] = []

    def note(_module: Any, args: Any, kwargs: Any) -> None:
        means = args[0].flatten(1).mean(1)
        seen.extend(zip(means.tolist(), kwargs["class_labels"].tolist(), strict=True))

    network = network_of(denoiser, 1.0, labels)
    network.solver.scales[0] = (1.0, 0.01)
    handle = denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        batches = QUICK.batches + QUICK.held_out
        tune_slot(network, 0, images, QUICK)
    finally:
        handle.remove()
    first = seen[: batches * QUICK.batch_size]  # the targets, before any step
    assert all(abs(mean - (label - 4.5) / 5) < 0.05 for mean, label in first)
    assert len({label for _, label in first}) > 5


def test_the_loss_depends_on_the_labels_and_on_the_scale(denoiser: Any) -> None:
    times = network_of(denoiser, 1.0).solver.times
    assert DATA.train_labels is not None
    found = [
        losses(network_of(denoiser, guidance, labels), times, DATA.train, QUICK)
        for guidance, labels in (
            (1.0, DATA.train_labels),
            (4.0, DATA.train_labels),
            (1.0, (DATA.train_labels + 1) % 10),
        )
    ]
    assert found[0] != found[1]
    assert found[0] != found[2]


def test_all_slots_together_are_tuned_with_classes(denoiser: Any) -> None:
    config = EndToEndConfig(iterations=2, batch_size=8, real=16, held_out=16)
    network = network_of(denoiser, 2.0)
    plain = tune_end_to_end(network, DATA.train, config)
    assert plain.distance is not None
    assert plain.distance[1] <= plain.distance[0]
    recomputed = config.model_copy(update={"recompute": True})
    again = tune_end_to_end(network, DATA.train, recomputed)
    torch.testing.assert_close(again.tau, plain.tau, rtol=1e-3, atol=0.1)


@pytest.fixture
def folder(denoiser: Any, tmp_path: Path) -> Path:
    network = network_of(denoiser, 2.0)
    times, zeros = network.solver.times, (0.0,) * 4
    tuned = Tuned(times - 7.5, times, zeros, zeros, (0,) * 4)
    verdict = Verdict("gap", (1.0,), (2.0,))
    sampler = SAMPLER.model_copy(update={"guidance": 2.0})
    return write_tuned(tmp_path / "tuned", network, denoiser, sampler, tuned, verdict)


def test_the_file_names_the_scale_that_the_network_was_guided_with(
    folder: Path, denoiser: Any, tmp_path: Path
) -> None:
    assert json.loads((folder / "timetuner.json").read_text())["guidance_scale"] == 2
    assert "guidance scale 2" in (folder / "README.md").read_text()
    solver = network_of(denoiser, 1.0).solver
    times, zeros = solver.times, (0.0,) * 4
    parts = (Tuned(times, times, zeros, zeros, (0,) * 4), Verdict("gap", (1.0,), (2.0,)))
    conditions = ({"class_labels": torch.tensor([label])} for label in (0, 3))
    runs = {1: by_class(denoiser), 3: guided(denoiser, 3.0, *conditions), None: evaluate(denoiser)}
    for scale, run in runs.items():
        out = write_tuned(tmp_path / f"{scale}", Network(run, solver), denoiser, SAMPLER, *parts)
        assert json.loads((out / "timetuner.json").read_text())["guidance_scale"] == scale


@pytest.mark.parametrize("halves", ["in one batch", "in two calls"])
def test_a_hook_tells_one_time_a_step_however_the_halves_are_evaluated(
    halves: str, folder: Path, denoiser: Any
) -> None:
    schedule, labels = load(folder / "timetuner.json"), labels_of(DATA.class_shares, 0, 3)
    noise = [generator("image", 0, i) for i in range(3)]
    network = network_of(denoiser, 2.0)
    expected = draw(network, torch.tensor(schedule["tau"]), 3, shape=SHAPE, seed=0)
    if halves == "in one batch":
        pipeline = DenoiserPipeline(denoiser, scheduler(schedule))
        pipeline.set_progress_bar_config(disable=True)
        handle = attach(denoiser, schedule)
        options = {"guidance_scale": 2.0, "num_inference_steps": 4, "output_type": "pt"}
        images = pipeline(class_labels=labels, generator=noise, **options).images * 2 - 1
    else:
        handle = attach(denoiser, schedule, calls_per_step=2)
        runs = scheduler(schedule)
        runs.set_timesteps(4)
        images = torch.cat([torch.randn(1, *SHAPE, generator=each) for each in noise])
        for t in runs.timesteps:
            null, told = (
                denoiser(images, t, class_labels=each).sample
                for each in (torch.full_like(labels, 10), labels)
            )
            images = runs.step(null + 2 * (told - null), t, images).prev_sample
        images = images.clamp(-1, 1)
    handle.remove()
    torch.testing.assert_close(images, expected, **ROUNDING)
    assert inside(images) > 0.5
    untuned = draw(network, network.solver.times, 3, shape=SHAPE, seed=0)
    assert (images - untuned).abs().mean() > 1e-3
