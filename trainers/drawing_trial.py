"""A trial that draws: images with other times than the untuned ones, scored at each milestone."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.pictures import beside, sample_grid
from stepsearch.sampling.timetuner import Network, draw, losses
from stepsearch.search.trial import Report, Trial
from trainers.subject import Subject, subject_of
from trainers.tuned_scores import PICTURED, compared, scores, untuned, untuned_losses
from trainers.tuning import times_of

if TYPE_CHECKING:
    from trainers.timetuner import TimeTunerConfig

TIMES = "times.json"
_CHUNK = 256
"""Images drawn between two words to the search."""


def run(trial: Trial, report: Report, workers: Workers = ALONE) -> None:
    """One trial: its times, then images up to each milestone, scored beside the untuned ones'.

    `images_seen` are the images drawn; image i comes from the same noise in every trial of a seed.
    Several workers share the drawing and the slots of the gradient's parallel strategy; the first
    one judges. Raises Diverged.
    """
    config: TimeTunerConfig = trial.config
    device = str(workers.device)
    at = subject_of(config.checkpoint, config.dataset, workers.device)
    network = at.network(config.sampler, config.tau_scope)
    begun = time.process_time()
    tau = times_of(config, network, workers, trial.cache)
    tuning_cpu_s = time.process_time() - begun
    begun = time.process_time()
    if workers.rank == 0:
        _keep_times(trial, network, tau, at)
    drawn = torch.empty(0, *at.trained.shape)
    for milestone in trial.milestones:
        while (n := len(drawn)) < milestone:
            size = min(_CHUNK, milestone - n)
            where: dict[str, Any] = {"shape": at.trained.shape, "seed": trial.seed, "first": n}
            some = draw(network, tau, size, **where, device=device, workers=workers)
            drawn = torch.cat([drawn, some])
            if not report.progress(len(drawn)):
                return
        metrics = {"images_seen": float(milestone)}
        if workers.rank == 0:
            metrics |= _judge(trial, at, network, drawn)
        metrics |= {
            "tuning_cpu_s": tuning_cpu_s,
            "evaluation_cpu_s": time.process_time() - begun,
        }
        if not report(metrics):
            return
        begun = time.process_time()


def _judge(trial: Trial, at: Subject, network: Network, drawn: Tensor) -> dict[str, float]:
    """The scores of all images so far, and beside the untuned times'; a picture is left behind."""
    config: TimeTunerConfig = trial.config
    device = str(at.device)
    found = scores(config, drawn, trial.seed, device, trial.cache)
    reference = untuned(config.untuned, trial.seed, len(drawn), device, trial.cache)
    _picture(trial, reference.pictures, at.pictures(drawn[:PICTURED]), len(drawn))
    ratios = compared(config, found, reference.scores)
    nfe = network.solver.nfe * config.sampler.evaluations_a_slot
    return {"nfe": float(nfe)} | found | ratios


def _keep_times(trial: Trial, network: Network, tau: Tensor, at: Subject) -> None:
    """tau and the untuned times, each with eq. 9's losses of the slots."""
    config, times = trial.config, network.solver.times
    before = after = untuned_losses(config.untuned, str(at.device))
    if not torch.equal(tau, times):
        after = tuple(losses(network, tau, at.images, config.gradient))
    content = {"t": times.tolist(), "tau": tau.tolist(), "loss_untuned": before, "loss": after}
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / TIMES).write_text(json.dumps(content))


def _picture(trial: Trial, before: Tensor, after: Tensor, images_seen: int) -> None:
    """The first images of the untuned times, and beside them those with tau, from one noise."""
    pictures = trial.folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    left, right = (sample_grid(images.numpy()) for images in (before, after))
    beside(left, right).save(pictures / f"untuned_and_tuned_{images_seen:09d}.png")
