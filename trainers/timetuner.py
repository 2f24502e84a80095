"""Draw images with other times than the untuned ones, and judge them; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from stepsearch.config import Config
from stepsearch.diffusion.datasets import AnyDataset, DigitsConfig
from stepsearch.errors import UserError
from stepsearch.evaluation.features.base import ScoreNames
from stepsearch.evaluation.judge_config import JudgeConfig
from stepsearch.sampling.timetuner import (
    EndToEndConfig,
    GradientConfig,
    SolverConfig,
    draw,
    losses,
)
from stepsearch.sampling.timetuner.network import TauScope
from stepsearch.sampling.timetuner.shifts import GRADIENTS, ShiftedTimes
from stepsearch.search.trial import Cost, Run, TrainerFacts
from trainers.checkpoint import AnyCheckpoint, look
from trainers.cost import measure_drawing
from trainers.drawing_trial import run
from trainers.judging import check_judge, judged_scores, prepare_judge
from trainers.subject import subject_of
from trainers.tuned_trial import draw_over_nfe, draw_times, write_tuned_trial

if TYPE_CHECKING:
    import pandas as pd

    from stepsearch.study import Direction


class TimesConfig(Config):
    """What the network is told: the untuned times, moved."""

    r: tuple[float, ...] = Field((), description="shifts, a share of the way to the neighbour's")
    sequential: float = Field(0.0, ge=0, le=1, description="share of the gradient's shifts, eq. 9")
    parallel: float = Field(0.0, ge=0, le=1, description="share of the gradient's shifts, eq. 11")
    end_to_end: float = Field(
        0.0, ge=0, le=1, description="share of the shifts by the distance of images to the data"
    )


class TimeTunerConfig(Config):
    """A trained denoiser and a sampler; spaces vary `sampler` and `times`, or any other field."""

    kind: Literal["timetuner"] = "timetuner"
    checkpoint: AnyCheckpoint
    dataset: AnyDataset = Field(
        DigitsConfig(), description="what the checkpoint draws: pictures, or the latents of some"
    )
    sampler: SolverConfig = SolverConfig()
    tau_scope: TauScope = "embedding"
    times: TimesConfig = TimesConfig()
    gradient: GradientConfig = Field(
        GradientConfig(),
        description="of the gradient's times; its strategy is that of `times`. Of latents it sees "
        "these themselves, as `end_to_end` does",
    )
    end_to_end: EndToEndConfig = EndToEndConfig()
    score: Literal["frechet", "kid", "energy", "teacher"] = Field(
        "energy",
        description="what trials are compared by; energy: the energy distance of pixels to the "
        "data's; frechet, kid: by the judge; teacher: the mean distance to its images. Latents "
        "are decoded for the judge alone",
    )
    teacher: SolverConfig = SolverConfig(num_steps=100)
    judge: JudgeConfig = JudgeConfig()

    @model_validator(mode="after")
    def _runs(self) -> TimeTunerConfig:
        for name, sampler in (("sampler", self.sampler), ("teacher", self.teacher)):
            if sampler.kind == "cm":
                raise ValueError(f"{name} must be another than cm, which has levels of its own")
            if self.score == "teacher" and sampler.stochastic:
                raise ValueError(
                    f"score must be frechet, kid or energy for {sampler.kind}, whose steps add "
                    "noise, got 'teacher'"
                )
        if self.teacher.guidance != 1:
            raise ValueError(
                "teacher.guidance must be left out, as it is that of sampler, "
                f"got {self.teacher.guidance:g}"
            )
        return self

    @property
    def run(self) -> Run:
        """What a lane calls for each trial."""
        return run

    @property
    def judges(self) -> bool:
        """Whether there are labels, or the judge needs none."""
        data = self.dataset.load()
        has_labels = data.train_labels is not None and data.held_out_labels is not None
        return has_labels or not self.judge.features.needs_labels

    @property
    def judged(self) -> ScoreNames:
        """What the judge's scores are called."""
        return self.judge.features.names(self.dataset.load().name)

    @property
    def primary(self) -> str:
        """The score that trials are compared by."""
        judged = {"frechet": self.judged.fd, "kid": self.judged.kid}
        return (judged | {"energy": "energy", "teacher": "gap"})[self.score]

    @property
    def distances(self) -> tuple[str, ...]:
        """The primary score, and those of the judge that are looked at beside it."""
        judged = (self.judged.fd, "pixel_fd") if self.judges else ()
        return tuple(dict.fromkeys((self.primary, *judged)))

    @property
    def untuned(self) -> TimeTunerConfig:
        return self.model_copy(update={"times": TimesConfig()})

    def facts(self) -> TrainerFacts:
        """What a search space may know. Raises UserError without the checkpoint."""
        trained = look(self.checkpoint)
        return TrainerFacts(
            self.kind,
            trained.alpha_bar,
            random_steps=self.score != "teacher",
            data=self.dataset.load,
            guides=trained.null_trained,
        )

    def check(self, workers: int) -> None:
        """Raise UserError unless checkpoint, data, sampler and score fit together.

        Any number of `workers` shares the drawing.
        """
        pictures, T = self.dataset.pictures_of(), len(look(self.checkpoint).alpha_bar)
        if not self.judge.features.needs_labels:
            check_judge(self.judge, pictures)
        elif self.score in ("frechet", "kid"):
            try:
                check_judge(self.judge, pictures)
            except UserError as error:
                raise UserError(f"{error}, or take score energy") from None
        self.sampler.check(T)
        self._shifted()
        subject_of(self.checkpoint, self.dataset, torch.device("cpu")).check(self.sampler)
        try:
            self._check_teacher()
        except UserError as error:
            raise UserError(str(error).replace("sampler.", "teacher.", 1)) from None

    def _check_teacher(self) -> None:
        if self.score == "teacher":
            self.teacher.times(look(self.checkpoint).alpha_bar)
        if self.dataset.load().vae is not None:
            self.teacher.check_latents()

    def resolved(self) -> TimeTunerConfig:
        """With the number of the trial that is the earlier search's best one now, and the path of
        the judge's weights that the environment holds."""
        return self.model_copy(
            update={"checkpoint": self.checkpoint.pinned(), "judge": self.judge.resolved()}
        )

    def warm_up(self) -> None:
        """The data and the denoiser; every later trial finds them in this process."""
        subject_of(self.checkpoint, self.dataset, torch.device("cpu"))

    def prepare(self, cache: Path) -> Mapping[str, float]:
        """Make the judge once; the scores of real images."""
        if not self.judges:
            return {}
        return prepare_judge(self.judge, self.dataset, cache)

    def probe(self, *, gpu: bool) -> Cost:
        """Some images and their scores, timed; no gradient's times."""
        at = subject_of(self.checkpoint, self.dataset, torch.device("cuda" if gpu else "cpu"))
        network = at.network(self.sampler, self.tau_scope)
        shape, times = at.trained.shape, network.solver.times

        judge = self.judge if self.judges else None

        def some(n: int) -> Tensor:
            drawn = draw(network, times, n, shape=shape, seed=0, device=at.device)
            return at.pictures(drawn) if judge else drawn

        def once() -> object:
            return losses(network, times, at.images, self.gradient)

        return measure_drawing(some, once, judge, self.dataset.pictures_of(), gpu=gpu)

    def chart(self, width: int) -> str:
        """t and tau, of the gradient's only how much of them."""
        shifted = self._shifted()
        shares = [(name, getattr(self.times, name)) for name in GRADIENTS]
        lines = [f"{share:g} of gradient-{name}" for name, share in shares if share]
        tau = shifted.times(self.times.r) if self.times.r else shifted.t
        columns = [f"{t:>6.4g} -> {to:.4g}" for t, to in zip(shifted.t, tau, strict=True)]
        return "\n".join(line[:width] for line in [*lines, *columns])

    def _shifted(self) -> ShiftedTimes:
        """Raises UserError if the sampler cannot run, or for another number of shifts."""
        alpha_bar = look(self.checkpoint).alpha_bar
        shifted = ShiftedTimes(self.sampler.times(alpha_bar).tolist(), 0, len(alpha_bar) - 1)
        shifted.times(self.times.r or [0.0] * len(shifted.t))
        return shifted

    def objective(self) -> str:
        """The score as a ratio to that of the untuned times, sampler by sampler."""
        return f"{self.primary}_ratio"

    def guards(self) -> Mapping[str, float]:
        """A feature distance alone crowns samples full of static (docs/metrics.md)."""
        return {"off_manifold_excess": 0.02} if self.judges else {}

    def reported(self) -> Mapping[str, Direction]:
        """The scores, those beside the untuned times', and what everything costs."""
        name = self.dataset.load().name
        one_noise = self.judge.model_copy(update={"sampling_seeds": 1})
        found = judged_scores(one_noise, name) if self.judges else {}
        beside = [f"{distance}_ratio" for distance in self.distances]
        beside += ["off_manifold_excess"] if self.judges else []
        costs = ("nfe", "tuning_cpu_s", "evaluation_cpu_s")
        return found | dict.fromkeys((self.primary, *beside, *costs), "minimize")

    def illustrate(self, folder: Path) -> None:
        """Draw tau against t, and each slot's loss with tau and without."""
        draw_times(folder)

    def overview(self, folder: Path, leaderboard: pd.DataFrame) -> None:
        """Draw each sampler's distances over its evaluations, with the best tau and without."""
        draw_over_nfe(self.distances, folder, leaderboard)

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
        """Write a trial's tau as `write_tuned` does, with the search beside it.

        Its verdict is the distance in pixels, which no score lowers, on noise that no trial drew
        from. Raises UserError if tau does worse there and `force` is not given.
        """
        write_tuned_trial(self, out, trial, budget, provenance, force=force)
        (out / "search.yaml").write_text(recipe, encoding="utf-8")
        leaderboard.to_csv(out / "leaderboard.csv", index=False)
