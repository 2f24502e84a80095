"""A simulated search: the parts of a real one, with recordings for trainings."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from stepsearch.search.agenda import Agenda
from stepsearch.search.history import History
from stepsearch.search.leaderboard import (
    BASELINE,
    PAPER,
    PROPOSAL,
    PROTECTED,
    REPEAT,
    Leaderboard,
    last_excess,
    leaderboard,
)
from stepsearch.search.schedulers import Playback, trial_scheduler
from stepsearch.simulation.curves import Recording
from stepsearch.simulation.stage import Act, Stage
from stepsearch.simulation.stand_ins import StandIns
from stepsearch.study import Outcome, Proposal, Study, TrialRecord

NEAR = 0.05
"""How much worse than the best recording, as a share, still counts as having found it."""


@dataclass(frozen=True)
class Found:
    """A finished trial within the guards that was better than all before it."""

    images: int
    """Seen by all trials together until then."""
    seconds: float
    """On the virtual clock."""
    regret: float
    """How much worse than the best recording, as a share: 0.1 is 10 % worse."""


@dataclass(frozen=True)
class Ended:
    """A simulated trial that is over."""

    role: str
    recording: int
    """The number of the one that stood in for it."""
    outcome: Outcome
    images_seen: int


@dataclass(frozen=True)
class Simulated:
    """What one simulated search spent and found."""

    images: int
    """Seen by all trials together, the repeats of finalists included."""
    seconds: float
    """On the virtual clock, all lanes at work."""
    trials: tuple[Ended, ...]
    """As they ended, without the repeats."""
    winner: Recording | None
    regret: float | None
    """The winner's, by its first seed; None without a winner, or if it is beyond a guard."""
    found: tuple[Found, ...]
    distance: float
    """From a proposal to its recording, in the unit cube of the space; the mean."""

    @property
    def outcomes(self) -> Counter[str]:
        """How many trials ended in which way."""
        return Counter(trial.outcome for trial in self.trials)

    @property
    def near(self) -> Found | None:
        """The first trial that was nearly as good as the best recording."""
        return next((found for found in self.found if found.regret <= NEAR), None)

    def regret_after(self, images: int) -> float | None:
        """Of the best trial that had finished when so many images were seen."""
        regrets = [found.regret for found in self.found if found.images <= images]
        return min(regrets, default=None)


def simulate(stage: Stage, seed: int) -> Simulated:
    """Run the search that `stage` describes, on another seed."""
    return _Search(stage, seed).run()


@dataclass
class _Running:
    """A trial on a lane of the simulated search."""

    number: int
    role: str
    recording: Recording
    acts: Sequence[Act]
    recorded: bool
    """False of a repeat on a seed that nobody has recorded: it costs, and reports nothing."""
    position: int = 0


