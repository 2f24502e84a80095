"""Train the same denoiser on every noise process, with uniform timesteps, and judge its images.

Digits, 600 steps of 64 images and 10 network evaluations an image, as in the search that
`python run_search.py` runs; each row is the mean over the seeds. A sheet of samples for each
process is written to --pictures.

    python benchmarks/noise_processes.py [--seeds 3] [--images 38400] [--pictures FOLDER]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from stepsearch.search.trial import Trial
from trainers import trainer
from trainers.denoising import run

CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "vp, eps": ({"schedule": "linear"}, "epsilon", "ddim"),
    "edm, euler": ({"kind": "edm"}, "edm", "euler"),
    "flow": ({"kind": "flow"}, "flow", "euler"),
    "zero SNR, v": ({"schedule": "linear", "zero_terminal_snr": True}, "v_prediction", "ddim"),
    "vp, v": ({"schedule": "linear"}, "v_prediction", "ddim"),
    "edm, dpm": ({"kind": "edm"}, "edm", "dpm"),
}
SCORES = ("fd_digits", "precision", "recall", "off_manifold")


@dataclass
class Listener:
    """Keeps the last report."""

    heard: dict[str, float] = field(default_factory=dict)

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        self.heard = dict(metrics)
        return True

    def progress(self, images_seen: int) -> bool:
        return True


def scores(case: str, seed: int, images: int, folder: Path, cache: Path) -> dict[str, float]:
    noise, target, kind = CASES[case]
    config = trainer(
        noise=noise,
        training={"lr": 8e-3, "prediction_type": target},
        sampler={"kind": kind},
    )
    config.check(workers=1)
    folder.mkdir(parents=True)
    report = Listener()
    run(Trial(0, config, seed, (images,), folder, cache), report)
    return {name: report.heard[name] for name in SCORES}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=38_400)
    parser.add_argument("--pictures", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, dict[str, float]] = {}
    print(f"{'':14s}" + "".join(f"{name:>14s}" for name in SCORES))
    with TemporaryDirectory() as scratch:
        for case in CASES:
            folders = [Path(scratch) / case / str(seed) for seed in range(asked.seeds)]
            runs = [
                scores(case, seed, asked.images, folder, Path(scratch))
                for seed, folder in enumerate(folders)
            ]
            result[case] = {name: float(np.mean([r[name] for r in runs])) for name in SCORES}
            result[case]["fd_sd"] = float(np.std([r["fd_digits"] for r in runs]))
            row = "".join(f"{result[case][name]:14.3f}" for name in SCORES)
            print(f"{case:14s}{row}   fd {[round(r['fd_digits'], 1) for r in runs]}", flush=True)
            if asked.pictures:
                asked.pictures.mkdir(parents=True, exist_ok=True)
                (sheet,) = (folders[0] / "pictures").glob("samples_*.png")
                sheet.rename(asked.pictures / f"{case.replace(', ', '-').replace(' ', '-')}.png")
    print(json.dumps({"benchmark": "noise_processes", **result}))


if __name__ == "__main__":
    main()
