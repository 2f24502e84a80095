"""What a trial leaves behind by noise level: losses, draws, gradients; and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stepsearch.diffusion.gradient_noise import GradientNoise
from stepsearch.diffusion.loss import BINS, LossSummary, log_snr_bins
from stepsearch.diffusion.training import Training
from stepsearch.strategies.base import FloatArray


def diagnostics_row(
    total: LossSummary, noise: GradientNoise | None, training: Training, images_seen: int
) -> dict[str, Any]:
    """Of a stretch of training; lists by bin of log-SNR, noisiest first.

    `count` is how many images fell in each bin, `declared` the share that the strategy promises at
    the end of the stretch, `effective` what its weights leave of a sample: (E w)^2 / E w^2 over
    its draws, 1 where all weigh the same.
    """
    strategy = training.strategy
    p = strategy.marginal(training.config.batch_size)
    bins, _ = log_snr_bins(training.process.log_snr)
    row = {
        "images_seen": images_seen,
        "log_snr": total.log_snr.tolist(),
        "count": total.count.tolist(),
        "loss": _listed(total.loss),
        "declared": np.bincount(bins, weights=p, minlength=BINS).tolist(),
        "effective": effective_share(p, strategy.w),
    }
    if noise is not None:
        row |= {"gradient_norm": _listed(noise.norm), "gradient_variance": _listed(noise.variance)}
    return row


def effective_share(p: FloatArray, w: FloatArray) -> float:
    """Kish's effective sample size over the size, for draws from p that weigh w."""
    return float((p @ w) ** 2 / (p @ w**2))


def _listed(values: FloatArray) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def draw_diagnostics(rows: Sequence[Mapping[str, Any]], pictures: Path) -> None:
    """A picture each of what the rows hold; those of older trials have the losses only."""
    from stepsearch.diagnostic_figures import draws_by_log_snr
    from stepsearch.figures import by_log_snr, loss_by_log_snr

    seen, log_snr = [row["images_seen"] for row in rows], np.array(rows[0]["log_snr"])
    loss_by_log_snr(seen, log_snr, _table(rows, "loss")).savefig(
        pictures / "loss_by_log_snr.png", dpi=110
    )
    if all("declared" in row for row in rows):
        count = _table(rows, "count")
        draws_by_log_snr(
            log_snr,
            count.sum(0),
            np.average(_table(rows, "declared"), axis=0, weights=count.sum(1)),
            effective=rows[-1]["effective"],
        ).savefig(pictures / "draws_by_log_snr.png", dpi=110)
    for key, label in (
        ("gradient_norm", "norm of the mean gradient"),
        ("gradient_variance", "variance of one image's gradient"),
    ):
        if all(key in row for row in rows):
            by_log_snr(seen, log_snr, _table(rows, key), label=label).savefig(
                pictures / f"{key}_by_log_snr.png", dpi=110
            )


def _table(rows: Sequence[Mapping[str, Any]], key: str) -> FloatArray:
    return np.array([row[key] for row in rows], dtype=np.float64)
