"""Several workers train what one worker trains."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stepsearch.diffusion.checkpoints import read_checkpoint
from stepsearch.diffusion.training import Training, Workers
from stepsearch.errors import UserError
from tests.diffusion.conftest import PLATFORM, SCRIPT


def two_workers(
    start_training: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, **options: object
) -> tuple[str, str]:
    """What each of two gloo workers prints; their checkpoints are tmp_path / rank."""
    meeting = tmp_path / "rendezvous"
    processes = [
        start_training(save=tmp_path / str(rank), rank=rank, rendezvous=meeting, **options)
        for rank in range(2)
    ]
    first, second = (process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    return first, second


@pytest.mark.slow
@pytest.mark.parametrize("slices", [1, 2])
def test_two_gloo_workers_agree_with_each_other_and_with_one_worker(
    slices: int,
    build_training: Callable[..., Training],
    start_training: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
) -> None:
    alone = build_training()
    losses = [alone.run(8 * step).mean_loss for step in range(1, 11)]
    outputs = two_workers(start_training, tmp_path, steps=10, slices=slices)
    first, second = (read_checkpoint(tmp_path / str(rank)) for rank in range(2))

    for part in ("denoiser", "ema"):
        for name, weights in first[part].items():
            assert torch.equal(weights, second[part][name])
            expected = alone.state_dict()[part][name]
            torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    assert outputs[0] == outputs[1]  # a summary speaks for all workers
    torch.testing.assert_close(json.loads(outputs[0]), losses, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "rtol"), [("float32", 1e-5), ("bfloat16", 0.015)])
def test_two_workers_lose_what_one_loses_for_50_steps(
    precision: str,
    rtol: float,
    build_training: Callable[..., Training],
    start_training: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
) -> None:
    """bfloat16 rounds each worker's gradient to 8 bits before the mean is taken."""
    first, second = two_workers(start_training, tmp_path, steps=50, precision=precision)
    assert first == second
    alone = build_training(precision=precision)
    expected = torch.tensor([alone.run(8 * step).mean_loss for step in range(1, 51)])
    found = torch.tensor(json.loads(first))
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)
    assert ((found - expected).abs() / expected).mean() < rtol / 4


CLOCKS = """
import os, runpy, sys, time
from pathlib import Path
from types import SimpleNamespace
from stepsearch.diffusion import loss

script, rank = runpy.run_path(sys.argv[1]), int(sys.argv[2])
training = script["build"](workers=script["join"](rank, 2, Path(sys.argv[3])))
loss.time = SimpleNamespace(perf_counter=lambda: (1 + 1e6 * rank) * time.perf_counter())
training.run(480, lambda: False)
print(training.images_seen, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_workers_whose_clocks_differ_stop_after_the_same_step(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PLATFORM), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLOCKS, SCRIPT, str(rank), tmp_path / "rendezvous"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert [process.communicate(timeout=120)[0] for process in processes] == ["80\n", "80\n"]
    finally:
        for process in processes:
            process.kill()


def test_a_batch_that_the_workers_cannot_share_evenly_is_refused(
    build_training: Callable[..., Training],
) -> None:
    with pytest.raises(
        UserError, match=r"^training.batch_size must be a multiple of the 3 workers, got 8$"
    ):
        build_training(workers=Workers(rank=0, size=3))


def test_the_shares_of_all_workers_make_up_the_batch() -> None:
    batch = list(range(12))
    shares = [batch[Workers(rank=rank, size=3).share(12)] for rank in range(3)]
    assert [len(share) for share in shares] == [4, 4, 4]
    assert sum(shares, []) == batch  # noqa: RUF017
