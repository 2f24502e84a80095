"""Train a small denoiser with stages on several gloo workers; the tests start it.

The workers are forked after the imports, which take longer than the steps. Each leaves its losses
and the averaged weights in FOLDER/RANK.pt, and the checkpoint is FOLDER/checkpoint.pt.
"""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "train_in_a_process.py"))


def losses(training: Any, steps: int) -> list[list[float]]:
    """A step's loss, and the mean squared error of each stage."""
    found = [training.run(training.images_seen + 8) for _ in range(steps)]
    return [[summary.mean_loss, *summary.stage_loss] for summary in found]


def work(rank: int, size: int, stages_a_worker: str, folder: Path) -> None:
    """Some steps, a checkpoint, and as many again from there."""
    workers = SCRIPT["join"](rank, size, folder / "rendezvous")
    rows: list[list[float]] = []
    kept = []
    for slices in (1, 4):
        training = SCRIPT["build"](
            workers=workers, slices=slices, stages_a_worker=stages_a_worker, ema_halflives=(40,)
        )
        kept.append(training)  # see below
        training.resume(folder / "checkpoint.pt")
        rows += losses(training, 4)
        if rank < training.shards:
            training.save(folder / "checkpoint.pt")
        torch.distributed.barrier()
    left = {
        "losses": torch.tensor(rows),
        "ema": training.ema.state_dict(),
        "average": training.averages[40].state_dict(),
    }
    torch.save(left, folder / f"{rank}.pt")
    # Without destructors: that of a DDP's reducer joins a gloo thread that may wait for the GIL.
    os._exit(0)


def main(size: int, stages_a_worker: str, folder: Path) -> None:
    from diffusers import optimization  # noqa: F401

    from stepsearch.diffusion.multistage import networks  # noqa: F401

    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    started = [
        context.Process(target=work, args=(rank, size, stages_a_worker, folder))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    sys.exit(max(process.exitcode != 0 for process in started))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
