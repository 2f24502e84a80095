"""What a training draws at a report, how that is judged, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.training import Training
from stepsearch.diffusion.workers import Workers
from stepsearch.evaluation.judge import Judge
from stepsearch.pictures import sample_grid
from stepsearch.sampling.sampler import generate
from stepsearch.search.trial import Report, Trial
from trainers.alive import alive
from trainers.judging import judge_of
from trainers.stages import drawing_cost
from trainers.stopwatch import Stopwatch

if TYPE_CHECKING:
    from trainers.denoising import DenoisingConfig

SAMPLING_SEED = 0
"""All trials of all searches draw their images from the same noise."""


@dataclass(frozen=True)
class Evaluation:
    """Of the EMA denoiser, at one milestone of a trial; all workers draw, the first one judges."""

    config: DenoisingConfig
    training: Training
    trial: Trial
    milestone: int
    workers: Workers
    report: Report
    watch: Stopwatch = field(default_factory=Stopwatch)

    def metrics(self) -> dict[str, float]:
        """Scores and what they cost; nothing but on the first worker. A picture is left behind."""
        denoiser = self.training.ema
        images = self._images(denoiser, SAMPLING_SEED)
        others = [self._distance(denoiser, SAMPLING_SEED + k) for k in range(1, self._seeds)]
        if self.workers.rank > 0:
            return {}
        pictures = self.trial.folder / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        sample_grid(images.numpy()).save(pictures / f"samples_{self.milestone:09d}.png")
        with alive(self._say):
            judge = self._judge
            scores = judge.score(images)
        if others:
            scores |= judge.band(scores, others)
        self.watch.lap("judging")
        return {**scores, **self._cost(denoiser), **self.watch.laps}

    @property
    def _seeds(self) -> int:
        last = self.milestone == self.trial.budget
        return self.config.judge.sampling_seeds if last else 1

    @property
    def _judge(self) -> Judge:
        config = self.config
        return judge_of(config.judge, config.dataset, self.trial.cache, self.workers.device)

    def _say(self) -> bool:
        """A sign of life."""
        return self.report.progress(self.training.images_seen)

    def _images(self, denoiser: nn.Module, seed: int) -> Tensor:
        """Images [samples, C, H, W] from this noise, on the CPU of every worker."""
        config, training, data = self.config, self.training, self.config.dataset.load()
        images = generate(
            denoiser,
            training.process,
            config.sampler,
            config.judge.samples,
            shape=data.shape,
            prediction_type=config.training.prediction_type,
            seed=seed,
            class_shares=data.class_shares,
            workers=self.workers,
            tick=self._say,
            decode=decoder(data.vae, self.workers.device),
        )
        self.watch.lap("drawing")
        return images

    def _distance(self, denoiser: nn.Module, seed: int) -> float:
        """The Frechet distance of images from this noise; of no use but on the first worker."""
        images = self._images(denoiser, seed)
        if self.workers.rank > 0:
            return math.nan
        with alive(self._say):
            distance = self._judge.distance(images)
        self.watch.lap("judging")
        return distance

    def _cost(self, denoiser: nn.Module) -> dict[str, float]:
        """How many images were drawn, how often the network was evaluated for all of them, and
        FLOPs where the network's stages cost differently."""
        config, training = self.config, self.training
        images = config.judge.samples * self._seeds
        shape, target = config.dataset.load().shape, config.training.prediction_type
        return {
            "drawn_images": float(images),
            "network_evaluations": float(images * config.sampler.evaluations),
            **drawing_cost(denoiser, training.process, config.sampler, target, shape),
        }
