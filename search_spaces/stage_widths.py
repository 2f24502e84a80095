"""Search how wide the parts of a multi-stage denoiser are, at the same total."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from search_spaces.base import FixedPoint, Range, SearchSpace, Suggest, bounds
from search_spaces.stages import multistage
from stepsearch.diffusion.denoisers import MultistageUNetConfig
from stepsearch.diffusion.multistage.unet_arithmetic import unet_costs
from stepsearch.errors import UserError
from stepsearch.search.trial import TrainerFacts

_STEP = 4
"""Decoders' channels are multiples of it, the encoder's of the groups of its norms."""
_HALVINGS = 40

Widths = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]
"""Channels of the encoder and of each decoder."""


class StageWidthsSpace(SearchSpace):
    """The widths of the decoders relative to each other, and of the encoder.

    The total is that of the trainer's denoiser with every decoder as wide as its encoder, which
    is the baseline, up to the rounding of channels. The encoder's width is what Tables 7 and 8 of
    the multi-stage paper vary: the share of the parameters that all stages share.
    """

    kind: Literal["stage_widths"] = "stage_widths"
    total: Literal["parameters", "flops"] = "parameters"
    """flops: the mean of an evaluation over the stages."""
    width: Annotated[Range, bounds(0.01, 100, baseline=1)] = (0.125, 2.0)
    """Of a decoder beside the others; drawn on a log scale."""
    encoder: Annotated[Range, bounds(0.1, 10, baseline=1)] = (0.5, 1.25)
    """Times the trainer's denoiser.channels; drawn on a log scale."""

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        denoiser = multistage(self, facts)
        stages = range(1, denoiser.n + 1)
        ratios = [trial.suggest_float(f"width{k}", *self.width, log=True) for k in stages]
        encoder = trial.suggest_float("encoder", *self.encoder, log=True)
        channels, decoders = self._widths(facts, encoder, ratios)
        return {
            "denoiser": {
                "kind": denoiser.kind,
                "channels": list(channels),
                "decoders": [list(decoder) for decoder in decoders],
            }
        }

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        def point(label: str, *widths: float) -> FixedPoint:
            numbers = {f"width{k}": width for k, width in enumerate(widths, 1)}
            return FixedPoint(label, {**numbers, "encoder": 1.0})

        n = multistage(self, facts).n
        points = [point("equal widths", *[1.0] * n)]
        if n == 3:
            points.append(point("Multistage (paper, CIFAR-10)", 1.5, 1.0, 0.125))
            points.append(point("Multistage (paper, CelebA)", 256 / 224, 192 / 224, 128 / 224))
        ranges = {f"width{k}": self.width for k in range(1, n + 1)}
        return [point for point in points if point.lies_in(ranges)]

    def check(self, facts: TrainerFacts) -> None:
        super().check(facts)
        denoiser = multistage(self, facts)
        least = _channels(denoiser, self.encoder[1]), _decoders(denoiser, 0, [1] * denoiser.n)
        if self._amount(facts, least) > self._target(facts):
            raise UserError(
                f"stage_widths.encoder must leave some of the {self.total} to the decoders,"
                f" got {self.encoder}"
            )

    def _widths(self, facts: TrainerFacts, encoder: float, ratios: Sequence[float]) -> Widths:
        """The widest decoders in these ratios that keep the total, by bisection."""
        denoiser = multistage(self, facts)
        channels, target = _channels(denoiser, encoder), self._target(facts)
        low, high = 0.0, 4 / min(ratios)
        for _ in range(_HALVINGS):
            scale = (low + high) / 2
            widths = channels, _decoders(denoiser, scale, ratios)
            low, high = (scale, high) if self._amount(facts, widths) <= target else (low, scale)
        return channels, _decoders(denoiser, low, ratios)

    def _target(self, facts: TrainerFacts) -> float:
        denoiser = multistage(self, facts)
        return self._amount(facts, (denoiser.channels, (denoiser.channels,) * denoiser.n))

    def _amount(self, facts: TrainerFacts, widths: Widths) -> float:
        channels, decoders = widths
        changed = {"channels": channels, "decoders": decoders}
        if facts.data is None:
            raise UserError("space 'stage_widths' must be used with a trainer that has a data set")
        sized = multistage(self, facts).model_copy(update=changed)
        return _amount(sized, facts.data().shape)[self.total]


def _amount(denoiser: MultistageUNetConfig, shape: tuple[int, int, int]) -> dict[str, float]:
    """Parameters and mean FLOPs of an evaluation."""
    costs = unet_costs(
        shape,
        denoiser.channels,
        denoiser.decoders,
        layers=denoiser.layers,
        attention=denoiser.attention == "mid",
    )
    return {"parameters": costs.parameters, "flops": costs.flops([1] * denoiser.n)}


def _channels(denoiser: MultistageUNetConfig, factor: float) -> tuple[int, ...]:
    """The encoder's channels times a factor."""
    step = denoiser.groups
    return tuple(max(step, step * round(factor * width / step)) for width in denoiser.channels)


def _decoders(
    denoiser: MultistageUNetConfig, scale: float, ratios: Sequence[float]
) -> tuple[tuple[int, ...], ...]:
    return tuple(
        tuple(
            max(_STEP, _STEP * round(scale * ratio * width / _STEP)) for width in denoiser.channels
        )
        for ratio in ratios
    )
