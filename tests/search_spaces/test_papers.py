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
from trainers import DenoisingConfig

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
    check(config.trainer, config.lanes.workers)
    config.space.check(config.trainer.facts())


def check(trainer: DenoisingConfig, workers: int) -> None:
    """All that can be without a paper's latents."""
    if trainer.dataset.kind != "latents":
        return trainer.check(workers)
    process, target = trainer.noise.build(), trainer.training.prediction_type
    trainer.noise.check(target)
    trainer.sampler.check(process)
    assert not trainer.sampler.clip_sample
    trainer.strategy.build(process.alpha_bar, target)
    unet = trainer.denoiser.kind == "unet"
    trainer.denoiser.check((3, 64, 64) if unet else (4, 32, 32))
    assert trainer.judge.features.kind == "inception"


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
        check(config.trainer_for(proposed), config.lanes.workers)


def test_table_1_in_one_search_has_its_six_rows(pictures: Path) -> None:
    line = next(words for line, words in listed().items() if "budget.trials=6" in line)
    config = run_search.load(PAPERS / line[0], [f"trainer.dataset.path={pictures}", *line[2::2]])
    assert [point.label for point in config.space.fixed(config.trainer.facts())[:6]] == [
        "uniform",
        "P2 (paper)",
        "Min-SNR (paper)",
        "logit-normal (SD3)",
        "SpeeD (older code)",
        "Adaptive (paper's numbers, CIFAR-10)",
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
    assert [point.label for point in points] == ["uniform", "Adaptive (paper's numbers, CIFAR-10)"]
    assert points[1].params == {
        "share": 1.0,
        "entropy": 1e-2,
        "every": 40,
        "queue": 20,
        "selected": 3,
        "lr": 1e-2,
    }


@pytest.mark.parametrize(
    ("file", "iterations"),
    [("speed_metfaces", 50_000), ("speed_ffhq", 100_000), ("speed_imagenet", 400_000)],
)
def test_the_recipes_of_speed_are_its_tables_6_and_7(file: str, iterations: int) -> None:
    config = run_search.load(PAPERS / f"{file}.yaml", ["trainer.dataset.path=/latents"])
    trainer = config.trainer
    training, denoiser = trainer.training, trainer.denoiser
    assert (denoiser.layers, denoiser.heads * denoiser.head_width, denoiser.heads) == (
        28,
        1152,
        16,
    )
    assert (denoiser.patch, denoiser.class_conditional) == (2, file == "speed_imagenet")
    assert (trainer.noise.schedule, trainer.noise.timesteps) == ("linear", 1000)
    assert (training.batch_size, training.lr, training.lr_scheduler) == (256, 1e-4, "constant")
    assert (training.weight_decay, training.ema_decay) == (0, 0.9999)
    assert config.budget.images == 256 * iterations
    assert (trainer.sampler.kind, trainer.sampler.num_steps) == ("ddpm", 250)
    assert trainer.judge.samples == 10_000
    labels = [point.label for point in config.space.fixed(trainer.facts())]
    assert labels[: config.budget.trials] == ["uniform", "SpeeD (paper)"]


def test_the_recipe_of_adaptive_sampling_for_faces_is_its_table_8() -> None:
    file = PAPERS / "adaptive_celebahq.yaml"
    config = run_search.load(file, ["trainer.dataset.path=/latents"])
    trainer, denoiser = config.trainer, config.trainer.denoiser
    training, policy = trainer.training, trainer.strategy
    assert denoiser.channels == tuple(224 * factor for factor in (1, 2, 3, 4))
    assert (denoiser.layers, denoiser.dropout) == (2, 0)
    assert (training.batch_size, training.lr, training.ema_decay) == (24, 1.92e-4, 0.9999)
    assert policy.model_dump(include=set(PAPER)) == PAPER | {"lr": 1e-3, "hidden": 256}
    assert (policy.entropy, policy.every, policy.queue, policy.selected) == (1e-2, 40, 20, 3)
    assert (trainer.sampler.kind, trainer.sampler.num_steps) == ("ddim", 200)
    assert trainer.judge.samples == 50_000
    points = config.space.fixed(trainer.facts())[: config.budget.trials]
    assert [point.params["lr"] for point in points[1:]] == [1e-3]


def test_the_recipe_of_adaptive_sampling_for_imagenet_is_its_tables_9_and_3() -> None:
    file = PAPERS / "adaptive_imagenet.yaml"
    config = run_search.load(file, ["trainer.dataset.path=/latents"])
    trainer, denoiser = config.trainer, config.trainer.denoiser
    training, facts = trainer.training, trainer.facts()
    assert (denoiser.heads * denoiser.head_width, denoiser.heads) == (1152, 16)
    assert trainer.noise.schedule == "cosine"
    assert (training.batch_size, training.lr, training.ema_decay) == (256, 2e-4, 0.9999)
    assert config.budget.images == 2_100_000 * 256
    points = config.space.fixed(facts)[: config.budget.trials]
    assert [point.label for point in points] == [
        "uniform",
        "Min-SNR (paper)",
        "Adaptive (paper's numbers, ImageNet)",
    ]
    proposed = config.space.suggest(FixedTrial(dict(points[-1].params)), facts)
    policy = config.trainer_for(proposed).strategy
    assert policy.model_dump(include=set(PAPER)) == PAPER | {"lr": 1e-3, "hidden": 256}
    assert (policy.w.kind, policy.w.gamma) == ("min_snr", 5)
