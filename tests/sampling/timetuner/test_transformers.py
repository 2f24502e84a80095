"""What diffusers' transformers are told: DiTPipeline calls them by keywords, in latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel
from torch import Tensor

from stepsearch.diffusion.denoisers.saved import load_network, read_saved
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    Network,
    SolverConfig,
    Tuned,
    Verdict,
    by_class,
    check_times,
    draw,
    tune_end_to_end,
    write_tuned,
)
from stepsearch.sampling.timetuner.tuned_timesteps import attach, load, scheduler
from tests.latents import write_vae

NOISE, SHAPE, CLASSES = VPConfig().build().scheduler_config(), (4, 4, 4), 1000
LABELS = torch.arange(CLASSES)


@pytest.fixture(scope="module")
def theirs() -> Any:
    transformer = DiTTransformer2DModel(
        2, 8, 4, 4, num_layers=1, sample_size=4, num_embeds_ada_norm=CLASSES
    ).eval()
    chance = torch.Generator().manual_seed(0)
    for weights in transformer.requires_grad_(False).parameters():
        torch.nn.init.normal_(weights, std=0.1, generator=chance)
    return transformer


@pytest.fixture(scope="module")
def ours(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same network as it is loaded to tune its times."""
    folder = tmp_path_factory.mktemp("transformer")
    theirs.save_pretrained(folder)
    network = load_network(folder, read_saved(folder, "path"), "path")
    return network.requires_grad_(False).eval()


def network_of(ours: Any, guidance: float = 1.0, **fields: Any) -> tuple[Network, SolverConfig]:
    sampler = SolverConfig(num_steps=4, guidance=guidance, **fields)
    run = by_class(ours, guidance)
    solver = sampler.build(NOISE, "epsilon")
    return Network(run, solver, labels=LABELS, latents=True), sampler


def exported(network: Network, sampler: SolverConfig, ours: Any, home: Path) -> dict[str, Any]:
    times, zeros = network.solver.times, (0.0,) * network.solver.nfe
    tuned = Tuned(times * 0.94 + 3.3, times, zeros, zeros, (0,) * len(zeros))
    verdict = Verdict("gap", (1.0,), (2.0,))
    write_tuned(home / "tuned", network, ours, sampler, tuned, verdict)
    return load(home / "tuned" / "timetuner.json")


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_diffusers_pipeline_draws_our_latents_with_tau(
    guidance: float, theirs: Any, ours: Any, tmp_path: Path
) -> None:
    """Bit for bit; with guidance the halves of its batch are the other way round."""
    network, sampler = network_of(ours, guidance)
    schedule = exported(network, sampler, ours, tmp_path)
    vae: Any = AutoencoderKL.from_pretrained(write_vae(tmp_path / "vae", shift_factor=None))
    pipeline = DiTPipeline(theirs, vae, scheduler(schedule))
    pipeline.set_progress_bar_config(disable=True)
    handle = attach(pipeline.transformer, schedule)
    labels = network.drawn(0, 3)
    assert labels is not None
    images = pipeline(
        labels.tolist(),
        guidance_scale=guidance,
        generator=[generator("image", 5, i) for i in range(3)],
        num_inference_steps=4,
        output_type="pt",
    ).images
    handle.remove()
    latents = draw(network, torch.tensor(schedule["tau"]), 3, shape=SHAPE, seed=5)
    with torch.no_grad():
        expected = (vae.decode(latents / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    tolerance = 0 if guidance == 1 else 1e-5
    torch.testing.assert_close(images, expected, rtol=0, atol=tolerance)
    untuned = draw(network, network.solver.times, 3, shape=SHAPE, seed=5)
    assert (latents - untuned).abs().mean() > 1e-3


@pytest.mark.parametrize("by_name", [(), ("timestep",), ("hidden_states", "timestep")])
def test_a_hook_finds_the_timestep_however_it_is_given(
    by_name: tuple[str, ...], theirs: Any, ours: Any, tmp_path: Path
) -> None:
    network, sampler = network_of(ours)
    schedule = exported(network, sampler, ours, tmp_path)
    x, labels = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)), LABELS[:2]
    given: dict[str, Tensor] = {"hidden_states": x, "timestep": torch.tensor([999, 999])}
    arguments = [value for name, value in given.items() if name not in by_name]
    named = {name: given[name] for name in by_name}
    handle = attach(theirs, schedule)
    found = theirs(*arguments, **named, class_labels=labels).sample
    handle.remove()
    tau = torch.tensor(schedule["tau"][:1] * 2)
    assert torch.equal(found, theirs(x, tau, class_labels=labels).sample)


def test_latents_are_tuned_and_drawn_without_clipping(ours: Any) -> None:
    network, _ = network_of(ours)
    assert network.under(network.solver).latents
    check_times(by_class(ours), torch.zeros(2, *SHAPE), 1000, LABELS[:2])
    times = network.solver.times
    drawn = draw(network, times, 8, shape=SHAPE, seed=0)
    assert drawn.abs().max() > 1
    clipped = Network(by_class(ours), network.solver, labels=LABELS)
    assert torch.equal(draw(clipped, times, 8, shape=SHAPE, seed=0), drawn.clamp(-1, 1))
    data = 2 * torch.randn(CLASSES, *SHAPE, generator=torch.Generator().manual_seed(1))
    config = EndToEndConfig(iterations=4, batch_size=8, real=64, held_out=16)
    found = [tune_end_to_end(each, data, config).distance for each in (network, clipped)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][0] != found[1][0], "what is compared is not clipped"
