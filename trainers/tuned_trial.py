"""What a trial of tuned times leaves: its pictures, and the files that need no stepsearch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepsearch.evaluation import frechet_distance, statistics
from stepsearch.evaluation.judge import pixel_features
from stepsearch.sampling.timetuner import Tuned, Verdict, compare, write_tuned
from trainers.drawing_trial import TIMES
from trainers.fastest import on_the_fastest
from trainers.subject import subject_of

if TYPE_CHECKING:
    import pandas as pd

    from stepsearch.tuned_figures import Curves
    from trainers.timetuner import TimeTunerConfig

_UNSEEN_SEEDS = (1_000_001, 1_000_002, 1_000_003)
"""Added to a search's seed: noise that no trial draws from."""


def draw_times(folder: Path) -> None:
    """Draw tau against t, and each slot's loss with tau and without, of the trial in a folder."""
    from stepsearch.tuned_figures import tuned_times

    found = json.loads((folder / TIMES).read_text())
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    tuned_times(found["t"], found["tau"], found["loss_untuned"], found["loss"]).savefig(
        pictures / "times.png", dpi=110
    )


def draw_over_nfe(scores: Sequence[str], folder: Path, leaderboard: pd.DataFrame) -> None:
    """Draw what `over_nfe` finds, if it is anything."""
    from stepsearch.tuned_figures import scores_over_nfe

    if panels := over_nfe(scores, leaderboard):
        scores_over_nfe(panels).savefig(folder / "over_nfe.png", dpi=110)


def over_nfe(scores: Sequence[str], leaderboard: pd.DataFrame) -> dict[str, dict[str, Curves]]:
    """Each score of each sampler over its evaluations an image: of the untuned times, and of the
    trial that is the best by the first score."""
    from stepsearch.tuned_figures import Curves

    first, *_ = columns = [f"metric.{score}" for score in scores]
    if not {*columns, "metric.nfe", "param.case"} <= set(leaderboard.columns):
        return {}
    rows = leaderboard[leaderboard["within_guards"]].dropna(subset=[first])
    if rows.empty:
        return {}
    rows = rows.assign(sampler=rows["param.case"].str.rpartition("-")[0]).sort_values(first)
    best = rows.drop_duplicates("param.case").sort_values("metric.nfe")
    untuned = rows[rows["label"].str.startswith("untuned")].sort_values("metric.nfe")
    found = {
        name: [some[some["sampler"] == name].set_index("metric.nfe") for some in (untuned, best)]
        for name in sorted(rows["sampler"].unique())
    }
    return {
        score: {name: Curves(*(some[column] for some in both)) for name, both in found.items()}
        for score, column in zip(scores, columns, strict=True)
    }


def write_tuned_trial(
    config: TimeTunerConfig,
    out: Path,
    trial: Path,
    images: int,
    provenance: Mapping[str, Any],
    *,
    force: bool,
) -> None:
    """Write the tau of the trial in a folder, judged on so many `images` a seed.

    Raises UserError if they do worse than the untuned times' on noise that no trial drew from and
    `force` is not given.
    """
    found = json.loads((trial / TIMES).read_text())
    at = subject_of(config.checkpoint, config.dataset, torch.device("cpu"))
    network = at.network(config.sampler, config.tau_scope)
    tuned = Tuned(
        torch.tensor(found["tau"]),
        network.solver.times.clone(),
        tuple(found["loss"]),
        tuple(found["loss_untuned"]),
        (0,) * network.solver.nfe,
    )
    seeds = [provenance["seed"] + unseen for unseen in _UNSEEN_SEEDS]
    verdict = on_the_fastest(
        lambda device: _verdict(config, tuned.tau, seeds, images, device),
        "the tuned times are judged",
        forget=subject_of.cache_clear,
    )
    write_tuned(
        *(out, network, at.denoiser, config.sampler, tuned, verdict),
        note=f"Found by trial {provenance['trial']} of the search {provenance['search']}.",
        force=force,
    )


def _verdict(
    config: TimeTunerConfig, tau: Tensor, seeds: Sequence[int], images: int, device: torch.device
) -> Verdict:
    """The distance to the data in pixels, with and without tau, of images drawn on a device."""
    at = subject_of(config.checkpoint, config.dataset, device)
    network = at.network(config.sampler, config.tau_scope)
    real = statistics(pixel_features(config.dataset.pictures_of().train))

    def pixel_fd(drawn: Tensor, seed: int) -> float:
        return frechet_distance(*real, *statistics(pixel_features(at.pictures(drawn))))

    shape = at.trained.shape
    return compare("pixel_fd", pixel_fd, network, tau, seeds, images, shape, device=device)
