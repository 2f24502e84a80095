"""What a trial of tuned times leaves: its pictures, and the files that need no stepsearch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stepsearch.evaluation import frechet_distance, statistics
from stepsearch.evaluation.judge import pixel_features
from stepsearch.sampling.timetuner import Tuned, compare, write_tuned
from trainers.bench import bench
from trainers.drawing_trial import TIMES

if TYPE_CHECKING:
    import pandas as pd

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


def draw_over_nfe(score: str, folder: Path, leaderboard: pd.DataFrame) -> None:
    """Draw the best score of each sampler over its evaluations, with tau and without."""
    from stepsearch.tuned_figures import score_over_nfe

    column = f"metric.{score}"
    if not {column, "metric.nfe", "param.case"} <= set(leaderboard.columns):
        return
    rows = leaderboard[leaderboard["within_guards"]].dropna(subset=[column])
    rows = rows.assign(family=rows["param.case"].str.rpartition("-")[0])
    untuned = rows[rows["label"].str.startswith("untuned")]
    curves = {
        family: tuple(
            each[each["family"] == family].groupby("metric.nfe")[column].min()
            for each in (untuned, rows)
        )
        for family in rows["family"].unique()
    }
    if curves:
        score_over_nfe(curves, score).savefig(folder / "over_nfe.png", dpi=110)


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
    at = bench(config.checkpoint, config.dataset, torch.device("cpu"))
    network = at.network(config.sampler, config.tau_scope)
    found = json.loads((trial / TIMES).read_text())
    tuned = Tuned(
        torch.tensor(found["tau"]),
        network.solver.times.clone(),
        tuple(found["loss"]),
        tuple(found["loss_untuned"]),
        (0,) * network.solver.nfe,
    )
    real = statistics(pixel_features(config.dataset.pictures_of().train))

    def pixel_fd(drawn: Tensor, seed: int) -> float:
        return frechet_distance(*real, *statistics(pixel_features(at.pictures(drawn))))

    seeds = [provenance["seed"] + unseen for unseen in _UNSEEN_SEEDS]
    verdict = compare("pixel_fd", pixel_fd, network, tuned.tau, seeds, images, at.trained.shape)
    write_tuned(
        *(out, network, at.denoiser, config.sampler, tuned, verdict),
        guidance_scale=config.sampler.guidance if at.trained.classes else None,
        note=f"Found by trial {provenance['trial']} of the search {provenance['search']}.",
        force=force,
    )
