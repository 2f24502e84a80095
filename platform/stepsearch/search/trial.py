"""What the platform and a trainer say to each other; no Ray in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd

    from stepsearch.diffusion.datasets import Dataset
    from stepsearch.diffusion.denoisers import DenoiserConfig
    from stepsearch.diffusion.workers import Workers
    from stepsearch.strategies import FloatArray, PredictionType
    from stepsearch.study import Direction


@dataclass(frozen=True)
class Trial:
    """One training with one configuration, as it is handed to a lane.

    `config` is the trainer's configuration with the proposal laid over it, `milestones` are the
    values of `images_seen` at which the trial reports (ascending, the last one is its budget),
    `folder` is the trial's own on the search's storage (checkpoints and pictures go there), and
    `cache` is shared by all trials (what the trainer has prepared).
    """

    number: int
    config: Any
    seed: int
    milestones: tuple[int, ...]
    folder: Path
    cache: Path

    @property
    def budget(self) -> int:
        """Images that a finished trial has seen."""
        return self.milestones[-1]


class Report(Protocol):
    """How a running trial talks to the search; called by every worker of the lane alike."""

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        """Hand over the metrics of a milestone (with `images_seen`); False: stop now."""

    def progress(self, images_seen: int) -> bool:
        """Say how far the training is, every second or so; False: save a checkpoint and stop."""


@dataclass(frozen=True, eq=False)
class TrainerFacts:
    """What a search space may know of the trainer whose configuration it varies."""

    kind: str
    """The trainer's kind, e.g. `denoising`."""
    alpha_bar: FloatArray
    """The noise process; its length is T."""
    prediction_type: PredictionType = "epsilon"
    random_steps: bool = True
    """Whether it can judge samplers whose steps add noise."""
    guides: bool = False
    """Whether its denoiser can be guided towards classes."""
    denoiser: DenoiserConfig | None = None
    data: Callable[[], Dataset] | None = None
    """Reads the data set; what a space needs it for may take longer."""

    @property
    def T(self) -> int:
        return len(self.alpha_bar)

    @property
    def fingerprint(self) -> str:
        """Of the data set: another one if an image, a label or the split is another."""
        return self.data().fingerprint if self.data else ""


@dataclass(frozen=True)
class Cost:
    """What a trial costs on one thread, or on one GPU, of the machine that measured it."""

    batch_size: int
    """Images a step."""
    step_s: float
    evaluation_s: float
    """Drawing and judging the images of one milestone."""
    prepare_s: float
    """What `prepare` takes where nothing is cached."""
    checkpoint_bytes: int
    once_s: float = 0.0
    """What a trial does once beside its steps and milestones."""


class Run(Protocol):
    """What one Ray worker does for one trial.

    It goes on from the checkpoint in `trial.folder` if there is one, reports at each milestone
    that is not behind it, raises `Diverged` on a loss or a metric that is not finite, and returns
    when a report says stop.
    """

    def __call__(self, trial: Trial, report: Report, workers: Workers) -> None: ...


@runtime_checkable
class Declares(Protocol):
    """A trainer that knows beforehand what all its trials report; not every one does."""

    def reported(self) -> Mapping[str, Direction]:
        """The metrics of each trial's last report, and which way each is better."""


class Trainer(Protocol):
    """A trainer's configuration, as the platform uses it.

    One that `Declares` what its trials report has a search's objectives and guards checked.
    """

    @property
    def run(self) -> Run:
        """The function that a lane calls; a module's own, so that workers can import it."""

    def facts(self) -> TrainerFacts: ...

    def check(self, workers: int) -> None:
        """Raise UserError for what a validated configuration cannot know: a missing data set, a
        batch that the lane's workers cannot share. Quick, and writes nothing."""

    def resolved(self) -> Trainer:
        """With everything written out that it would look up, and that may be different later."""

    def warm_up(self) -> None:
        """Import and read what every trial needs; once in each process that trains."""

    def prepare(self, cache: Path) -> Mapping[str, float]:
        """Make what all trials share, before the first one; numbers worth a record."""

    def probe(self, *, gpu: bool) -> Cost:
        """Measure what a trial costs here, in a few seconds; leaves nothing behind."""

    def chart(self, width: int) -> str:
        """A picture in text of what spaces vary, at most `width` columns wide."""

    def objective(self) -> str:
        """The metric to minimise where the search names none."""

    def guards(self) -> Mapping[str, float]:
        """Metrics that may be this much higher than the baseline's, not more."""

    def illustrate(self, folder: Path) -> None:
        """Draw the pictures of an ended trial into `folder`/pictures."""

    def overview(self, folder: Path, leaderboard: pd.DataFrame) -> None:
        """Draw pictures of the whole search into `folder`; the leaderboard has a line a trial."""

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
        """Write the trial in the folder `trial` as files that need no stepsearch to be used.

        Raises UserError for one that should not be used, unless `force` is given.
        """
