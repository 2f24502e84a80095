"""What a denoiser with stages costs: parameters and FLOPs of each stage and of all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from stepsearch.diffusion.multistage.networks import MultistageModel


@dataclass(frozen=True)
class Amount:
    """The size of a network and what one evaluation of it takes for one image."""

    parameters: float
    flops: float
    """A multiplication and an addition are two."""

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.parameters + other.parameters, self.flops + other.flops)


@dataclass(frozen=True)
class StageCosts:
    """As in Tables 7 to 9 of the multi-stage paper."""

    shared: Amount
    """The encoder."""
    stages: tuple[Amount, ...]
    """The encoder and the decoder of a stage: what an evaluation inside it takes."""

    @property
    def parameters(self) -> float:
        """Of the whole denoiser: the encoder's and all decoders'."""
        own = (stage.parameters - self.shared.parameters for stage in self.stages)
        return self.shared.parameters + sum(own)

    @property
    def shared_share(self) -> float:
        """The encoder's part of all parameters."""
        return self.shared.parameters / self.parameters

    def flops(self, evaluations: Sequence[float]) -> float:
        """Mean FLOPs of an evaluation when a sampler evaluates each stage so many times.

        Raises ValueError unless there is a number for every stage, and one above 0.
        """
        return float(
            np.average([s.flops for s in self.stages], weights=_checked(evaluations, self.stages))
        )

    def training_flops(self, images: float) -> float:
        """Of a training that sees so many images, equally many in each stage.

        A step backward is taken for two steps forward.
        """
        return 3 * images * self.flops([1] * len(self.stages))


def _checked(evaluations: Sequence[float], stages: Sequence[Amount]) -> Sequence[float]:
    if len(evaluations) != len(stages) or min(evaluations) < 0 or not sum(evaluations):
        raise ValueError(
            f"evaluations must be {len(stages)} numbers >= 0, not all 0, got {list(evaluations)}"
        )
    return evaluations


def stage_costs(network: MultistageModel, shape: tuple[int, int, int]) -> StageCosts:
    """Counted on `network` with one image of `shape` (C, H, W)."""
    image = torch.zeros(1, *shape, device=network.device, dtype=network.dtype)
    time = torch.zeros(1, device=network.device)
    decoders = sum(_parameters(decoder) for decoder in network.decoders)
    # the counter knows the plain attention on every device, the fused one not on a CPU
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as counter:
            features = network.encode(image, time)
        shared = Amount(_parameters(network) - decoders, counter.get_total_flops())
        stages = []
        for decoder in network.decoders:
            with FlopCounterMode(display=False) as counter:
                decoder(features)
            flops = shared.flops + counter.get_total_flops()
            stages.append(Amount(shared.parameters + _parameters(decoder), flops))
    return StageCosts(shared, tuple(stages))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
