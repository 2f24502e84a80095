"""torch.compile, whose gradient is compared with the plain one before it is trusted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stepsearch.diffusion.memory import is_out_of_memory
from stepsearch.diffusion.noise import NoiseProcess
from stepsearch.diffusion.seeds import generator
from stepsearch.diffusion.step import errors
from stepsearch.diffusion.training_config import Precision
from stepsearch.errors import UserError
from stepsearch.strategies.base import PredictionType

_CLOSE = {"float32": 0.02, "bfloat16": 0.1, "float16": 0.1}
"""How far apart, relative to their length, two gradients are by rounding at most."""


def compiled(
    network: nn.Module,
    process: NoiseProcess,
    prediction_type: PredictionType,
    x0: Tensor,
    precision: Precision,
    labels: Tensor | None = None,
) -> nn.Module:
    """The network, as torch.compile makes it for batches like x0 [n, C, H, W] and their labels.

    torch 2.10 to 2.13 make wrong gradients of some U-Nets and transformers, without a word
    (pytorch#190796, #193061, and on CPUs). Raises UserError if the gradient changes by more than
    rounding, or if torch cannot compile the network here.
    """
    torch.compiler.reset()  # of the networks before: it keeps a few, a lane trains many
    made: Any = torch.compile(network)
    noise = torch.randn(x0.shape, generator=generator("compile")).to(x0)
    t = torch.linspace(0, process.T - 1, len(x0), device=x0.device).long()

    def gradient(computed: nn.Module) -> Tensor:
        mse = errors(computed, process, prediction_type, x0, noise, t, precision, labels)
        parts = torch.autograd.grad(mse.mean(), _trainable(network))
        return torch.cat([part.flatten() for part in parts])

    with _stirred(network):
        plain = gradient(network)
        try:
            found = gradient(made)
        except Exception as error:  # of dynamo, inductor, Triton or a compiler
            if is_out_of_memory(error):
                raise
            raise _refusal(f"fails on {x0.device.type} here", str(error)) from None
    apart = float((found - plain).norm() / plain.norm())
    if not apart < _CLOSE[precision]:
        off = f"{apart:.1%} off, by torch {torch.__version__} on {x0.device.type}"
        raise _refusal("changes the denoiser's gradient", off)
    checked: nn.Module = made
    return checked


def _refusal(where: str, reason: str) -> UserError:
    line = (reason.splitlines() or ["no reason given"])[0]
    return UserError(
        f"training.compile must be false where torch.compile {where}, got true: {line}"
    )


def _trainable(network: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in network.parameters() if weight.requires_grad]


@contextmanager
def _stirred(network: nn.Module) -> Iterator[None]:
    """Away from initial zeros, behind which there is no gradient, and without dropout."""
    weights, own = _trainable(network), generator("stir")
    before = [weight.detach().clone() for weight in weights]
    drops = any(isinstance(part, nn.Dropout) and part.p for part in network.modules())
    network.train(not drops)
    try:
        with torch.no_grad():
            for weight in weights:
                weight.add_(torch.randn(weight.shape, generator=own).to(weight), alpha=0.02)
        yield
    finally:
        network.train()
        with torch.no_grad():
            for weight, kept in zip(weights, before, strict=True):
                weight.copy_(kept)
