"""Samplers on every noise process: Gaussians drawn exactly, and diffusers' pipelines equalled."""

from typing import Any

import pytest
import torch
from diffusers import ConsistencyModelPipeline, DDIMPipeline, DDPMPipeline
from torch import Tensor

from stepsearch.config import parse
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import PROCESSES, NoiseProcess
from stepsearch.diffusion.seeds import generator
from stepsearch.errors import UserError
from stepsearch.sampling.sampler import SamplerConfig, diffusion_scheduler, generate
from stepsearch.sampling.schedulers import SCHEDULERS
from stepsearch.strategies import PredictionType

SHAPE = (1, 8, 8)
MEAN, DEVIATION = 0.2, 0.18  # clipped to [-1, 1] less than once in 100,000
ZERO = {"zero_terminal_snr": True}

# the process, the target, the sampler; together they are in the table of diffusers' schedulers
CASES: dict[str, tuple[dict[str, Any], PredictionType, dict[str, Any]]] = {
    "vp, ddim": ({"kind": "vp"}, "epsilon", {"kind": "ddim"}),
    "vp, ddpm": ({"kind": "vp"}, "v_prediction", {"kind": "ddpm"}),
    "zero SNR, ddim": ({"kind": "vp", **ZERO}, "v_prediction", {"kind": "ddim"}),
    "zero SNR, ddpm": ({"kind": "vp", **ZERO}, "sample", {"kind": "ddpm"}),
    "edm, euler": ({"kind": "edm"}, "edm", {"kind": "euler"}),
    "edm, dpm": ({"kind": "edm", "sigma_min": 0.01, "sigma_max": 20}, "edm", {"kind": "dpm"}),
    "flow, euler": ({"kind": "flow"}, "flow", {"kind": "euler"}),
    "flow of SD3": ({"kind": "flow", "shift": 3, "timesteps": 500}, "flow", {"kind": "euler"}),
}
STEPS = {"ddim": 1000, "ddpm": 1000, "euler": 250, "dpm": 40}
every_case = pytest.mark.parametrize("case", CASES)


def build(case: str, **fields: Any) -> tuple[NoiseProcess, PredictionType, SamplerConfig]:
    noise, target, sampler = CASES[case]
    process = parse(PROCESSES[noise["kind"]], noise).build()
    return process, target, SamplerConfig(**{"clip_sample": False, **sampler, **fields})


def test_every_sampler_of_the_table_is_tested() -> None:
    table = {(kind, sampler) for kind, samplers in SCHEDULERS.items() for sampler in samplers}
    assert {(noise["kind"], sampler["kind"]) for noise, _, sampler in CASES.values()} == table
    assert set(SCHEDULERS) == set(PROCESSES)


class Gaussian(torch.nn.Module):
    """The best denoiser of images whose pixels are N(MEAN, DEVIATION^2), from what a network is
    told: its input a x0 + b eps and the time. Formulas of the papers, not of the code.
    """

    def __init__(self, process: NoiseProcess, target: PredictionType) -> None:
        super().__init__()
        self.process, self.target = process, target

    def forward(self, x: Tensor, time: Tensor) -> Any:
        a, b = self.signal_and_noise(time)
        variance = (a * DEVIATION) ** 2 + b**2
        x0 = MEAN + a * DEVIATION**2 / variance * (x - a * MEAN)
        eps = b / variance * (x - a * MEAN)
        v = (a * eps - b * x0) / (a**2 + b**2) ** 0.5
        sigma = b / a.clamp(min=1e-12)
        edm = (sigma / 0.5 * x0 - 0.5 * eps) / (sigma**2 + 0.25) ** 0.5
        outputs = {"epsilon": eps, "sample": x0, "v_prediction": v, "edm": edm, "flow": eps - x0}
        return type("Output", (), {"sample": outputs[self.target].float()})

    def signal_and_noise(self, time: Tensor) -> tuple[Tensor, Tensor]:
        time = time.double()
        if self.process.kind == "edm":
            sigma = torch.exp(4 * time)
            scale = (sigma**2 + 0.25) ** -0.5
            return scale, scale * sigma
        if self.process.kind == "flow":
            return 1 - time / self.process.T, time / self.process.T
        abar = torch.tensor(self.process.alpha_bar)[time.long()]
        return abar**0.5, (1 - abar) ** 0.5


