"""A trial that trains: images to each milestone, a checkpoint, scores of what it draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from stepsearch.diffusion.gradient_noise import GradientNoise
from stepsearch.diffusion.loss import LossSummary, combine
from stepsearch.diffusion.memory import Slices
from stepsearch.diffusion.training import Training
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.search.trial import Report, Trial
from trainers.diagnostics import diagnostics_row
from trainers.evaluation import Evaluation
from trainers.rows import append_row, read_rows, strategy_row

if TYPE_CHECKING:
    from trainers.denoising import DenoisingConfig

CHECKPOINT = "checkpoint.pt"
_TICKS = 50
"""How often a trial at least says how far it is, over its whole budget."""
_SAVES_EVERY = 120
"""Ticks of a training, a few seconds each."""


def run(trial: Trial, report: Report, workers: Workers = ALONE) -> None:
    """One trial: train to each milestone, judge the EMA denoiser's images, report.

    Goes on from the trial's checkpoint, which is written before every report, and every ten
    minutes or so between them. Raises Diverged or OutOfMemory.
    """
    config: DenoisingConfig = trial.config
    share = config.training.batch_size // workers.size
    slices = Slices(trial.folder, config.training.accumulation, share)
    with slices.fitting(workers):
        training = config.training_for(trial.seed, trial.budget, workers, slices.count)
    checkpoint = trial.folder / CHECKPOINT
    training.resume(checkpoint)
    ticks = count(1)

    def save() -> None:
        if workers.rank < training.shards:
            training.save(checkpoint)

    def tick() -> bool:
        if next(ticks) % _SAVES_EVERY == 0:
            save()
        return report.progress(training.images_seen)

    # A checkpoint lies behind the batch that holds a milestone: its report may have been lost.
    behind = training.images_seen - config.training.batch_size
    for milestone in (m for m in trial.milestones if m > behind):
        begun = time.process_time()
        with slices.fitting(workers):
            losses, asked_to_leave = _train(training, milestone, trial, tick)
        trained = time.process_time()
        if asked_to_leave:
            save()
            return
        images = config.gradient_images
        with slices.fitting(workers):
            noise = training.gradient_noise(images) if images else None
        # before the checkpoint: a trial that goes on from it trains nothing before this report
        metrics = {"images_seen": float(milestone)}
        metrics |= _summary(losses, noise, training, trial.folder, milestone)
        save()
        with slices.fitting(workers, in_slices=False):
            metrics |= Evaluation(config, training, trial, milestone, workers, report).metrics()
        if config.training.precision == "float16":
            metrics["skipped_steps"] = float(training.skipped_steps)
        metrics |= {
            "train_cpu_s": trained - begun,
            "evaluation_cpu_s": time.process_time() - trained,
        }
        if not report(metrics):
            return


def _train(
    training: Training, until: int, trial: Trial, tick: Callable[[], bool]
) -> tuple[list[LossSummary], bool]:
    """Train to a milestone in small parts; the losses, and whether the search says stop.

    What a strategy has learned goes to a file after each.
    """
    losses = []
    stride = max(1, trial.budget // _TICKS)
    while training.images_seen < until:
        goal = min(until, training.images_seen + stride)
        losses.append(training.run(goal, tick))
        if training.workers.rank == 0 and training.strategy.state_dict():
            row = strategy_row(training.strategy, training.images_seen)
            append_row(trial.folder / "strategy.jsonl", row)
        if training.images_seen < goal or not tick():
            return losses, True
    return losses, False


def _summary(
    losses: list[LossSummary],
    noise: GradientNoise | None,
    training: Training,
    folder: Path,
    images_seen: int,
) -> dict[str, float]:
    """Scalars of the training since the last milestone, or since the trial went on; what is by
    noise level goes to a file. Where nothing was trained, they are what the file has: a batch may
    hold two milestones, and a report be lost."""
    if training.workers.rank > 0:
        return {}
    path = folder / "loss.jsonl"
    if not losses:
        rows = [row for row in read_rows(path) if row["images_seen"] <= images_seen]
        return dict(rows[-1].get("scalars", {})) if rows else {}
    total = combine(losses)
    scalars = {
        "train_loss": total.mean_loss,
        "grad_norm": total.grad_norm,
        "images_per_s": float(total.count.sum()) / total.seconds,
        **{f"loss_stage_{k}": float(loss) for k, loss in enumerate(total.stage_loss, 1)},
    }
    row = diagnostics_row(total, noise, training, images_seen)
    append_row(path, row | {"scalars": scalars})
    return scalars
