"""Drawing timesteps: the inverse CDF of a table, fed by one stratified uniform."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_BELOW_ONE = 1 - 2**-53
"""The largest float64 below 1."""


def uniform(n: int, generator: torch.Generator) -> Tensor:
    """n independent uniforms in [0, 1), float64."""
    return torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)


def stratified_uniform(n: int, generator: torch.Generator) -> Tensor:
    """u_j = (j + U_j) / n for j = 0..n-1, in random order (k-diffusion).

    The order matters: it makes every single u_j uniform in [0, 1), so that a slice of the
    batch (a worker's share, SpeeD's mirrored half) is not one end of the density.
    """
    strata = torch.randperm(n, generator=generator, device=generator.device)
    return ((strata + uniform(n, generator)) / n).clamp_(max=_BELOW_ONE)


class InverseCDF:
    """Draws t with probability p[t], as the first t with u < CDF(t)."""

    def __init__(self, p: npt.NDArray[np.float64], *, stratify: bool) -> None:
        cdf = np.cumsum(p)
        self._cdf = torch.from_numpy(cdf / cdf[-1])
        self._uniform = stratified_uniform if stratify else uniform

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps (int64) on the generator's device."""
        return self.at(self._uniform(n, generator))

    def at(self, u: Tensor) -> Tensor:
        """The timesteps of the uniforms `u` in [0, 1); never one with p[t] = 0."""
        if self._cdf.device != u.device:
            self._cdf = self._cdf.to(u.device)
        return torch.searchsorted(self._cdf, u, right=True)
