"""What looking at the trials has cost: the images drawn for scores, and the scores."""

from __future__ import annotations

from dataclasses import dataclass

from stepsearch.search.history import History

_PARTS = ("train", "evaluation", "drawing", "judging")


@dataclass(frozen=True)
class Evaluating:
    """In CPU-seconds of each trial's first worker, over all reports of all trials."""

    train_s: float
    evaluation_s: float
    """Drawing, judging and what else is measured at a report."""
    drawing_s: float
    judging_s: float
    images: float
    network_evaluations: float
    """All images' together."""

    @classmethod
    def of(cls, history: History) -> Evaluating | None:
        """None where no trial has trained and said what its images took."""
        seconds = {f"{part}_s": history.total(f"{part}_cpu_s") for part in _PARTS}
        if not all(part > 0 for part in seconds.values()):
            return None
        return cls(
            **seconds,
            images=history.total("drawn_images"),
            network_evaluations=history.total("network_evaluations"),
        )

    @property
    def share(self) -> float:
        """Of the trials' time."""
        return self._share(self.drawing_s + self.judging_s)

    def __str__(self) -> str:
        drawing, judging = self._share(self.drawing_s), self._share(self.judging_s)
        said = (
            f"took {self.share:.0%} of the trials' CPU time (drawing {drawing:.0%}, "
            f"judging {judging:.0%}): {self.images:,.0f} images, "
            f"{self.network_evaluations:,.0f} network evaluations"
        )
        hint = "; fewer judge.samples or budget.reports leave more for training"
        return said + hint * (self.share > 0.5)

    def _share(self, seconds: float) -> float:
        return seconds / (self.train_s + self.evaluation_s)
