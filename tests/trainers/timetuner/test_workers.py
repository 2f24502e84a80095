"""Two workers tune and draw what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stepsearch.search.trial import Trial
from trainers import trainer
from trainers.drawing_trial import TIMES, run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]

WORKER = """
import json, sys
from pathlib import Path
import torch
from stepsearch.diffusion.workers import Workers
from stepsearch.search.trial import Trial
from trainers import trainer
from trainers.drawing_trial import run

rank, meeting, home = int(sys.argv[1]), sys.argv[2], Path(sys.argv[4])
torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
heard = []

class Report:
    def __call__(self, metrics):
        heard.append(metrics)
        return True
    def progress(self, images_seen):
        heard.append(images_seen)
        return True

for index, fields in enumerate(json.loads(sys.argv[3])):
    made = trainer("timetuner", **fields)
    folder = home / f"{rank} {index}"
    folder.mkdir()
    run(Trial(0, made, 3, (7, 12), folder, home / "cache"), Report(), Workers(rank, 2))
(home / f"heard {rank}").write_text(json.dumps(heard))
torch.distributed.destroy_process_group()
"""


# the second trial knows the times that the first one found
TRIALS = ({"parallel": 1}, {"parallel": 0.5}, {"end_to_end": 1})


def test_two_gloo_workers_find_and_draw_what_one_does(
    saved_pipeline: Path, tmp_path: Path
) -> None:
    fields = settings(saved_pipeline, tmp_path)
    home = tmp_path / "two"
    home.mkdir()
    meeting = (tmp_path / "rendezvous").as_uri()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    trials = json.dumps([fields | {"times": times} for times in TRIALS])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), meeting, trials, str(home)],
            env=environment,
        )
        for rank in range(2)
    ]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    first, second = (json.loads((home / f"heard {rank}").read_text()) for rank in range(2))
    assert [word for word in first if isinstance(word, int)] == [7, 12] * 3
    assert [seen(word) for word in first] == [seen(word) for word in second]
    assert "energy" not in second[1]
    for index, told in enumerate(TRIALS):
        alone = tmp_path / f"alone {index}"
        alone.mkdir()
        heard: list[dict[str, float]] = []
        one = trainer("timetuner", **fields | {"times": told})
        run(Trial(0, one, 3, (7, 12), alone, tmp_path / "cache"), listen(heard))
        times = [json.loads((at / TIMES).read_text()) for at in (alone, home / f"0 {index}")]
        assert times[0] == times[1]
        assert times[0]["tau"] != times[0]["t"]
        said = [word for word in first if isinstance(word, dict)][2 * index : 2 * index + 2]
        for theirs, ours in zip(said, heard, strict=True):
            for name in ("images_seen", "nfe", "energy", "energy_ratio"):
                assert theirs[name] == pytest.approx(ours[name], rel=1e-4)
    assert not list(home.glob(f"1 */{TIMES}"))


def settings(saved_pipeline: Path, tmp_path: Path) -> dict[str, Any]:
    """Of a trainer on four steps of DDIM, without a judge."""
    images = tmp_path / "images"
    images.mkdir()
    for index in range(10):
        pixels = np.random.default_rng(index).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{index}.png")
    return {
        "checkpoint": {"kind": "folder", "path": str(saved_pipeline)},
        "dataset": {"kind": "images", "path": str(images), "size": 8, "channels": 1},
        "sampler": {"num_steps": 4},
        "gradient": {
            "iterations": 8,
            "lr": 0.02,
            "batches": 2,
            "held_out": 1,
            "check_every": 2,
            "tune_last": True,
        },
        "end_to_end": {
            "iterations": 3,
            "lr": 0.1,
            "spread": 0,
            "batch_size": 8,
            "real": 16,
            "held_out": 64,
        },
    }


def seen(word: Any) -> Any:
    return word["images_seen"] if isinstance(word, dict) else word


def listen(heard: list[dict[str, float]]) -> Any:
    class Report:
        def __call__(self, metrics: dict[str, float]) -> bool:
            heard.append(metrics)
            return True

        def progress(self, images_seen: int) -> bool:
            return True

    return Report()
