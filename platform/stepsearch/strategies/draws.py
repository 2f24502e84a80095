"""Drawing timesteps: the inverse CDF of a table, fed by one stratified uniform."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Source = Callable[[int, torch.Generator], Tensor]
"""n uniforms in [0, 1), float64, each of them uniform whatever the others are."""

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


def lattice_uniform(n: int, generator: torch.Generator) -> Tensor:
    """u_i = (u_0 + i / n) mod 1 with one uniform u_0 a batch, in random order (VDM)."""
    points = torch.randperm(n, generator=generator, device=generator.device)
    return lattice(float(uniform(1, generator)), points / n)


def lattice(first: float, steps: Tensor) -> Tensor:
    """(first + steps) mod 1, float64."""
    return ((first + steps.double()) % 1).clamp_(max=_BELOW_ONE)


def pairs(source: Source) -> Source:
    """Half of every batch from `source`, the other half at 1 - u (DDIM, for any density)."""

    def draw(n: int, generator: torch.Generator) -> Tensor:
        u = source((n + 1) // 2, generator)
        return torch.cat([u, 1 - u])[:n].clamp_(max=_BELOW_ONE)

    return draw


class InverseCDF:
    """Draws t with probability p[t], as the first t with u < CDF(t)."""

    def __init__(
        self,
        p: npt.NDArray[np.float64],
        *,
        stratify: bool,
        lattice: bool = False,
        antithetic: bool = False,
    ) -> None:
        cdf = np.cumsum(p)
        self._cdf = torch.from_numpy(cdf / cdf[-1])
        self._uniform = _source(stratify=stratify, lattice=lattice, antithetic=antithetic)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n timesteps (int64) on the generator's device."""
        return self.at(self._uniform(n, generator))

    def at(self, u: Tensor) -> Tensor:
        """The timesteps of the uniforms `u` in [0, 1); never one with p[t] = 0."""
        if self._cdf.device != u.device:
            self._cdf = self._cdf.to(u.device)
        return torch.searchsorted(self._cdf, u, right=True)


def _source(*, stratify: bool, lattice: bool, antithetic: bool) -> Source:
    source: Source = stratified_uniform if stratify else uniform
    if lattice:
        source = lattice_uniform
    return pairs(source) if antithetic else source
