"""Algorithms 3 and 4 of the multi-stage paper train what one worker trains."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.checkpoints import read_checkpoint, write_checkpoint
from stepsearch.diffusion.multistage.shards import earlier, read_merged, shard
from stepsearch.diffusion.multistage.stage_parallel import StageParallel
from stepsearch.diffusion.training import Training
from stepsearch.diffusion.workers import Workers
from stepsearch.errors import UserError

SCRIPT = Path(__file__).with_name("train_stages.py")
STEPS = 8


def train(folder: Path, size: int, stages_a_worker: str) -> list[dict[str, Any]]:
    """What every worker leaves after 8 steps, with a checkpoint in the middle."""
    path = os.pathsep.join(str(SCRIPT.parents[3] / part) for part in (".", "platform"))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, SCRIPT, str(size), stages_a_worker, folder]
    subprocess.run(arguments, env=environment, check=True, timeout=300)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def agree(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def alone(build_training: Callable[..., Training]) -> tuple[Training, Tensor]:
    """One worker with all stages, and its losses: a row a step, then a column a stage."""
    training = build_training(stages_a_worker="all", ema_halflives=(40,))
    losses = runpy.run_path(str(SCRIPT))["losses"](training, STEPS)
    return training, torch.tensor(losses)


@pytest.mark.slow
def test_four_workers_with_a_stage_each_train_what_one_worker_trains(
    alone: tuple[Training, Tensor], build_training: Callable[..., Training], tmp_path: Path
) -> None:
    """Algorithm 3, two workers a stage, through a checkpoint in two parts."""
    training, losses = alone
    expected, checkpoint = training.state_dict(), tmp_path / "checkpoint.pt"
    for left in train(tmp_path, 4, "one"):
        torch.testing.assert_close(left["losses"], losses, rtol=1e-4, atol=1e-6)
        agree(left["ema"], expected["ema"])
        agree(left["average"], expected["averages"][40])

    for stage in (0, 1):
        part = read_checkpoint(shard(checkpoint, stage))
        decoders = {k.split(".")[1] for k in part["denoiser"] if k.startswith("decoders.")}
        assert decoders == {str(stage)}
        held = sum(value.numel() for value in part["denoiser"].values())
        assert part["optimizer"]["state"][0]["exp_avg"].numel() == held

    merged = read_merged(checkpoint)
    for name in ("denoiser", "ema"):
        agree(merged[name], expected[name])
    agree(merged["averages"][40], expected["averages"][40])
    states = [state["optimizer"]["state"][0] for state in (merged, expected)]
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-3, atol=1e-6)
    again = build_training(stages_a_worker="all", ema_halflives=(40,))
    again.load(checkpoint)
    assert again.images_seen == 8 * STEPS
    agree(again.ema.state_dict(), expected["ema"])


@pytest.mark.slow
def test_two_workers_with_all_stages_train_what_one_worker_trains(
    alone: tuple[Training, Tensor], tmp_path: Path
) -> None:
    """Algorithm 4; the second half in slices of one image, each of which lacks a stage."""
    training, losses = alone
    for left in train(tmp_path, 2, "all"):
        torch.testing.assert_close(left["losses"], losses, rtol=1e-4, atol=1e-6)
        agree(left["ema"], training.ema.state_dict())
    agree(read_checkpoint(tmp_path / "checkpoint.pt")["denoiser"], training.denoiser.state_dict())


def test_the_shares_of_all_workers_make_up_the_batch_and_have_one_stage_each() -> None:
    batch = list(range(24))
    for size, stages in ((2, 2), (3, 3), (6, 3), (4, 2)):
        shares = [batch[StageParallel(Workers(r, size), 24, stages).share] for r in range(size)]
        assert sorted(sum(shares, [])) == batch  # noqa: RUF017
        for rank, share in enumerate(shares):
            assert len(share) == 24 // size
            assert {i % stages for i in share} == {rank % stages}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_workers_that_stages_cannot_share_evenly_are_refused(size: int) -> None:
    with pytest.raises(UserError) as error:
        StageParallel(Workers(0, size), 24, 3)
    assert str(error.value) == (
        "lanes.workers must be a multiple of the 3 stages where denoiser.stages_a_worker is one,"
        f" got {size}"
    )


def test_parts_of_different_moments_are_not_merged(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    for stage, images_seen in ((0, 8), (1, 16)):
        write_checkpoint({"images_seen": images_seen}, shard(path, stage))
    with pytest.raises(UserError, match=r"must be of the same images_seen, got \[8, 16\]$"):
        read_merged(path)


def save(stage: int, images_seen: int, path: Path) -> None:
    part = shard(path, stage)
    write_checkpoint({"images_seen": images_seen}, part, earlier(part))


def goes_on_from(rank: int, path: Path, meeting: str) -> int | None:
    """Where one of two workers with a stage each does."""
    at = path.with_name(meeting).as_uri()
    torch.distributed.init_process_group("gloo", init_method=at, rank=rank, world_size=2)
    found = StageParallel(Workers(rank, 2), 8, 2).latest(path)
    torch.distributed.destroy_process_group()
    return found and found["images_seen"]


@pytest.mark.slow
def test_workers_that_die_again_and_again_between_two_parts_lose_nothing(tmp_path: Path) -> None:
    """Each time when the new part of the first stage is there, and that of the second is not."""
    path = tmp_path / "checkpoint.pt"
    for images_seen in (100, 200):
        for stage in (0, 1):
            save(stage, images_seen, path)
    with ProcessPoolExecutor(2, get_context("spawn")) as workers:
        for meeting in ("first", "second", "third"):
            save(0, 300, path)
            asked = [workers.submit(goes_on_from, rank, path, meeting) for rank in (0, 1)]
            assert [answer.result() for answer in asked] == [200, 200]
    names = {"checkpoint.pt", "checkpoint.stage1.pt", "checkpoint.stage1.earlier.pt"}
    assert {file.name for file in tmp_path.glob("*.pt")} == names
