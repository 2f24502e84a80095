"""How alike the gradients of a denoiser's loss are at two timesteps, over a short training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.noise import NoiseProcess, VPConfig
from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.pixels import scaled
from stepsearch.strategies import UniformConfig
from stepsearch.strategies.base import FloatArray

_TIMES = 100
"""At t = 0.01, 0.02 ... 1."""
_EVERY = 100
"""Steps between two looks at the gradients, or fewer: the last one is at the end."""


def gradient_similarity(images: Tensor, steps: int, seed: int) -> FloatArray:
    """Mean over the training of the cosines between full gradients, float64 [100, 100].

    Trains the default U-Net with uniform timesteps on `images` [N, C, H, W] (see `scaled`) for so
    many steps on the CPU; every gradient is of the same batch with the same noise. Raises
    UserError if there is no such network for the images.
    """
    process, denoiser = VPConfig().build(), UNetConfig()
    channels, height, width = images.shape[1:]
    config = TrainingConfig()
    training = Training(
        config,
        denoiser.build((channels, height, width), seed),
        process,
        UniformConfig().build(process.alpha_bar),
        images,
        budget=steps * config.batch_size,
        seed=seed,
    )
    random = generator("gradients", seed)
    batch = scaled(images[torch.randint(len(images), (config.batch_size,), generator=random)])
    noise = torch.randn(batch.shape, generator=random)
    cosines = torch.zeros(_TIMES, _TIMES, dtype=torch.float64)
    looks = -(-steps // _EVERY)
    for look in range(1, looks + 1):
        training.run(steps * look // looks * config.batch_size)
        directions = _directions(training.denoiser, process, batch, noise)
        cosines += directions.mm(directions.T).double()
    return (cosines / looks).numpy()


def _directions(denoiser: nn.Module, process: NoiseProcess, x0: Tensor, noise: Tensor) -> Tensor:
    """The gradient at each of the times as a vector of length 1; [100, weights]."""
    weights = list(denoiser.parameters())
    directions = []
    for step in range(1, _TIMES + 1):
        t = torch.full((len(x0),), step * process.T // _TIMES - 1)
        loss = F.mse_loss(denoiser(process.add_noise(x0, noise, t), t).sample, noise)
        gradients = torch.autograd.grad(loss, weights)
        directions.append(F.normalize(torch.cat([g.flatten() for g in gradients]), dim=0))
    return torch.stack(directions)
