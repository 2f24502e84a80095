"""The classes of drawn images, and guidance towards them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stepsearch.diffusion.labels import null_class
from stepsearch.errors import UserError

Predict = Callable[[Tensor, Tensor], Tensor]
"""A denoiser: (x [N, C, H, W], time) -> its output, shaped like x."""

_GOLDEN = (5**0.5 - 1) / 2


def labels_of(class_shares: Tensor, first: int, last: int) -> Tensor:
    """The classes of images first..last-1, int64, in the proportions `class_shares` [classes].

    A distance to the data is one of the classes' mixture too, so images have that of the data:
    image i has the class in whose part of [0, 1) the fraction of (i + 1/2) (sqrt(5) - 1) / 2 lies.
    These are spread evenly however many there are, where independent draws would add chance to
    the distance, and depend on i alone.
    """
    u = (torch.arange(first, last, dtype=torch.float64) + 0.5) * _GOLDEN % 1
    return torch.searchsorted(class_shares.cumsum(0)[:-1], u, right=True)


def predictor(denoiser: nn.Module, labels: Tensor | None, guidance: float = 1.0) -> Predict:
    """The denoiser told the labels [N]: f_null + guidance (f_label - f_null) (Ho & Salimans 2022).

    Without labels it is told nothing; with guidance 1 it is not asked for f_null. Raises UserError
    for another guidance without labels.
    """
    if guidance == 1:
        condition = {} if labels is None else {"class_labels": labels}
        return lambda x, t: denoiser(x, t, **condition).sample
    null = null_class(denoiser)
    if labels is None or null is None:
        raise UserError(f"sampler.guidance must be 1 without classes, got {guidance:g}")
    both = torch.cat([torch.full_like(labels, null), labels])

    def predict(x: Tensor, t: Tensor) -> Tensor:
        told = t.expand(len(x)).repeat(2)
        plain, labelled = denoiser(torch.cat([x, x]), told, class_labels=both).sample.chunk(2)
        mixed: Tensor = plain + guidance * (labelled - plain)
        return mixed

    return predict


def check_guidance(guidance: float, *, told: bool, null_trained: bool) -> None:
    """Raise UserError for guidance unless the denoiser is told classes and learns the null one."""
    if guidance == 1:
        return
    if not told:
        raise UserError(
            f"sampler.guidance must be 1 for a denoiser without classes, got {guidance:g}"
        )
    if not null_trained:
        raise UserError(
            "sampler.guidance must be 1 where training.label_dropout is 0, so that the null class"
            f" is not trained, got {guidance:g}"
        )
