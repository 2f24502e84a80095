"""What a stretch of training reports: mean losses, also by noise level and by stage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stepsearch.diffusion.workers import Workers
from stepsearch.errors import Diverged
from stepsearch.strategies.base import FloatArray

BINS = 20


@dataclass(frozen=True)
class LossSummary:
    """Means over the steps of one `Training.run`; NaN where there was nothing to average."""

    steps: int
    seconds: float
    mean_loss: float
    """The loss that was minimised, w_t times the mean squared error."""
    grad_norm: float
    """Norm of the whole gradient before clipping."""
    log_snr: FloatArray
    """Centres of 20 equally wide bins of log-SNR, noisiest first."""
    count: FloatArray
    """Images that fell in each bin."""
    loss: FloatArray
    """Unweighted mean squared error of the denoiser's target in each bin."""
    stage_count: FloatArray
    """Images of each stage of the denoiser, the least noisy first; none for a single one."""
    stage_loss: FloatArray
    """As `loss`, in each stage."""


def combine(parts: Sequence[LossSummary]) -> LossSummary:
    """One summary of several stretches that follow each other; at least one of them."""
    steps = np.array([part.steps for part in parts])
    count, loss = _means([(part.count, part.loss) for part in parts])
    stage_count, stage_loss = _means([(part.stage_count, part.stage_loss) for part in parts])
    return LossSummary(
        int(steps.sum()),
        sum(part.seconds for part in parts),
        float(np.average([part.mean_loss for part in parts], weights=steps)),
        float(np.average([part.grad_norm for part in parts], weights=steps)),
        parts[0].log_snr,
        count,
        loss,
        stage_count,
        stage_loss,
    )


def _means(parts: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """Counts and means of the parts as those of all."""
    count = np.sum([count for count, _ in parts], axis=0)
    total = np.sum([count * np.nan_to_num(mean) for count, mean in parts], axis=0)
    with np.errstate(invalid="ignore"):
        return count, total / count


def log_snr_bins(log_snr: FloatArray) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Each timestep's bin, [T], and the centres of the 20 equally wide bins, noisiest first."""
    finite = log_snr[np.isfinite(log_snr)]
    edges = np.linspace(finite.min(), finite.max(), BINS + 1)
    bins = np.searchsorted(edges[1:-1], log_snr, side="right")
    return bins, (edges[:-1] + edges[1:]) / 2


class LossMeter:
    """Adds up losses on the training device; nothing is copied to the host before `summary`."""

    def __init__(self, log_snr: FloatArray, workers: Workers, starts: Sequence[int] = ()) -> None:
        """`log_snr` of every timestep, [T]; one of -inf counts in the noisiest bin. `starts` are
        the timesteps at which the second stage of a denoiser, the third ... begin."""
        bins, self._centres = log_snr_bins(log_snr)
        groups = [bins]
        if starts:
            groups.append(BINS + np.searchsorted(starts, np.arange(len(log_snr)), side="right"))
        self._workers = workers
        self._groups = torch.from_numpy(np.stack(groups)).to(workers.device)
        self._grouped = self._zeros(2, BINS + (len(starts) + 1 if starts else 0))
        self._totals = self._zeros(2)
        self._steps = 0
        self._started = time.perf_counter()

    def add(self, t: Tensor, mse: Tensor, loss: Tensor, grad_norm: Tensor) -> None:
        """One step: timesteps and unweighted losses [n], weighted loss, norm of the gradient."""
        ones_and_mse = torch.stack([torch.ones_like(mse), mse]).double()
        for group in self._groups:
            self._grouped.index_add_(1, group[t], ones_and_mse)
        self._totals += torch.stack([loss, grad_norm])
        self._steps += 1

    def check(self, images_seen: int) -> float:
        """Raise Diverged if any loss or gradient so far was NaN or infinite, on all workers alike.

        The seconds since the meter was made, of the slowest worker. Waits for the device, so it is
        not for every step.
        """
        wrong = (~self._totals.isfinite()).any().double()
        agreed = torch.stack([wrong, torch.full_like(wrong, self._seconds)])
        if self._workers.size > 1:
            torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        diverged, seconds = agreed.tolist()
        if diverged:
            loss, grad_norm = self._totals.tolist()
            raise Diverged(
                f"training diverged by images_seen={images_seen}:"
                f" sum of losses {loss}, of gradient norms {grad_norm}"
            )
        return float(seconds)

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    def summary(self) -> LossSummary:
        """The means over all workers."""
        totals = torch.cat([self._totals / self._workers.size, self._grouped.flatten()])
        if self._workers.size > 1:
            torch.distributed.all_reduce(totals)
        values = totals.cpu().numpy()
        count, loss = values[2:].reshape(2, -1)
        with np.errstate(invalid="ignore"):
            mean_loss, grad_norm = values[:2] / np.float64(self._steps)
            means = loss / count
        return LossSummary(
            self._steps,
            self._seconds,
            float(mean_loss),
            float(grad_norm),
            self._centres,
            count[:BINS],
            means[:BINS],
            count[BINS:],
            means[BINS:],
        )

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self._workers.device)
