"""Search the times that a trained network is told while it draws images."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.base import FixedPoint, Range, SearchSpace, Suggest, bounds
from stepsearch.errors import UserError
from stepsearch.sampling.timetuner.samplers import SolverConfig
from stepsearch.sampling.timetuner.shifts import Gradient, ShiftedTimes
from stepsearch.search.trial import TrainerFacts


class TimeTunerSpace(SearchSpace):
    """Shifts of the untuned times, and how much of the gradient's solution they start from.

    (TimeTuner, arXiv 2310.09469.) Each sampler with each number of steps is a case, and has
    numbers of its own. Slot k of a case is told t - (r_k + share * r'_k) of the way to its
    neighbour, r' being the gradient's shifts: r = 0 without a share is untuned, r = 0 with a share
    of 1 the paper's method, and proposals go on from either.
    """

    trainers: ClassVar[tuple[str, ...]] = ("timetuner",)
    kind: Literal["timetuner"] = "timetuner"
    samplers: tuple[SolverConfig, ...] = Field((SolverConfig(),), min_length=1)
    num_steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="of each sampler; none: its own"
    )
    r: Annotated[Range, bounds(-1, 1, baseline=0, called="the untuned times")] = (-0.2, 0.75)
    """Below 0 a slot is told more noise. Less than 1 wide, so that tau keeps its order."""
    gradient: tuple[Gradient, ...] = ("end_to_end",)
    """Whose shares are searched and whose solution is tried first; none: without gradients."""
    tune_last: bool = True
    """Move the last slot, too. Unlike the gradients' fields of this name it is on: each trial is
    judged, and a guard refuses the static that the last slot may buy its distance with."""

    @field_validator("r")
    @classmethod
    def _keeps_the_order(cls, r: Range) -> Range:
        if not r[1] - r[0] < 1:
            raise ValueError(f"timetuner.r must be less than 1 wide, got ({r[0]:g}, {r[1]:g})")
        return r

    @field_validator("gradient")
    @classmethod
    def _once(cls, gradient: tuple[Gradient, ...]) -> tuple[Gradient, ...]:
        if len(set(gradient)) < len(gradient):
            raise ValueError(f"gradient must not repeat, got {', '.join(gradient)}")
        return gradient

    @model_validator(mode="after")
    def _cases_differ(self) -> TimeTunerSpace:
        cases = self._all()
        names = [name_of(case) for case in cases]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"samplers must be different cases, got {name} twice")
        if any(case.kind == "cm" for case in cases):
            raise ValueError("samplers must be others than cm, which has levels of its own")
        return self

    def check(self, facts: TrainerFacts) -> None:
        super().check(facts)
        latents = facts.data is not None and facts.data().vae is not None
        for name, case in self.cases.items():
            if case.stochastic and not facts.random_steps:
                raise UserError(
                    f"timetuner.samplers must add no noise where score is teacher, got {name}"
                )
            if case.guidance != 1 and not facts.guides:
                raise UserError(
                    "timetuner.samplers must have guidance 1 for a denoiser that learned no null "
                    f"class, got {name}"
                )
            try:
                if latents:
                    case.check_latents()
                self._free(case, facts)
            except UserError as error:
                raise UserError(f"timetuner.samplers, {name}: {error}") from None

    def suggest(self, trial: Suggest, facts: TrainerFacts) -> dict[str, Any]:
        name = trial.suggest_categorical("case", tuple(self.cases))
        case, prefix = self.cases[name], self._prefix(name)
        r = [0.0] * len(case.times(facts.alpha_bar))
        for slot in self._free(case, facts):
            r[slot] = trial.suggest_float(f"{prefix}r{slot}", *self.r)
        shares = {each: trial.suggest_float(f"{prefix}{each}", 0, 1) for each in self.gradient}
        return {"sampler": case.model_dump(), "times": {"r": r, **shares}}

    def fixed(self, facts: TrainerFacts) -> list[FixedPoint]:
        """Of every case: untuned, then the gradient's solutions, then halfway to the neighbours,
        where the mean of a step lies."""
        found = [self._point("untuned", name, facts) for name in self.cases]
        for name in self.cases:
            for each in self.gradient:
                found.append(self._point(f"gradient-{each}", name, facts, **{each: 1.0}))
            if self.r[0] <= 0.5 <= self.r[1]:
                found.append(self._point("midpoints", name, facts, r=0.5))
        return found

    def _point(
        self, label: str, name: str, facts: TrainerFacts, r: float = 0.0, **shares: float
    ) -> FixedPoint:
        prefix = self._prefix(name)
        params: dict[str, Any] = {"case": name}
        params |= {f"{prefix}r{slot}": r for slot in self._free(self.cases[name], facts)}
        params |= {f"{prefix}{each}": shares.get(each, 0.0) for each in self.gradient}
        return FixedPoint(f"{label} {name}", params)

    @property
    def cases(self) -> Mapping[str, SolverConfig]:
        return {name_of(case): case for case in self._all()}

    def _all(self) -> list[SolverConfig]:
        return [
            sampler.model_copy(update={"num_steps": steps})
            for sampler in self.samplers
            for steps in self.num_steps or (sampler.num_steps,)
        ]

    def _prefix(self, name: str) -> str:
        """Of a parameter's name; none where there is one case only."""
        return f"{name}." if len(self.cases) > 1 else ""

    def _free(self, case: SolverConfig, facts: TrainerFacts) -> list[int]:
        """The slots that are moved: those with room, and the last one if it is to be tuned."""
        times = case.times(facts.alpha_bar)
        free = ShiftedTimes(times.tolist(), 0, facts.T - 1).free
        return [slot for slot in free if self.tune_last or slot < len(times) - 1]


def name_of(case: SolverConfig) -> str:
    """`ddim-trailing-10`, with what else tells it from others; levels of one's own by a hash."""
    trajectory: str = case.trajectory
    if trajectory == "given":
        trajectory += f"-{sha256(repr(case.levels).encode()).hexdigest()[:6]}"
    extras = [word for word, on in (("clip", case.clip_sample), ("eta", case.eta)) if on]
    if case.eta:
        extras[-1] += f"{case.eta:g}"
    if case.kind == "ddpm" and case.variance == "small":
        extras.append("small")
    if case.guidance != 1:
        extras.append(f"guidance{case.guidance:g}")
    return "-".join([case.kind, trajectory, *extras, str(case.num_steps)])
