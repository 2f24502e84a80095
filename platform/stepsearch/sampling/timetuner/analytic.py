"""Analytic-DPM (Bao et al. 2022): the variance of each step from E||eps||^2 of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Literal

import torch
from torch import Tensor

Noise = torch.Generator | list[torch.Generator] | None
_PIXEL = 2 / 255
"""A grey level, of images in [-1, 1]."""


class AnalyticScheduler:
    """Analytic-DDPM and Analytic-DDIM with the interface of a diffusers scheduler.

    Gamma_t = E||eps(x_t, t)||^2 / d, measured once at the nominal timesteps, says how much of x0
    is unknown given x_t: cov = (1 - abar)/abar (1 - Gamma), clipped to [0, 1].
    """

    init_noise_sigma = 1.0

    def __init__(
        self,
        alpha_bar: Tensor,
        gamma: Tensor,
        prediction_type: str,
        kind: Literal["ddim", "ddpm"],
        *,
        clip_sample: bool = False,
        pixels: float = 1.0,
    ) -> None:
        """`gamma` [K] belongs to the timesteps in the order of sampling; `pixels` bounds the noise
        of the last random step, in grey levels."""
        self.alpha_bar, self.gamma = alpha_bar, gamma
        self.prediction_type, self.kind = prediction_type, kind
        self.clip_sample, self.pixels = clip_sample, pixels
        self.timesteps = torch.zeros(0)

    def set_timesteps(self, timesteps: list[int]) -> None:
        """Integers, falling."""
        self.timesteps = torch.tensor(timesteps)

    def scale_model_input(self, sample: Tensor, timestep: object) -> Tensor:
        return sample

    def step(
        self, output: Tensor, t: int, x: Tensor, *, eta: float = 0.0, generator: Noise = None
    ) -> SimpleNamespace:
        """From t to the timestep after it; the last one leaves no noise."""
        index = self.timesteps.tolist().index(t)
        abar = self.alpha_bar[t].double()
        eps, x0 = _eps_and_x0(output, x, abar, self.prediction_type)
        x0 = x0.clamp(-1, 1) if self.clip_sample else x0
        if index + 1 == len(self.timesteps):
            return SimpleNamespace(prev_sample=x0)
        abar_s = self.alpha_bar[int(self.timesteps[index + 1])].double()
        mean, variance = self._transition(index, eta, abar, abar_s, x, x0, eps)
        if index + 2 == len(self.timesteps):
            variance = min(variance, (self.pixels * _PIXEL * math.sqrt(math.pi / 2)) ** 2)
        return SimpleNamespace(prev_sample=mean + math.sqrt(variance) * _like(x, generator))

    def _transition(
        self,
        index: int,
        eta: float,
        abar: Tensor,
        abar_s: Tensor,
        x: Tensor,
        x0: Tensor,
        eps: Tensor,
    ) -> tuple[Tensor, float]:
        """Mean and variance of x_s given x_t, s the next timestep."""
        bbar, bbar_s = 1 - abar, 1 - abar_s
        beta = 1 - abar / abar_s
        cov = (bbar / abar * (1 - self.gamma[index].double())).clamp(0, 1)
        if self.kind == "ddpm":
            from_x0 = abar_s.sqrt() * beta / bbar
            mean = float(from_x0) * x0 + float((1 - beta).sqrt() * bbar_s / bbar) * x
            return mean, float(beta * bbar_s / bbar + from_x0**2 * cov)
        noise = eta**2 * beta * bbar_s / bbar
        direction = (bbar_s - noise).sqrt()
        mean = float(abar_s.sqrt()) * x0 + float(direction) * eps
        return mean, float(noise + (abar_s.sqrt() - direction * (abar / bbar).sqrt()) ** 2 * cov)


def _eps_and_x0(
    output: Tensor, x: Tensor, abar: Tensor, prediction_type: str
) -> tuple[Tensor, Tensor]:
    """The noise and the image that an output stands for, x being what the network saw."""
    a, s = float(abar.sqrt()), float((1 - abar).sqrt())
    if prediction_type == "epsilon":
        return output, (x - s * output) / a
    if prediction_type == "sample":
        return (x - a * output) / s, output
    return a * output + s * x, a * x - s * output


def _like(x: Tensor, generator: Noise) -> Tensor:
    from diffusers.utils.torch_utils import randn_tensor

    drawn: Tensor = randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return drawn


@torch.no_grad()
def measure_gamma(
    predict: Callable[[Tensor, Tensor], Tensor],
    alpha_bar: Tensor,
    timesteps: list[int],
    images: Tensor,
    noise: Tensor,
    prediction_type: str = "epsilon",
) -> Tensor:
    """E||eps(x_t, t)||^2 / d at each timestep, over `images` with `noise`; [K].

    `predict` is the network: x_t [N, C, H, W] and t, a number, to its output.
    """
    gamma = []
    for t in timesteps:
        abar = alpha_bar[t]
        x = float(abar.sqrt()) * images + float((1 - abar).sqrt()) * noise
        output = predict(x, torch.tensor(float(t), device=x.device))
        gamma.append(_eps_and_x0(output, x, abar, prediction_type)[0].square().mean())
    return torch.stack(gamma)
