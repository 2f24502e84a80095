"""Trajectories: the noise levels at which a sampler evaluates its network, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from stepsearch.errors import UserError
from stepsearch.sampling.timetuner.levels import LEVELS
from stepsearch.strategies.base import FloatArray

Trajectory = Literal[
    "leading",
    "leading_1",
    "trailing",
    "linspace",
    "quadratic",
    "quadratic_continuous",
    "log_snr",
    "edm",
    "ays",
    "gits",
    "score_optimal",
    "dmn",
    "dmn_latent",
]
TRAJECTORIES: tuple[Trajectory, ...] = get_args(Trajectory)
UNIFORM = ("leading", "leading_1", "trailing")
"""The trajectories that diffusers' DDIMScheduler runs itself."""
ENDS_ABOVE_ZERO = ("quadratic_continuous", *(name for name in LEVELS if name != "edm"))
"""The trajectories that end at the process's lowest noise level, not at none."""
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Knots:
    """K noise levels at which a network is evaluated, the noisiest first, and the one after them.

    A timestep is a label of the T discrete ones, t = 0 the least noisy; it may lie between two.
    """

    times: FloatArray
    """[K]"""
    sigmas: FloatArray
    """[K + 1], sqrt(1/abar - 1); the last is where sampling ends: 0, or the process's lowest."""


def knots(trajectory: Trajectory, K: int, alpha_bar: FloatArray) -> Knots:
    """K knots of a process with signal level `alpha_bar` [T].

    | trajectory | timesteps | ends at |
    |---|---|---|
    | leading | 0, s, 2s ... with s = T // K (DDIM) | no noise |
    | leading_1 | the same plus 1 (latent diffusion) | no noise |
    | trailing | T - 1, T - 1 - T/K ... (Lin et al. 2024) | no noise |
    | linspace | 0 ... T - 1 evenly, rounded (Analytic-DPM) | no noise |
    | quadratic | floor(linspace(0, sqrt(0.8 T), K)^2) (DDIM) | no noise |
    | quadratic_continuous | linspace(sqrt(1), sqrt(1/T), K + 1)^2 T - 1 (DPM-Solver) | t = 0 |
    | log_snr | log SNR evenly (DPM-Solver) | t = 0 |
    | edm | sigma^(1/7) evenly (EDM, rho = 7) | no noise |
    | ays | arctan(sigma / 0.5) evenly: optimal for N(0, 0.5^2) (Align Your Steps) | t = 0 |
    | gits | as GITS' for CIFAR-10, stretched in log sigma to this process | t = 0 |
    | score_optimal | even in the cost of the scores of N(0, 0.5^2) (Williams 2024) | t = 0 |
    | dmn, dmn_latent | lowest bound on the error of a solver, of pixels or latents (DMN) | t = 0 |

    Raises UserError where K is more than T, or gives a timestep twice or beyond the last.
    """
    T = len(alpha_bar)
    if not 1 <= K <= T:
        raise UserError(f"sampler.num_steps must be in 1..{T} (T), got {K}")
    log_sigma = np.log(1 / alpha_bar - 1) / 2
    lowest = float(np.exp(log_sigma[0]))
    ends = lowest if trajectory in ENDS_ABOVE_ZERO else 0.0
    if trajectory in LEVELS:
        levels = LEVELS[trajectory](K, float(log_sigma[-1]), float(log_sigma[0]))
        times = np.interp(np.log(levels), log_sigma, np.arange(T))
        return Knots(times, np.append(levels, ends))
    times = _times(trajectory, K, T)
    if times[0] > T - 1 or np.any(np.diff(times) >= 0):
        raise UserError(
            f"sampler.num_steps must give {trajectory} timesteps that fall and end within "
            f"0..{T - 1}, got {K}"
        )
    return Knots(times, np.append(np.exp(np.interp(times, np.arange(T), log_sigma)), ends))


def given(levels: Sequence[float], alpha_bar: FloatArray) -> Knots:
    """Knots at noise levels of one's own [K + 1], the last being where sampling ends.

    Raises UserError unless they fall from one that the process has, the last to 0 or such a one.
    """
    log_sigma = np.log(1 / alpha_bar - 1) / 2
    sigmas = np.array(levels, dtype=np.float64)
    low, high = np.exp(log_sigma[[0, -1]]) * (1 - _ROUNDING, 1 + _ROUNDING)
    within = sigmas[:-1] if len(sigmas) and sigmas[-1] == 0 else sigmas
    falls = len(sigmas) > 1 and np.all(np.diff(sigmas) < 0)
    if not (falls and np.all((low <= within) & (within <= high))):
        raise UserError(
            f"sampler.levels must fall within the process's {high:.4g} ... {low:.4g}, or to 0 at "
            f"last, got {', '.join(f'{level:g}' for level in levels) or 'none'}"
        )
    return Knots(np.interp(np.log(sigmas[:-1]), log_sigma, np.arange(len(alpha_bar))), sigmas)


def _times(trajectory: Trajectory, K: int, T: int) -> FloatArray:
    """Falling."""
    rising: FloatArray
    if trajectory in ("leading", "leading_1"):
        rising = np.arange(K, dtype=np.float64) * (T // K) + (trajectory == "leading_1")
    elif trajectory == "trailing":
        if T % K:
            raise UserError(f"sampler.num_steps must divide T = {T} for trailing, got {K}")
        rising = np.arange(1, K + 1, dtype=np.float64) * (T // K) - 1
    elif trajectory == "linspace":
        rising = np.linspace(0, T - 1, K).round()
    elif trajectory == "quadratic":
        # rounding may leave the highest square just below its integer
        rising = np.floor(np.linspace(0, np.sqrt(0.8 * T), K) ** 2 + 1e-9)
    else:
        return quadratic_times(1, 1 / T, K)[:-1] * T - 1
    return rising[::-1].copy()


def quadratic_times(first: float, last: float, K: int) -> FloatArray:
    """K + 1 continuous times whose roots are evenly spaced (DPM-Solver)."""
    times: FloatArray = np.linspace(np.sqrt(first), np.sqrt(last), K + 1) ** 2
    return times
