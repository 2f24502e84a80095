"""A simulated search spends, stops and finds what the real one would on the same curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from stepsearch.errors import UserError
from stepsearch.search.config import SearchConfig
from stepsearch.search.leaderboard import PROTECTED
from stepsearch.search.schedulers import trial_scheduler
from stepsearch.simulation.curves import Curves
from stepsearch.simulation.replay import Simulated, simulate
from stepsearch.simulation.stage import Stage

Search = Callable[..., SearchConfig]
ASHA = {"kind": "asha", "reduction": 2, "grace": 0}
MEDIAN = {"kind": "median", "min_trials": 2, "grace": 0}


def run(config: SearchConfig, curves: Curves, lanes: int = 1, seed: int = 0) -> Simulated:
    return simulate(Stage(config, curves, lanes=lanes), seed)


def test_without_early_stopping_it_spends_trials_times_images(
    search: Search, curves: Curves
) -> None:
    result = run(search(), curves)
    assert result.images == 6 * 1000
    assert result.seconds == 6 * 4 * 1.5
    assert result.outcomes == {"finished": 6}
    assert run(search(budget={"trials": 2}), curves).images == 2000


def test_lanes_share_the_trials(search: Search, curves: Curves) -> None:
    result = run(search(budget={"trials": 5}), curves, lanes=2)
    assert result.images == 5 * 1000
    assert result.seconds == 3 * 6.0, "two lanes, five trials of six seconds"


def test_the_winner_is_the_best_trial_within_the_guards(search: Search, curves: Curves) -> None:
    result = run(search(), curves)
    assert result.winner is not None
    assert result.winner.label == "late"
    assert result.regret == 0.0
    assert result.near is not None
    assert result.regret_after(1000) == 1.0, "the baseline, as the first trial"
    assert result.regret_after(2000) == 0.5, "the paper's setting, as the second"
    assert result.regret_after(999) is None
    unguarded = run(search(guards={}), curves)
    assert unguarded.winner is not None
    assert unguarded.winner.label == "static"


def test_the_fixed_points_come_first_and_are_their_own_recordings(
    search: Search, curves: Curves
) -> None:
    result = run(search(budget={"trials": 2}), curves)
    assert result.winner is not None
    assert result.winner.label == "SpeeD (paper)"
    assert result.distance == 0.0


def test_a_fixed_point_that_was_not_recorded_is_refused(search: Search, curves: Curves) -> None:
    others = tuple(r for r in curves.recordings if r.role != "paper")
    without = dataclasses.replace(curves, recordings=others)
    with pytest.raises(UserError, match=r"must hold the fixed point 'SpeeD \(paper\)' \(tau=0.7"):
        run(search(budget={"trials": 4}), without)


def test_the_same_seed_is_the_same_search(search: Search, curves: Curves) -> None:
    config = search(optuna_sampler={"kind": "tpe"}, trial_scheduler=ASHA, budget={"trials": 5})
    results = [run(config, curves, lanes=2, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert results[0] == results[1]
    assert any(result != results[0] for result in results[2:])


def test_asha_stops_late_bloomers_and_nothing_that_is_protected(
    search: Search, curves: Curves
) -> None:
    result = run(search(trial_scheduler=ASHA), curves)
    # Rungs at 250, 500 and 1000 images. `late` is the worst but one at both, `poor` the worst.
    assert result.outcomes["finished"] >= 2
    assert result.outcomes["pruned"] >= 2
    assert result.winner is not None
    assert result.winner.label == "SpeeD (paper)"
    assert result.images < 6 * 1000


def test_the_median_rule_is_played_too(search: Search, curves: Curves) -> None:
    result = run(search(trial_scheduler=MEDIAN), curves)
    assert result.outcomes["pruned"] > 0
    assert result.outcomes["finished"] >= 2


@pytest.mark.parametrize("rule", [ASHA, {**ASHA, "reduction": 3}, MEDIAN])
def test_it_stops_exactly_the_trials_that_ray_tune_stops(
    rule: dict[str, Any], search: Search, curves: Curves, ray_cluster: None, tmp_path: Path
) -> None:
    config = search(trial_scheduler=rule)
    result = run(config, curves)
    assert 0 < result.outcomes["pruned"] < 4
    played = [
        {"number": n, "curve": curve(curves, t.recording), "protected": t.role in PROTECTED}
        for n, t in enumerate(result.trials)
    ]
    results = tune.Tuner(
        Recorded,
        param_space={
            "trial": tune.grid_search(played),
            "number": tune.sample_from(lambda config: config["trial"]["number"]),
            "protected": tune.sample_from(lambda config: config["trial"]["protected"]),
        },
        tune_config=tune.TuneConfig(
            scheduler=trial_scheduler(config.trial_scheduler, config.budget, config.primary),
            max_concurrent_trials=1,  # so that the order of the reports is the same
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    ended = [r.metrics["images_seen"] for r in results if r.metrics]
    assert ended == [trial.images_seen for trial in result.trials]


class Recorded(tune.Trainable):
    """A trial of Ray Tune that reports a recorded curve."""

    def setup(self, config: dict[str, Any]) -> None:
        self._curve = list(config["trial"]["curve"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        images_seen, value = self._curve.pop(0)
        return {"images_seen": images_seen, "fd": value, "done": not self._curve}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing is kept."""


def curve(curves: Curves, number: int) -> list[tuple[int, float]]:
    reports = next(r.reports for r in curves.recordings if r.number == number)
    return [(at, metrics["fd"]) for at, metrics in reports.items()]


def test_recorded_repeats_count_for_the_winner(search: Search, curves: Curves) -> None:
    config = search(guards={"off_manifold": 0.02}, finalists={"count": 1, "seeds": 2})
    result = run(config, curves)
    assert result.images == (6 + 2) * 1000
    assert len(result.trials) == 6
    assert result.winner is not None
    assert result.winner.label == "late"


def test_a_repeat_that_nobody_recorded_costs_and_says_nothing(
    search: Search, curves: Curves
) -> None:
    config = search(budget={"trials": 2}, finalists={"count": 1, "seeds": 3})
    result = run(config, curves)
    assert result.images == (2 + 4) * 1000
    assert result.seconds == (2 + 4) * 6.0
    # The baseline has a recorded repeat and the paper's setting has none: seed 0 decides alone.
    assert result.winner is not None
    assert result.winner.label == "SpeeD (paper)"


def test_recordings_stand_in_again_where_they_may(search: Search, curves: Curves) -> None:
    stage = Stage(search(budget={"trials": 30}), curves, reuse=True)
    assert simulate(stage, 0).outcomes == {"finished": 30}
