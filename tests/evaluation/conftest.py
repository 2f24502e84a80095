from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from stepsearch.evaluation import Judge, JudgeConfig


@dataclass(frozen=True)
class Digits:
    train: Tensor
    held_out: Tensor
    labels: Tensor
    held_out_labels: Tensor

    def judge(self, cache: Path, config: JudgeConfig | None = None) -> Judge:
        return Judge.prepare(
            config or JudgeConfig(),
            name="digits",
            train=self.train,
            held_out=self.held_out,
            labels=self.labels,
            held_out_labels=self.held_out_labels,
            fingerprint="0123abcd",
            cache=cache,
        )


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Digits:
    """The 1797 real digits, 80/20; samples that stand for generated ones come from `train`."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(data.target, dtype=torch.int64)
    train, held_out = train_test_split(
        np.arange(len(images)), test_size=0.2, stratify=data.target, random_state=0
    )
    return Digits(images[train], images[held_out], labels[train], labels[held_out])


@pytest.fixture(scope="session")
def judge(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """The judge of the default configuration; its classifier is trained once per test run."""
    return digits.judge(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
