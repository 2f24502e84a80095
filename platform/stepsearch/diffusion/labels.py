"""What a denoiser with classes is told: the label of an image, or that there is none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stepsearch.errors import UserError


def null_class(denoiser: nn.Module) -> int | None:
    """The label of no class, the last row of a denoiser's table; None for one that has no table.

    diffusers' U-Net does not know that its last row is this one: it is a class like the others.
    """
    if hasattr(denoiser, "null_class"):
        return int(denoiser.null_class)  # type: ignore[arg-type]  # of ClassConditionalDiT
    rows = getattr(getattr(denoiser, "config", None), "num_class_embeds", None)
    return None if rows is None else int(rows) - 1


def drop(
    labels: Tensor | None, share: float, null: int | None, generator: torch.Generator
) -> Tensor | None:
    """Labels int64 [n] of which `share`, each by chance, are the null class (Ho & Salimans 2022).

    So one network learns the data with classes and without, as guidance needs it.
    """
    if labels is None or null is None or not share:
        return labels
    dropped = torch.rand(len(labels), generator=generator, device=labels.device) < share
    return labels.masked_fill(dropped, null)


def check_label_dropout(share: float, *, told: bool) -> None:
    """Raise UserError for a share of labels that are dropped where the denoiser is told none."""
    if share and not told:
        raise UserError(
            f"training.label_dropout must be 0 for a denoiser without classes, got {share:g}"
        )
