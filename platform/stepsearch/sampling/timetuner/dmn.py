"""DMN (Xue et al., CVPR 2024): the noise levels with the lowest bound on a solver's error."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepsearch.errors import UserError
from stepsearch.strategies.base import FloatArray

_MOST_STEPS = 100
_FEW_STEPS = 7
"""Up to which the first steps' errors are not taken to cancel those of later ones."""


def dmn(K: int, first: float, last: float, *, power: int) -> FloatArray:
    """K sigmas between the logarithms of the noisiest and the least noisy one.

    Minimises `bound`, from log SNRs that are even. For up to 6 steps there is one minimum; above
    that there are several, and this is one near the start. Raises UserError for more than 100.
    """
    if K > _MOST_STEPS:
        raise UserError(f"sampler.num_steps must be at most {_MOST_STEPS} for dmn, got {K}")
    levels: FloatArray = np.exp(-np.array(_least(K, -first, -last, power)[:-1]))
    return levels


@lru_cache(maxsize=256)
def _least(K: int, first: float, last: float, power: int) -> tuple[float, ...]:
    """The half log SNRs [K + 1]; their gaps are a softmax, and so stay above 0."""
    from scipy.optimize import minimize

    def snr(gaps: Tensor) -> Tensor:
        inner = first + (last - first) * gaps.softmax(0).cumsum(0)[:-1]
        ends = torch.tensor([first, last], dtype=torch.float64)
        return torch.cat([ends[:1], inner, ends[1:]])

    def objective(numbers: Any) -> tuple[float, Any]:
        gaps = torch.tensor(numbers, requires_grad=True)
        value = bound(snr(gaps), power)
        (slope,) = torch.autograd.grad(value, gaps)
        return value.item(), slope.numpy()

    found = minimize(objective, np.zeros(K), jac=True, method="BFGS")
    return tuple(snr(torch.tensor(found.x)).tolist())


def bound(snr: Tensor, power: int) -> Tensor:
    """The bound on the final error for half log SNRs [K + 1] that rise, float64.

    A step of the exponential integrator is a sum over the last evaluations, with the weights of
    the Lagrange polynomial through up to three; an evaluation is off by s^power / alpha (1 for
    pixels, 2 for latents). A level's errors add up over the steps that use it, but for the first
    steps where there are few, and the first and last step.
    """
    K = len(snr) - 1
    error = torch.sigmoid(-2 * snr) ** (power / 2) / torch.sigmoid(2 * snr).sqrt()
    errors = _weights(snr) * error[:-1]
    alone = torch.zeros(K, dtype=torch.bool)
    alone[[0, -1]] = True
    alone[: 3 if K <= _FEW_STEPS else 0] = True
    total: Tensor = errors[alone].norm(dim=1).sum() + errors[~alone].sum(0).abs().sum()
    return total


def _weights(snr: Tensor) -> Tensor:
    """[K, K], what each step multiplies the evaluation at each level with.

    The orders are 1, 2, 3 ... 3, 2, 1, so that few evaluations are extrapolated from far away.
    """
    h = snr.diff()
    K = len(h)
    # integrals of e^x, x e^x and x^2 e^x over a step, x from its beginning
    h0 = h.expm1()
    h1 = h.exp() * h - h0
    h2 = h.exp() * h**2 - 2 * h1
    rows = []
    for k in range(K):
        order = 1 + min(k, K - 1 - k, 2)
        if order == 1:
            row = [h0[k]]
        elif order == 2:
            b = h[k - 1]
            row = [-h1[k] / b, h1[k] / b + h0[k]]
        else:
            a, b = h[k - 2], h[k - 1]
            row = [
                (h2[k] + b * h1[k]) / (a * (a + b)),
                -(h2[k] + (a + b) * h1[k]) / (a * b),
                (h2[k] + (2 * b + a) * h1[k]) / (b * (a + b)) + h0[k],
            ]
        rows.append(torch.nn.functional.pad(torch.stack(row), (k + 1 - order, K - 1 - k)))
    return snr[:-1, None].exp() * torch.stack(rows)
