"""The network as a sampler that tells it tau instead of its timestep sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stepsearch.errors import UserError
from stepsearch.pixels import clipped
from stepsearch.sampling.guidance import labels_of, predictor
from stepsearch.sampling.timetuner.solver import Solver
from stepsearch.sampling.timetuner.tuned_timesteps import restate

TauScope = Literal["embedding", "full"]
"""Who learns of tau. embedding: the network's time embedding alone, as eq. 7 has it. full: the
conversion of its output to eps as well, as the released code does; the same for eps-networks."""

Evaluate = Callable[..., Tensor]
"""A network: (x [N, C, H, W], the time it is told, its nominal time) -> its output, shaped like x.
Times are float32 scalars, or [N] for the told one; the nominal one chooses a decoder where there
is one a stage. One with classes is told those of x, too, int64 [N]."""


def evaluate(denoiser: nn.Module, **condition: Any) -> Evaluate:
    """A denoiser of diffusers with the keyword arguments of its condition, e.g. class_labels."""
    has_stages = "nominal" in signature(denoiser.forward).parameters

    def run(x: Tensor, told: Tensor, nominal: Tensor) -> Tensor:
        route = {"nominal": nominal} if has_stages else {}
        output: Tensor = denoiser(x, told, **condition, **route).sample
        return output

    return run


@dataclass(frozen=True)
class Guided:
    """A network with classifier-free guidance, for which alone tau is."""

    run: Evaluate
    scale: float

    def __call__(self, *given: Tensor) -> Tensor:
        return self.run(*given)


def guided(
    denoiser: nn.Module,
    scale: float,
    condition: Mapping[str, Tensor],
    no_condition: Mapping[str, Tensor],
) -> Guided:
    """Classifier-free guidance in one evaluation, so that both halves are told the same time.

    The tensors of both conditions are rows for every image, [N, ...].
    """
    both = {name: torch.cat([no_condition[name], condition[name]]) for name in condition}
    twice = evaluate(denoiser, **both)

    def run(x: Tensor, told: Tensor, nominal: Tensor) -> Tensor:
        both_told = told.expand(len(x)).repeat(2)
        plain, conditioned = twice(torch.cat([x, x]), both_told, nominal).chunk(2)
        mixed: Tensor = plain + scale * (conditioned - plain)
        return mixed

    return Guided(run, scale)


def by_class(denoiser: nn.Module, guidance: float = 1.0) -> Guided:
    """A denoiser of diffusers that is told class_labels, guided as `predictor` does it: in one
    evaluation, so that both halves are told the same time."""

    def run(x: Tensor, told: Tensor, nominal: Tensor, labels: Tensor) -> Tensor:
        return predictor(denoiser, labels, guidance)(x, told)

    return Guided(run, guidance)


class Network:
    """A network and the solver that evaluates it."""

    def __init__(
        self,
        run: Evaluate,
        solver: Solver,
        scope: TauScope = "embedding",
        *,
        labels: Tensor | None = None,
        latents: bool = False,
    ) -> None:
        """`labels` [n], of all images to tune on, are for a network with classes; it draws the
        classes in their proportions. `latents` is for one that draws an autoencoder's: they are
        what is meant by images, and nothing clips them.

        Raises UserError where the solver has no conversion that could see tau.
        """
        self._run, self.solver, self.scope, self.labels = run, solver, scope, labels
        self.latents = latents
        self.guidance_scale = run.scale if isinstance(run, Guided) else None
        if scope == "full":
            solver.scales_at(solver.end)

    def under(self, solver: Solver) -> Network:
        """The same network under another solver."""
        return Network(self._run, solver, self.scope, labels=self.labels, latents=self.latents)

    def drawn(self, first: int, last: int) -> Tensor | None:
        """The classes of drawn images first..last-1, if there are any."""
        if self.labels is None:
            return None
        shares = self.labels.bincount().double().cpu() / len(self.labels)
        return labels_of(shares, first, last).to(self.labels.device)

    def finished(self, x: Tensor) -> Tensor:
        """What is left after the last step: images in [-1, 1], or latents."""
        return x if self.latents else clipped(x)

    def output(self, slot: int, x: Tensor, tau: Tensor, labels: Tensor | None = None) -> Tensor:
        """What the scheduler is given: the output at tau, in terms of the slot's nominal time."""
        output = self._run(x, tau, self._nominal(slot, x), *_given(labels))
        if self.scope == "embedding":
            return output
        told = self.solver.scales_at(tau.view(-1, *[1] * (x.ndim - 1)))
        stated: Tensor = restate(
            output, x, self.solver.prediction_type, told, self.solver.scales[slot]
        )
        return stated

    def eps(self, slot: int, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The noise that it sees at a slot when told the nominal time; slot S is the end."""
        t = self._nominal(slot, x)
        return self.solver.eps(slot, x, self._run(x, t, t, *_given(labels)))

    def _nominal(self, slot: int, x: Tensor) -> Tensor:
        solver = self.solver
        return (solver.times[slot] if slot < solver.nfe else solver.end).to(x.device)


def _given(labels: Tensor | None) -> tuple[Tensor, ...]:
    return () if labels is None else (labels,)


def check_times(run: Evaluate, x: Tensor, T: int, labels: Tensor | None = None) -> None:
    """Raise UserError unless the network takes timesteps between the integers and sees them.

    A learned embedding has no rows there; a network in half precision, or one that casts its
    timestep to integers, rounds them.
    """
    for t in (1.0, T / 2, T - 2.0):
        try:
            nominal = torch.tensor(t)
            at, between = (run(x, nominal + more, nominal, *_given(labels)) for more in (0.0, 0.5))
        except (RuntimeError, IndexError, TypeError) as error:
            raise UserError(
                "denoiser must take timesteps between the integers, and a learned time embedding "
                f"does not: {str(error).splitlines()[0]}"
            ) from None
        if torch.equal(at, between):
            raise UserError(
                "denoiser must tell timesteps that differ by 0.5 apart, got the same output at "
                f"t = {t:g} and {t + 0.5:g}: it rounds them; pass them on as float32"
            )
