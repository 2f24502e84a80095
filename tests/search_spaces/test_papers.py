"""The papers' recipes: ready to be launched with nothing but the path of the data."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FixedTrial
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


def listed() -> dict[str, list[str]]:
    """docs/papers.md: what stands after `run search_spaces/papers/` -> its words."""
    page = (PAPERS.parents[1] / "docs" / "papers.md").read_text()
    lines = re.findall(r"^\|.*\| `(\w+\.yaml.*)` \|$", page, flags=re.MULTILINE)
    return {line: shlex.split(line) for line in lines}


def test_the_page_on_papers_lists_all_recipes() -> None:
    assert {words[0] for words in listed().values()} == {f.name for f in PAPERS.glob("*.yaml")}


@pytest.mark.parametrize("line", listed())
def test_each_line_of_the_page_on_papers_is_a_search(line: str, pictures: Path) -> None:
    """Of trials that are the baseline and the papers' own, none of them proposed."""
    file, *words = listed()[line]
    assert set(words[::2]) <= {"--set"}
    config = run_search.load(PAPERS / file, [f"trainer.dataset.path={pictures}", *words[1::2]])
    facts = config.trainer.facts()
    config.space.check(facts)
    points = config.space.fixed(facts)[: config.budget.trials]
    assert len(points) == config.budget.trials >= 2
    assert points[0].label == "uniform"
    for point in points:
        proposed = config.space.suggest(FixedTrial(dict(point.params)), facts)
        config.trainer_for(proposed).check(config.lanes.workers)


def test_table_1_in_one_search_has_its_six_rows(pictures: Path) -> None:
    line = next(words for line, words in listed().items() if "budget.trials=6" in line)
    config = run_search.load(PAPERS / line[0], [f"trainer.dataset.path={pictures}", *line[2::2]])
    assert [point.label for point in config.space.fixed(config.trainer.facts())[:6]] == [
        "uniform",
        "P2 (paper)",
        "Min-SNR (paper)",
        "logit-normal (SD3)",
        "SpeeD (older code)",
        "Adaptive (paper, CIFAR-10)",
    ]


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
