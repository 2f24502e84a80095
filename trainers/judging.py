"""The judge of a data set, which all trials of a process share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from stepsearch.diffusion.datasets import AnyDataset, scaled
from stepsearch.evaluation.judge import Judge, JudgeConfig


@lru_cache(maxsize=2)
def judge_of(config: JudgeConfig, dataset: AnyDataset, cache: Path) -> Judge:
    """Once a process; its classifier is trained where `cache` does not hold it yet."""
    data = dataset.load()
    return Judge.prepare(
        config,
        data.name,
        scaled(data.train),
        scaled(data.held_out),
        data.train_labels,
        data.held_out_labels,
        data.fingerprint,
        cache,
    )


def prepare_judge(config: JudgeConfig, dataset: AnyDataset, cache: Path) -> Mapping[str, float]:
    """Train the judge's classifier; its accuracy, and the scores of real images."""
    torch.set_num_threads(1)
    judge = judge_of(config, dataset, cache)
    real = {f"real_{name}": value for name, value in judge.reference().items()}
    return {"judge_accuracy": judge.accuracy} | real
