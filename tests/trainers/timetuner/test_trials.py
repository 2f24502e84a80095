"""Trials that train nothing: what they report, keep, draw and export."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stepsearch.diffusion.workers import ALONE
from stepsearch.errors import Diverged, UserError
from stepsearch.evaluation.distances import energy_distance, kid
from stepsearch.sampling.timetuner import draw, load_tuned
from stepsearch.sampling.timetuner.shifts import GRADIENTS
from stepsearch.sampling.timetuner.tuned_timesteps import attach, load
from tests.trainers.timetuner.conftest import Listener, exported, heard
from trainers.drawing_trial import TIMES, run
from trainers.judging import judge_of
from trainers.subject import subject_of
from trainers.tuned_scores import compared
from trainers.tuned_trial import over_nfe
from trainers.tuning import solution

MOVED = {"r": (0.1, 0.2, -0.1, 0.3)}
UNTUNED = [999, 749, 499, 249]
CPU = torch.device("cpu")
TIMED = ("tuning_cpu_s", "evaluation_cpu_s")


def test_the_untuned_trial_is_what_all_others_are_compared_with(config: Any, trial: Any) -> None:
    made = trial(config())
    (metrics,) = heard(made)
    assert metrics["images_seen"] == 32
    assert metrics["nfe"] == 4
    assert metrics["fd_digits_ratio"] == metrics["pixel_fd_ratio"] == 1
    assert metrics["off_manifold_excess"] == 0
    assert all(math.isfinite(value) for value in metrics.values())
    times = json.loads((made.folder / TIMES).read_text())
    assert times["tau"] == times["t"] == UNTUNED
    assert times["loss"] == times["loss_untuned"]
    assert config().objective() == "fd_digits_ratio"
    assert config().guards() == {"off_manifold_excess": 0.02}


def test_a_trial_started_again_says_the_same_and_its_noise_is_the_seeds(
    config: Any, trial: Any
) -> None:
    moved = config(times=MOVED)
    first, again = (heard(trial(moved, (16, 32))) for _ in range(2))
    assert first == again
    assert [metrics["images_seen"] for metrics in first] == [16, 32]
    assert first[1]["fd_digits_ratio"] != 1
    (elsewhere,) = heard(trial(moved, (32,), seed=1))
    assert elsewhere["fd_digits"] != first[1]["fd_digits"]


def test_shifts_are_told_and_the_denoiser_stays_loaded(config: Any, trial: Any) -> None:
    made = trial(config(times=MOVED))
    run(made, Listener())
    tau = json.loads((made.folder / TIMES).read_text())["tau"]
    assert tau == pytest.approx([974, 699, 524, 174.3])
    five = config(sampler={"kind": "euler", "num_steps": 5})
    assert subject_of(five.checkpoint, five.dataset, CPU) is subject_of(
        made.config.checkpoint, made.config.dataset, CPU
    )


@pytest.mark.parametrize("strategy", GRADIENTS)
def test_a_share_of_the_gradients_shifts_is_found_once_and_kept(
    config: Any, trial: Any, strategy: Any, tmp_path: Path
) -> None:
    found = solution(config().untuned, strategy, ALONE, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("*.json")
    assert json.loads(kept.read_text()) == {
        "tau": list(found.tau),
        "iterations": list(found.iterations),
    }
    tau = [979.0, 764.0, 470.0, 249.0]
    kept.write_text(json.dumps({"tau": tau, "iterations": [1] * 4}))
    solution.cache_clear()  # as another process has none
    for share in (1, 0.5):
        made = trial(config(times={strategy: share}))
        run(made, Listener())
        told = json.loads((made.folder / TIMES).read_text())["tau"]
        wanted = [t + share * (each - t) for t, each in zip(UNTUNED, tau, strict=True)]
        assert told == pytest.approx(wanted)


def test_kept_times_that_cannot_be_read_are_found_again(config: Any, tmp_path: Path) -> None:
    untuned = config().untuned
    found = solution.__wrapped__(untuned, "parallel", ALONE, tmp_path)
    (kept,) = tmp_path.glob("*.json")
    kept.write_text('{"tau": [1')
    assert solution.__wrapped__(untuned, "parallel", ALONE, tmp_path) == found


def test_a_trial_stops_between_its_images(config: Any, trial: Any) -> None:
    listener = Listener(until=256)
    run(trial(config(), (512,)), listener)
    assert listener.heard == []


@pytest.fixture
def unsorted(tmp_path: Path) -> dict[str, Any]:
    """A data set without labels."""
    images = tmp_path / "unsorted"
    images.mkdir()
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    return {"kind": "images", "path": str(images), "size": 8, "channels": 1}


def test_the_energy_distance_needs_no_labels_and_is_that_of_the_images(
    config: Any, trial: Any, unsorted: Any
) -> None:
    energy = {"dataset": unsorted, "score": "energy"}
    config(**energy).check(workers=1)
    assert config(**energy).objective() == "energy_ratio"
    random_steps = {"sampler": {"kind": "ddpm", "num_steps": 4}}
    config(**energy, **random_steps).check(workers=1)
    made = trial(config(**energy, times=MOVED))
    (metrics,) = heard(made)
    assert set(metrics) == {"images_seen", "nfe", "energy", "energy_ratio"}
    assert {*metrics, *TIMED} == {"images_seen", *made.config.reported()}
    at = subject_of(made.config.checkpoint, made.config.dataset, CPU)
    network = at.network(made.config.sampler, "embedding")
    tau = torch.tensor(json.loads((made.folder / TIMES).read_text())["tau"])
    drawn = draw(network, tau, 32, shape=(1, 8, 8), seed=0)
    expected = energy_distance(at.images.flatten(1), drawn.flatten(1))
    assert metrics["energy"] == pytest.approx(float(expected))


def test_the_judge_is_asked_too_where_there_are_labels(config: Any, trial: Any) -> None:
    made = trial(config(score="energy", times=MOVED))
    (metrics,) = heard(made)
    assert {*metrics, *TIMED} == {"images_seen", *made.config.reported()}
    assert metrics.keys() >= {"energy_ratio", "fd_digits_ratio", "pixel_fd_ratio"}


def test_the_distance_to_a_teacher_needs_no_labels(
    config: Any, trial: Any, unsorted: Any, tmp_path: Path
) -> None:
    teacher = {"dataset": unsorted, "score": "teacher", "teacher": {"num_steps": 10}}
    made = config(**teacher)
    made.check(workers=1)
    assert made.objective() == "gap_ratio"
    assert made.guards() == made.prepare(tmp_path) == {}
    (metrics,) = heard(trial(config(**teacher, times=MOVED)))
    assert set(metrics) == {"images_seen", "nfe", "gap", "gap_ratio"}
    with pytest.raises(Diverged, match=r"^gap of the untuned times must be above 0"):
        heard(trial(config(**teacher, sampler={"num_steps": 10}), (8,)))


def test_kid_is_the_unbiased_one_in_the_judges_features(config: Any, trial: Any) -> None:
    made = trial(config(score="kid", times=MOVED))
    assert made.config.objective() == "kid_digits_ratio"
    (metrics,) = heard(made)
    judge = judge_of(made.config.judge, made.config.dataset, made.cache)
    at = subject_of(made.config.checkpoint, made.config.dataset, CPU)
    network = at.network(made.config.sampler, "embedding")
    tau = torch.tensor(json.loads((made.folder / TIMES).read_text())["tau"])
    expected = [
        kid(
            judge.real.features,
            judge.extractor.features(draw(network, times, 32, shape=(1, 8, 8), seed=0)),
        )
        for times in (tau, network.solver.times)
    ]
    assert metrics["kid_digits"] == pytest.approx(expected[0], rel=1e-6)
    assert metrics["kid_digits_ratio"] == pytest.approx(expected[0] / expected[1], rel=1e-6)


def test_a_reference_of_nothing_is_no_reference(config: Any) -> None:
    zero = {"kid_digits": -0.01, "pixel_fd": 1.0, "off_manifold": 0.0}
    with pytest.raises(Diverged, match=r"^kid_digits of the untuned times must be above 0"):
        compared(config(score="kid"), zero, zero)


def test_a_trial_leaves_its_times_and_samples_as_pictures(config: Any, trial: Any) -> None:
    made = trial(config(times=MOVED))
    run(made, Listener())
    made.config.illustrate(made.folder)
    pictures = {path.name: path for path in (made.folder / "pictures").iterdir()}
    assert set(pictures) == {"times.png", "untuned_and_tuned_000000032.png"}
    with Image.open(pictures["untuned_and_tuned_000000032.png"]) as picture:
        width, height = picture.size
        left, right = (
            np.asarray(picture)[:, part] for part in (slice(0, height), slice(-height, None))
        )
        assert width > 2 * height * 0.99
        assert not np.array_equal(left, right)
    assert made.config.chart(80).splitlines()[0].split() == ["999", "->", "974"]
    assert "0.5 of gradient-parallel" in config(times={"parallel": 0.5}).chart(40)


def test_an_overview_shows_each_sampler_over_its_evaluations(config: Any, tmp_path: Path) -> None:
    energies = {("untuned", 10): 1.5, ("r0=.1", 5): 1.2, ("untuned", 5): 2.0, ("r0=.3", 5): 1.0}
    rows = [
        {"label": f"{name} ddim-trailing-{nfe}", "param.case": f"ddim-trailing-{nfe}",
         "metric.nfe": float(nfe), "metric.energy": energy, "metric.fd_digits": 9 - energy,
         "metric.pixel_fd": 1.0, "within_guards": True}
        for (name, nfe), energy in energies.items()
    ]  # fmt: skip
    static = rows[1] | {"metric.energy": 0.1, "within_guards": False}
    board = pd.DataFrame([*rows, static])
    panels = over_nfe(("energy", "fd_digits"), board)
    energy, fd = panels["energy"]["ddim-trailing"], panels["fd_digits"]["ddim-trailing"]
    assert dict(energy.untuned) == {5: 2, 10: 1.5}
    assert dict(energy.best) == {5: 1, 10: 1.5}
    assert dict(fd.best) == {5: 8, 10: 7.5}, "of the trials that are the best by the energy"
    made = config(score="energy")
    assert made.distances == ("energy", "fd_digits", "pixel_fd")
    made.overview(tmp_path, board)
    assert (tmp_path / "over_nfe.png").stat().st_size > 5000
    empty = tmp_path / "empty"
    made.overview(empty, pd.DataFrame({"label": []}))
    made.overview(empty, board.assign(within_guards=False))
    assert not empty.exists()


def test_an_overview_needs_no_untuned_times() -> None:
    row = {"label": "r0=.3", "param.case": "ddim-trailing-5", "metric.nfe": 5.0,
           "metric.gap": 1.0, "within_guards": True}  # fmt: skip
    curves = over_nfe(("gap",), pd.DataFrame([row]))["gap"]["ddim-trailing"]
    assert (dict(curves.untuned), dict(curves.best)) == ({}, {5: 1})


def test_an_exported_trial_draws_the_trials_images(
    config: Any, trial: Any, tmp_path: Path
) -> None:
    made = trial(config())
    run(made, Listener())
    exported(made, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md", "leaderboard.csv", "search.yaml", "timetuner.json", "tuned_timesteps.py",
    }  # fmt: skip
    file = load_tuned(tmp_path / "out" / "timetuner.json")
    assert file.tau == file.timesteps == (999, 749, 499, 249)
    assert file.verdict["metric"] == "pixel_fd"
    assert len(file.verdict["tuned"]) == 3
    assert file.note == "Found by trial 0 of the search tuned."
    at = subject_of(made.config.checkpoint, made.config.dataset, CPU)
    handle = attach(at.denoiser, load(tmp_path / "out" / "timetuner.json"))
    network = at.network(made.config.sampler, "embedding")
    times, each = network.solver.times, {"shape": (1, 8, 8), "seed": 0}
    hooked = draw(network, times, 4, **each)
    handle.remove()
    assert torch.equal(hooked, draw(network, torch.tensor(file.tau), 4, **each))


def test_times_that_do_worse_on_unseen_noise_are_not_exported(
    config: Any, trial: Any, tmp_path: Path
) -> None:
    made = trial(config(times={"r": (0.7,) * 4}))
    run(made, Listener())
    message = (
        r"^tau must do no worse than untuned on held-out seeds, unless forced \(--force\): worse "
        r"than untuned: pixel_fd"
    )
    with pytest.raises(UserError, match=message):
        exported(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sampler", [
    {"kind": "heun", "trajectory": "edm", "num_steps": 3},
    {"kind": "analytic_ddpm", "trajectory": "leading", "num_steps": 3},
    {"kind": "dpmpp_2m", "trajectory": "ays", "num_steps": 3},
    {"kind": "ddim", "trajectory": "gits", "num_steps": 3},
    {"kind": "unipc", "trajectory": "dmn", "num_steps": 3},
    {"kind": "dpm_solver_2", "trajectory": "score_optimal", "num_steps": 3},
])  # fmt: skip
def test_other_samplers_run_too(config: Any, trial: Any, sampler: Any) -> None:
    slots = 5 if sampler["kind"] == "heun" else 3
    (metrics,) = heard(trial(config(sampler=sampler, times={"r": [0.2] * slots})))
    assert metrics["nfe"] == slots
    assert math.isfinite(metrics["fd_digits_ratio"])