@every_case
def test_a_perfect_denoiser_draws_the_distribution_of_its_images(case: str) -> None:
    """The deviation is what a sampler with too much or too little noise gets wrong."""
    process, target, sampler = build(case, num_steps=STEPS[CASES[case][2]["kind"]])
    images = generate(
        Gaussian(process, target),
        process,
        sampler,
        150,
        shape=SHAPE,
        prediction_type=target,
        seed=0,
    )
    assert images.mean().item() == pytest.approx(MEAN, abs=0.006)
    assert images.std().item() == pytest.approx(DEVIATION, rel=0.03)
    skewness = ((images - images.mean()) ** 3).mean() / images.std() ** 3
    assert abs(skewness.item()) < 0.1


def test_the_gaussian_is_the_best_denoiser_of_what_a_training_sees() -> None:
    """Its error is lower than that of one for another deviation, so the test above means it."""
    for case in CASES:
        process, target, _ = build(case)
        noise = torch.Generator().manual_seed(0)
        x0 = MEAN + DEVIATION * torch.randn(4000, generator=noise)
        eps = torch.randn(4000, generator=noise)
        t = torch.full((4000,), process.T * 3 // 10)
        x_t, y = process.add_noise(x0, eps, t), process.target(x0, eps, t, target)
        best = Gaussian(process, target)(x_t, process.time(t)).sample
        error = ((best - y) ** 2).mean()
        assert error < ((1.05 * best - y) ** 2).mean()
        assert error < ((0.95 * best - y) ** 2).mean()
        assert error < ((best + 0.05 * best.std() - y) ** 2).mean()


PIPELINES = {"ddim": DDIMPipeline, "ddpm": DDPMPipeline, "dpm": ConsistencyModelPipeline}


@every_case
def test_images_are_those_of_diffusers_own_pipeline(case: str) -> None:
    """ConsistencyModelPipeline is the unconditional one that scales, as EDM's schedulers need."""
    process, target, sampler = build(case, num_steps=10)
    denoiser = UNetConfig(channels=(8, 16)).build(SHAPE, seed=0).eval()
    flow = process.kind == "flow"
    ours = generate(
        denoiser,
        process,
        sampler.model_copy(update={"batch_size": 2}),  # a scheduler that counts must start anew
        4,
        shape=SHAPE,
        prediction_type=target,
        seed=3,
    )
    scheduler = diffusion_scheduler(process, sampler, target)
    kind = DDPMPipeline if flow else PIPELINES.get(sampler.kind, ConsistencyModelPipeline)
    pipeline = kind(denoiser, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=4,
        generator=[generator("image", 3, i) for i in range(4)],
        num_inference_steps=10,
        output_type="np",
    ).images
    theirs = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    assert ours.std() > 0.1


@pytest.mark.parametrize("num_steps", [1, 3, 17])
@pytest.mark.parametrize("case", ["edm, euler", "edm, dpm", "flow, euler"])
def test_any_number_of_steps_goes_on_a_continuous_process(case: str, num_steps: int) -> None:
    process, target, sampler = build(case, num_steps=num_steps)
    denoiser = Gaussian(process, target)
    options = {"shape": SHAPE, "prediction_type": target, "seed": 0}
    images = generate(denoiser, process, sampler, 20, **options)
    assert images.mean().item() == pytest.approx(MEAN, abs=0.1)


@pytest.mark.parametrize(
    ("kind", "sampler", "rule"),
    [
        ("vp", "euler", "ddim or ddpm on noise.kind vp"),
        ("edm", "ddim", "euler or dpm on noise.kind edm"),
        ("flow", "dpm", "euler on noise.kind flow"),
    ],
)
def test_a_sampler_of_another_process_is_refused(kind: str, sampler: str, rule: str) -> None:
    with pytest.raises(UserError) as error:
        parse(SamplerConfig, {"kind": sampler}).check(PROCESSES[kind]().build())
    assert str(error.value) == f"sampler.kind must be {rule}, got {sampler!r}"
