"""The papers' recipes: ready to be launched with nothing but the path of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import run_search
from stepsearch.strategies.adaptive.timestep_sampler import PAPER

PAPERS = Path(run_search.__file__).parent / "search_spaces" / "papers"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 60 colour images each."""
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(60):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize("file", sorted(PAPERS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_needs_the_path_of_the_data_only(file: Path, pictures: Path) -> None:
    config = run_search.load(file, [f"trainer.dataset.path={pictures}"])
    config.trainer.check(config.lanes.workers)
    config.space.check(config.trainer.facts())


def test_the_recipe_of_adaptive_sampling_is_its_table_7(pictures: Path) -> None:
    file = PAPERS / "adaptive_cifar10.yaml"
    config = run_search.load(file, [f"trainer.dataset.path={pictures}"])
    trainer = config.trainer
    training = trainer.training
    assert (training.batch_size, training.lr, training.warmup_steps) == (128, 2e-4, 5000)
    assert (training.grad_clip, training.ema_decay, training.weight_decay) == (1, 0.9999, 0)
    assert config.budget.images == 2040 * 50_000
    betas = trainer.noise.build().scheduler_config()
    assert betas == {
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
    }
    denoiser = trainer.denoiser
    assert denoiser.channels == tuple(128 * factor for factor in (1, 2, 2, 2))
    assert (denoiser.dropout, denoiser.layers, denoiser.attention_levels) == (0.1, 2, (1,))
    policy = trainer.strategy
    assert policy.model_dump(include=set(PAPER)) == PAPER
    assert (policy.entropy, policy.every, policy.queue, policy.selected) == (1e-2, 40, 20, 3)
    points = config.space.fixed(trainer.facts())[: config.budget.trials]
    assert [point.label for point in points] == ["uniform", "Adaptive (paper, CIFAR-10)"]
    assert points[1].params == {
        "share": 1.0,
        "entropy": 1e-2,
        "every": 40,
        "queue": 20,
        "selected": 3,
        "lr": 1e-2,
    }
