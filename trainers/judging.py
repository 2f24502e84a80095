"""The judge of a data set, which all trials of a process share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from stepsearch.diffusion.datasets import AnyDataset, Dataset
from stepsearch.errors import UserError
from stepsearch.evaluation.features.network import NetworkConfig, check_channels
from stepsearch.evaluation.judge import Judge
from stepsearch.evaluation.judge_config import (
    JudgeConfig,
    better_when_higher,
    check_labels,
    score_names,
)
from trainers.fastest import on_the_fastest

if TYPE_CHECKING:
    from stepsearch.study import Direction

logger = logging.getLogger(__name__)

_CPU = torch.device("cpu")


def check_judge(config: JudgeConfig, data: Dataset) -> None:
    """Raise UserError unless the data set has what the judge's features need, it is there, and
    there are enough images to be neighbours."""
    most = max(config.neighbours, config.coverage_neighbours)
    _check_count("to train on", len(data.train), most)
    _check_count("held out", len(data.held_out), config.neighbours)
    if isinstance(config.features, NetworkConfig):
        check_channels(data.shape[0])
        config.features.check()
    else:
        check_labels(data.name, data.train_labels, data.held_out_labels)


@lru_cache(maxsize=2)
def judge_of(
    config: JudgeConfig, dataset: AnyDataset, cache: Path, device: torch.device = _CPU
) -> Judge:
    """Once a process; what `cache` does not hold yet, a classifier for example, is made."""
    data = dataset.pictures_of()
    return Judge.prepare(
        config,
        data.name,
        data.train,
        data.held_out,
        data.train_labels,
        data.held_out_labels,
        data.fingerprint,
        cache,
        device,
    )


def _check_count(which: str, images: int, neighbours: int) -> None:
    if images <= neighbours:
        raise UserError(
            f"dataset must have more images {which} than the judge counts neighbours "
            f"({neighbours}), got {images}"
        )


def judged_scores(config: JudgeConfig, name: str) -> dict[str, Direction]:
    """The judge's scores on the data set `name`, and which way each is better."""
    higher = better_when_higher(config, name)
    return {
        score: "maximize" if score in higher else "minimize" for score in score_names(config, name)
    }


def prepare_judge(config: JudgeConfig, dataset: AnyDataset, cache: Path) -> Mapping[str, float]:
    """Train the judge's classifier, or look at the training images with its network, on a GPU
    where this process sees one; the classifier's accuracy, and the scores of real images."""
    torch.set_num_threads(1)
    if isinstance(config.features, NetworkConfig):
        _warn_of_few(config.features, config.samples, len(dataset.pictures_of().train))
    return on_the_fastest(
        lambda device: _found(judge_of(config, dataset, cache, device)),
        "the judge is made",
        forget=judge_of.cache_clear,
    )


def _found(judge: Judge) -> dict[str, float]:
    accuracy = {} if judge.accuracy is None else {"judge_accuracy": judge.accuracy}
    return accuracy | {f"real_{name}": value for name, value in judge.reference().items()}


def _warn_of_few(features: NetworkConfig, samples: int, train: int) -> None:
    """Where a covariance is singular, a Frechet distance's bias is as large as itself."""
    for what, n in (("judge.samples", samples), ("the training images", train)):
        if n <= features.dimensions:
            logger.warning(
                "%s should be more than the network's %d features for a Frechet distance, got %d: "
                "go by the kernel distance, which is unbiased",
                *(what, features.dimensions, n),
            )
