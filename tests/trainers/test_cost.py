"""What a trainer's probe measures: the real things, in small."""

import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from torch.nn.modules.module import register_module_forward_pre_hook

from trainers import trainer

SMALL = {
    "denoiser": {"channels": [8, 16]},
    "training": {"batch_size": 32},
    "sampler": {"num_steps": 2},
    "judge": {"samples": 64, "classifier": {"budget": 1000}},
}


def test_the_probe_measures_every_part_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = trainer(**SMALL | {"judge": {**SMALL["judge"], "sampling_seeds": 3}})
    config.warm_up()  # torch makes a cache folder where it is imported
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    cost = config.probe(gpu=False)
    assert cost.batch_size == 32
    assert all(value > 0 for value in astuple(cost))
    assert cost.once_s < 2 * cost.evaluation_s, "images of two more seeds, without their scores"
    assert trainer(**SMALL).probe(gpu=False).once_s == 0
    assert list(tmp_path.iterdir()) == []
    training, checkpoint = config.training_for(seed=0, budget=32), tmp_path / "checkpoint.pt"
    training.run(32)
    training.save(checkpoint)
    assert cost.checkpoint_bytes == pytest.approx(checkpoint.stat().st_size, rel=0.01)


def test_a_step_is_timed_in_the_slices_that_it_is_trained_in() -> None:
    config = trainer(**SMALL | {"training": {"batch_size": 32, "accumulation": 4}})
    images: set[int] = set()

    def look(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, UNet2DModel) and module.training:
            images.add(len(given[0]))

    with register_module_forward_pre_hook(look):
        assert config.probe(gpu=False).batch_size == 32
    assert images == {8}


SHORT_OF_MEMORY = """
import resource, sys
import psutil, torch
from stepsearch.errors import OutOfMemory
from trainers import trainer

torch.set_num_threads(1)
config = trainer(
    denoiser={"channels": [8, 16]},
    training={"batch_size": 2048, "accumulation": int(sys.argv[1]) or None},
    sampler={"num_steps": 2},
    judge={"samples": 32, "classifier": {"budget": 1000}},
)
small = config.training.model_copy(update={"batch_size": 32})
config.model_copy(update={"training": small}).probe(gpu=False)  # imports what it needs
limit = psutil.Process().memory_info().vms + 250 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    print(config.probe(gpu=False).batch_size)
except OutOfMemory as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accumulation", "said"), [(0, "2048"), (1, "out of memory: .* with 2048 images at a time")]
)
def test_a_step_that_does_not_fit_is_timed_in_more_slices_if_the_file_allows(
    accumulation: int, said: str
) -> None:
    """With 250 MB to spare."""
    command = [sys.executable, "-c", SHORT_OF_MEMORY, str(accumulation)]
    out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert re.fullmatch(said, out.stdout.splitlines()[-1])


def test_the_judge_is_timed_on_a_data_set_whose_classes_come_one_after_the_other(
    tmp_path: Path,
) -> None:
    from PIL import Image

    for label in ("dark", "light"):
        (tmp_path / label).mkdir()
        for i in range(600):
            shade = i % 100 + 150 * (label == "light")
            Image.new("L", (8, 8), shade).save(tmp_path / label / f"{i}.png")
    dataset = {"kind": "images", "path": tmp_path, "size": 8, "channels": 1}
    config = trainer(**SMALL, dataset=dataset)
    assert config.probe(gpu=False).evaluation_s > 0


def test_the_chart_of_a_mirrored_strategy_shows_what_this_batch_size_draws() -> None:
    mirrored = {"kind": "speed", "mirror": True}
    small = trainer(strategy=mirrored, training={"batch_size": 2}).chart(60)
    large = trainer(strategy=mirrored, training={"batch_size": 64}).chart(60)
    assert small == trainer(strategy={"kind": "speed"}).chart(60)
    assert small != large
    assert max(map(len, large.splitlines())) <= 60
