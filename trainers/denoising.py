"""Train a denoiser with one timestep strategy and judge the images that it draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from stepsearch.config import Config
from stepsearch.diffusion.datasets import AnyDataset, DigitsConfig
from stepsearch.diffusion.denoisers import AnyDenoiser, UNetConfig
from stepsearch.diffusion.denoisers.multistage import MultistageConfig
from stepsearch.diffusion.execution import check_execution
from stepsearch.diffusion.labels import check_label_dropout
from stepsearch.diffusion.memory import Slices
from stepsearch.diffusion.multistage.stage_parallel import check_stage_workers
from stepsearch.diffusion.noise import AnyNoise, NoiseProcess, VPConfig
from stepsearch.diffusion.training import Training, TrainingConfig
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.errors import OutOfMemory, UserError
from stepsearch.evaluation.judge_config import JudgeConfig, score_names
from stepsearch.sampling.guidance import check_guidance
from stepsearch.sampling.sampler import SamplerConfig
from stepsearch.search.trial import Cost, Run, TrainerFacts
from stepsearch.strategies import AnyStrategy, PredictionType, Strategy, UniformConfig
from stepsearch.strategies.staged import build_staged
from stepsearch.terminal import strategy_chart
from trainers.cost import measure
from trainers.evaluation import SAMPLING_SEED
from trainers.judging import check_judge, judged_scores, prepare_judge
from trainers.rows import last_strategy, read_rows
from trainers.stopwatch import OF_THE_CLOCK
from trainers.training_trial import CHECKPOINT, run

if TYPE_CHECKING:
    import pandas as pd

    from stepsearch.study import Direction


class DenoisingConfig(Config):
    """A denoiser on a data set; spaces vary `strategy`, or any other field."""

    kind: Literal["denoising"] = "denoising"
    dataset: AnyDataset = DigitsConfig()
    denoiser: AnyDenoiser = UNetConfig()
    noise: AnyNoise = VPConfig()
    strategy: AnyStrategy = Field(UniformConfig(), description="how timesteps are drawn, weighed")
    training: TrainingConfig = TrainingConfig()
    sampler: SamplerConfig = SamplerConfig()
    judge: JudgeConfig = JudgeConfig()
    gradient_images: int = Field(
        0, ge=0, le=1024, multiple_of=4, description="for the gradient's noise by noise level"
    )
    """At each of 20 noise levels and each report; 0: it is not measured."""

    @model_validator(mode="before")
    @classmethod
    def _latents_are_not_clipped(cls, data: Any) -> Any:
        """Unless clip_sample is given, which is checked once they are read."""
        if not isinstance(data, dict):
            return data
        dataset, sampler = data.get("dataset"), data.get("sampler", {})
        kind = dataset.get("kind") if isinstance(dataset, dict) else getattr(dataset, "kind", None)
        if kind != "latents" or not isinstance(sampler, dict):
            return data
        return data | {"sampler": {"clip_sample": False} | sampler}

    @property
    def _target(self) -> PredictionType:
        return self.training.prediction_type

    @property
    def run(self) -> Run:
        """What a lane calls for each trial."""
        return run

    def facts(self) -> TrainerFacts:
        """What a search space may know."""
        process = self.noise.build()
        return TrainerFacts(
            self.kind,
            process.alpha_bar,
            self._target,
            denoiser=self.denoiser,
            data=self.dataset.load,
        )

    def check(self, workers: int) -> None:
        """Raise UserError unless data, denoiser, process, strategy and sampler fit together."""
        data, process = self.dataset.load(), self.noise.build()
        Workers(size=workers).share(self.training.batch_size)
        if self.denoiser.stages_apart:
            check_stage_workers(workers, self.denoiser.stages_apart)
            if self.gradient_images:
                raise UserError(
                    "gradient_images must be 0 where each worker has a stage of its own, "
                    f"got {self.gradient_images}"
                )
        check_judge(self.judge, self.dataset.pictures_of())
        if data.vae is not None and self.sampler.clip_sample:
            raise UserError(
                "sampler.clip_sample must be false for latents, which are not in [-1, 1], got true"
            )
        self.denoiser.check(data.shape)
        told, dropped = self.denoiser.classes(data) > 0, self.training.label_dropout
        check_label_dropout(dropped, told=told)
        check_guidance(self.sampler.guidance, told=told, null_trained=dropped > 0)
        self.denoiser.check_latents(data)
        self.noise.check(self._target)
        if self.training.compile or self.training.gradient_checkpointing:
            network = self.denoiser.build_for(data, process, seed=0)
            check_execution(self.training, network, self.denoiser.starts(data, process))
        self._strategy(process)
        self.sampler.check(process)

    def resolved(self) -> DenoisingConfig:
        """With the path of the judge's weights that the environment holds."""
        return self.model_copy(update={"judge": self.judge.resolved()})

    def warm_up(self) -> None:
        """The data, and diffusers, which takes seconds."""
        self.denoiser.build_for(self.dataset.load(), self.noise.build(), seed=0)

    def prepare(self, cache: Path) -> Mapping[str, float]:
        """Make the judge once; the scores of real images."""
        return prepare_judge(self.judge, self.dataset, cache)

    def probe(self, *, gpu: bool) -> Cost:
        """Some steps of this training, some images and their scores, timed; in as many slices as a
        trial's where the memory is short. Raises OutOfMemory where that is not enough."""
        workers = Workers(device=torch.device("cuda")) if gpu else ALONE
        config = self.training
        with TemporaryDirectory() as scratch:
            while True:
                slices = Slices(Path(scratch), config.accumulation, config.batch_size)
                try:
                    with slices.fitting(workers):
                        training = self.training_for(0, 2**40, workers, slices.count)
                        return measure(training, self.sampler, self.judge, self.dataset)
                except OutOfMemory as error:
                    if not error.again:
                        raise

    def chart(self, width: int) -> str:
        """Density and weight of the strategy; `mirror` at this training's batch size."""
        strategy = self._strategy(self.noise.build())
        p = strategy.marginal(self.training.batch_size)
        return strategy_chart(p, strategy.w, width=width)

    def objective(self) -> str:
        """The Frechet distance in the judge's features; KID where images are too few for it."""
        return self.judge.features.objective(self.dataset.load().name, self.judge.samples)

    def guards(self) -> Mapping[str, float]:
        """A feature distance alone crowns samples full of static (docs/metrics.md)."""
        return {"off_manifold": 0.02}

    def reported(self) -> Mapping[str, Direction]:
        """The judge's scores, what the training came to and what everything costs."""
        data = self.dataset.load()
        costs = ["train_loss", "grad_norm", "drawn_images", "network_evaluations"]
        costs += [name for name in sorted(OF_THE_CLOCK) if name != "images_per_s"]
        if self.denoiser.classes(data) or isinstance(self.denoiser, MultistageConfig):
            costs.append("gflops_image")  # as `drawing_cost` has it
        if self.training.precision == "float16":
            costs.append("skipped_steps")
        found: dict[str, Direction] = judged_scores(self.judge, data.name)
        return found | dict.fromkeys(costs, "minimize") | {"images_per_s": "maximize"}

    def training_for(
        self, seed: int, budget: int, workers: Workers = ALONE, slices: int = 1
    ) -> Training:
        """The training that this configuration describes, at its first step."""
        process, data = self.noise.build(), self.dataset.load()
        return Training(
            self.training,
            self.denoiser.build_for(data, process, seed),
            process,
            self._strategy(process),
            data.train,
            budget=budget,
            seed=seed,
            flip=data.flip,
            labels=data.train_labels,
            workers=workers,
            slices=slices,
            starts=self.denoiser.starts(data, process),
            stages_apart=self.denoiser.stages_apart > 0,
        )

    def loaded(self, checkpoint: Path, seed: int, budget: int) -> Training:
        """The training as a checkpoint has it, on the CPU and uncompiled, wherever it ran."""
        plain = {"compile": False, "channels_last": False, "gradient_checkpointing": False}
        training = self.training.model_copy(update=plain)
        found = self.model_copy(update={"training": training}).training_for(seed, budget)
        found.load(checkpoint)
        return found

    def _strategy(self, process: NoiseProcess) -> Strategy:
        """The strategy, inside each stage where the denoiser has stages."""
        starts = self.denoiser.starts(self.dataset.load(), process)
        return build_staged(self.strategy, process.alpha_bar, self._target, starts)

    def illustrate(self, folder: Path) -> None:
        """Draw p and w of the strategy, loss, draws and gradients by noise level where there are
        losses, and how p changed where it was learned; p and w are then the last ones."""
        from stepsearch.figures import density_over_training, strategy_curves
        from trainers.diagnostics import draw_diagnostics

        process, pictures = self.noise.build(), folder / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        strategy = self._strategy(process)
        p, w = strategy.marginal(self.training.batch_size), strategy.w
        learned = read_rows(folder / "strategy.jsonl")
        if learned:
            p, w = last_strategy(learned, process.T)
            density_over_training(
                [row["images_seen"] for row in learned],
                np.array([row["density"] for row in learned]),
                process.T,
            ).savefig(pictures / "density_over_training.png", dpi=110)
        strategy_curves(p, w).savefig(pictures / "strategy.png", dpi=110)
        rows = read_rows(folder / "loss.jsonl")
        if rows:
            draw_diagnostics(rows, pictures)

    def overview(self, folder: Path, leaderboard: pd.DataFrame) -> None:
        """The quality of all trials over their images, which every search draws, says it all."""

    def export(
        self,
        out: Path,
        *,
        trial: Path,
        budget: int,
        recipe: str,
        leaderboard: pd.DataFrame,
        provenance: Mapping[str, Any],
        force: bool = False,
    ) -> None:
        """Write the bundle of a trial of this configuration from its last checkpoint.

        `force` has nothing to overrule: any trial that has finished is written.
        """
        from stepsearch.sampling.bundle import Bundle, Provenance, write_bundle

        training = self.loaded(trial / CHECKPOINT, provenance["seed"], budget)
        scores = {key: self._scores(provenance[key]) for key in ("metrics", "baseline")}
        bundle = Bundle(
            process=training.process,
            sampler=self.sampler,
            training=self.training,
            config=self.strategy,
            strategy=training.strategy,
            denoiser=training.ema,
            recipe=recipe,
            leaderboard=leaderboard,
            provenance=Provenance(**{**provenance, **scores}),
            averages=training.averages,
            class_shares=self.dataset.load().class_shares,
            vae=self.dataset.load().vae,
        )
        write_bundle(out, bundle, seed=SAMPLING_SEED)

    def _scores(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The judge's part of the metrics; the rest depends on the strategy or the machine."""
        names = score_names(self.judge, self.dataset.load().name)
        return {k: v for k, v in metrics.items() if k in names}