class _Search:
    """The driver, the lanes and the clock of one simulated search."""

    def __init__(self, stage: Stage, seed: int) -> None:
        config = stage.config.model_copy(update={"seed": seed})
        self._stage, self._primary, self._guards = stage, config.primary, config.guards or {}
        self._study = Study.create(
            None,
            config.name,
            config.objectives,
            config.optuna_sampler,
            seed,
            constraints=tuple(self._guards),
        )
        self._history = History()
        self._agenda = Agenda(config, self._study, self._standings)
        scheduler = trial_scheduler(config.trial_scheduler, config.budget, config.primary)
        self._playback = Playback(scheduler, config.primary.name)
        self._stand_ins = StandIns(stage.cube, stage.candidates, reuse=stage.reuse)
        self._recordings: dict[int, Recording] = {}  # of the trials, repeats aside
        self._distances: list[float] = []
        self._baseline: int | None = None
        self._due: list[tuple[float, int, _Running]] = []  # when each lane reports next
        self._clock, self._images = 0.0, 0
        self._ended: list[Ended] = []
        self._found: list[Found] = []

    def run(self) -> Simulated:
        self._agenda.enqueue_fixed_points()
        self._fill_lanes()
        while self._due:
            self._clock, _, trial = heapq.heappop(self._due)
            outcome = self._report(trial)
            if outcome is None:
                self._schedule(trial)
            else:
                self._end(trial, outcome)
                self._fill_lanes()
        return self._result()

    def _fill_lanes(self) -> None:
        while len(self._due) < self._stage.lanes:
            proposal = self._agenda.next()
            if proposal is None:
                return
            self._schedule(self._start(proposal))

    def _schedule(self, trial: _Running) -> None:
        """Its next report is due when the recorded seconds have passed."""
        due = self._clock + trial.acts[trial.position].seconds
        heapq.heappush(self._due, (due, trial.number, trial))

    def _start(self, proposal: Proposal) -> _Running:
        role = proposal.attrs.get("role", PROPOSAL)
        recording, recorded = self._recording_for(proposal, role)
        if role == BASELINE:
            self._baseline = proposal.number
        if recorded:
            self._playback.add(proposal.number, protected=role in PROTECTED)
        acts = self._stage.acts[recording.number]
        return _Running(proposal.number, role, recording, acts, recorded)

    def _recording_for(self, proposal: Proposal, role: str) -> tuple[Recording, bool]:
        """The recording, and whether it is of this trial's own seed."""
        if role == REPEAT:
            original = self._recordings[proposal.attrs["repeats"]]
            again = self._stage.curves.repeat(original.number, proposal.attrs["seed"])
            return again or original, again is not None
        if role in (BASELINE, PAPER):
            label = proposal.attrs["label"]
            recording = self._stand_ins.take_exactly(proposal.params, label)
        else:
            recording, distance = self._stand_ins.take(proposal.params)
            self._distances.append(distance)
        self._recordings[proposal.number] = recording
        return recording, True

    def _report(self, trial: _Running) -> Outcome | None:
        """Take a trial's next report to all who keep one; how the trial ends, if it does."""
        act = trial.acts[trial.position]
        trial.position += 1
        self._images += act.images
        last = trial.position == len(trial.acts)
        if not trial.recorded:
            return "error" if last else None
        number, value = trial.number, act.metrics[self._primary.name]
        self._history.add(number, act.images_seen, act.metrics)
        self._study.report(number, act.images_seen, value)
        if not last and not self._playback.stops(number, act.images_seen, value):
            return None
        self._playback.complete(number, act.images_seen, value)
        return "finished" if last else "pruned"

    def _end(self, trial: _Running, outcome: Outcome) -> None:
        metrics = self._history.last(trial.number)
        values = [metrics.get(objective.name) for objective in self._stage.config.objectives]
        reason = None if trial.recorded else "this seed was not recorded"
        self._study.tell(trial.number, outcome, values, reason, self._constraints(trial))
        if trial.role == REPEAT:
            return
        seen = trial.acts[trial.position - 1].images_seen
        self._ended.append(Ended(trial.role, trial.recording.number, outcome, seen))
        if outcome == "finished":
            self._compare(self._stage.regret(trial.recording))

    def _compare(self, regret: float | None) -> None:
        if regret is not None and all(regret < found.regret for found in self._found):
            self._found.append(Found(self._images, self._clock, regret))

    def _constraints(self, trial: _Running) -> dict[str, float]:
        """As the recorder has them."""
        if self._baseline is None:
            return dict.fromkeys(self._guards, 0.0)
        excess = last_excess(self._history, trial.number, self._baseline, self._guards)
        return {name: excess.get(name, 0.0) for name in self._guards}

    def _standings(self) -> Leaderboard:
        records = _comparable(self._study.trials())
        return leaderboard(records, self._history, self._primary, self._guards)

    def _result(self) -> Simulated:
        row = self._standings().winner
        winner = None if row is None else self._recordings[row.number]
        return Simulated(
            images=self._images,
            seconds=self._clock,
            trials=tuple(self._ended),
            winner=winner,
            regret=None if winner is None else self._stage.regret(winner),
            found=tuple(self._found),
            distance=sum(self._distances) / max(1, len(self._distances)),
        )


def _comparable(records: list[TrialRecord]) -> list[TrialRecord]:
    """Without the repeats on a seed that some finalist lacks: the others would win by them."""
    repeats = [r for r in records if r.attrs.get("role") == REPEAT]
    gaps = {r.attrs["seed"] for r in repeats if r.outcome != "finished"}
    return [r for r in records if r.attrs.get("role") != REPEAT or r.attrs["seed"] not in gaps]
