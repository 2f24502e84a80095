"""Search the number of stages of a multi-stage denoiser and where they begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np

from search_spaces.base import FixedPoint, SearchSpace, Suggest, bounds
from stepsearch.diffusion.denoisers import MultistageUNetConfig
from stepsearch.diffusion.denoisers.multistage import algorithm_1, algorithm_2
from stepsearch.diffusion.stages.kernels import KERNELS
from stepsearch.errors import UserError
from stepsearch.search.trial import TrainerFacts
from stepsearch.strategies.base import FloatArray, snr

_FEWEST = 50
"""A stage has at least 1/50 of the timesteps."""


class StagesSpace(SearchSpace):
    """1 to 5 stages and their boundaries; every decoder is as wide as the encoder.

    So an evaluation costs the same in all trials, and one stage is the plain U-Net: the baseline.
    Boundaries are in order by construction. The parameters are `stages` and, for n of them,
    n.1 ... n.(n-1): uniform ones give boundaries uniform over all ordered ones, in timesteps.
    """

    kind: Literal["stages"] = "stages"
    stages: Annotated[tuple[int, int], bounds(1, 5, baseline=1)] = (1, 5)

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        n = trial.suggest_int("stages", *self.stages)
        shares = [trial.suggest_float(f"{n}.{k}", 0.0, 1.0) for k in range(1, n)]
        times = _times(facts)
        boundaries = [round(float(times[start]), 6) for start in _starts(ordered(shares), times)]
        denoiser = multistage(self, facts)
        return {
            "denoiser": {
                "kind": denoiser.kind,
                "boundaries": boundaries,
                "decoders": [list(denoiser.channels)] * n,
            }
        }

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        points = [FixedPoint("one stage", {"stages": 1})]
        if facts.data is None:
            return points
        for n in range(2, self.stages[1] + 1):
            first = algorithm_1(facts.data()) if n == 3 else None
            boundaries = first or algorithm_2(facts.data(), n)
            label = f"{n} stages by Algorithm {1 if first else 2}"
            points.append(FixedPoint(label, _point(boundaries, facts)))
        return points

    def carried(
        self, params: Mapping[str, Any], here: TrainerFacts, there: TrainerFacts
    ) -> dict[str, Any]:
        """The boundaries go where the log-SNR is the same, or as near as stages may begin."""
        n = params["stages"]
        if n == 1 or np.array_equal(here.alpha_bar, there.alpha_bar):
            return dict(params)
        times = _times(here)
        starts = _starts(ordered([params[f"{n}.{k}"] for k in range(1, n)]), times)
        return _point([times[start] for start in starts], there)

    def check(self, facts: TrainerFacts) -> None:
        super().check(facts)
        if multistage(self, facts).stages_apart:
            raise UserError(
                "space 'stages' must be used with trainer.denoiser.stages_a_worker all, got 'one':"
                " the number of stages changes, that of the workers does not"
            )


def multistage(space: SearchSpace, facts: TrainerFacts) -> MultistageUNetConfig:
    """The trainer's denoiser, the default one of a trainer that does not say.

    Raises UserError if it is of another kind.
    """
    denoiser = facts.denoiser or MultistageUNetConfig()
    if isinstance(denoiser, MultistageUNetConfig):
        return denoiser
    kind = getattr(denoiser, "kind", None)
    raise UserError(
        f"space {space.kind!r} must be used with trainer.denoiser.kind multistage_unet,"
        f" got {kind!r}"
    )


def ordered(shares: Sequence[float]) -> list[float]:
    """m numbers in [0, 1] as m rising ones: independent uniform ones become their order
    statistics, x_k = 1 - (1 - x_(k-1)) (1 - u_k)^(1 / (m - k + 1)), which are uniform over all.
    """
    left, rising = 1.0, []
    for k, share in enumerate(shares):
        left *= (1 - share) ** (1 / (len(shares) - k))
        rising.append(1 - left)
    return rising


def unordered(rising: Sequence[float]) -> list[float]:
    """The inverse of `ordered`; the numbers are below 1."""
    m, pairs = len(rising), pairwise([0.0, *rising])
    return [1 - ((1 - x) / (1 - before)) ** (m - k) for k, (before, x) in enumerate(pairs)]


def _point(boundaries: Sequence[float], facts: TrainerFacts) -> dict[str, Any]:
    """The parameters of these boundaries."""
    n, shares = len(boundaries) + 1, unordered(_places(boundaries, _times(facts)))
    return {"stages": n, **{f"{n}.{k}": share for k, share in enumerate(shares, 1)}}


def _times(facts: TrainerFacts) -> FloatArray:
    """The VP time halfway in log-SNR before each timestep; NaN where no stage may begin."""
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = snr(facts.alpha_bar) ** -0.5
        between = np.sqrt(sigma[1:] * sigma[:-1])
        times = np.r_[np.nan, KERNELS["vp"].time(between)]
    margin = max(1, facts.T // _FEWEST)
    times[:margin] = times[facts.T - margin + 1 :] = np.nan
    times[~((times > 1e-3) & (times < 1 - 1e-3))] = np.nan
    return np.asarray(times)


def _starts(rising: Sequence[float], times: FloatArray) -> list[int]:
    """Timesteps at these places of those where a stage may begin, far enough from each other."""
    low, gap, room = _room(len(rising), times)
    return [low + gap * k + min(int(x * (room + 1)), room) for k, x in enumerate(rising)]


def _places(boundaries: Sequence[float], times: FloatArray) -> list[float]:
    """The inverse of `_starts`, for the timesteps that are nearest to the boundaries."""
    low, gap, room = _room(len(boundaries), times)
    starts = [int(np.nanargmin(np.abs(times - boundary))) for boundary in boundaries]
    places = [(start - low - gap * k + 0.5) / (room + 1) for k, start in enumerate(starts)]
    least, most = 0.5 / (room + 1), (room + 0.5) / (room + 1)
    rising: list[float] = np.maximum.accumulate(np.clip(places, least, most)).tolist()
    return rising


def _room(m: int, times: FloatArray) -> tuple[int, int, int]:
    """The first timestep where a stage may begin, the shortest stage, and the rest for m."""
    allowed = np.flatnonzero(np.isfinite(times))
    gap = max(1, len(times) // _FEWEST)
    return int(allowed[0]), gap, int(allowed[-1] - allowed[0]) - gap * (m - 1)
