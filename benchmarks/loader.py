"""Images a second from a folder of photographs, against torch's DataLoader on the same folder.

The peer is what train_unconditional.py of diffusers does, without torchvision: a data set that
opens, crops, resizes, flips and scales a file each time that it is asked for it, in worker
processes. Ours prepares all files once a machine and then takes batches from what it keeps; its
first epoch includes that. Both crop, resize by the same filter, flip and scale: JPEGs of 128 x 192
pixels become 64 x 64. The files are in the page cache for both.

    python benchmarks/loader.py [--images 4000] [--epochs 4] [--batch 64]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader

from stepsearch.diffusion import batches
from stepsearch.diffusion.batches import Batches
from stepsearch.diffusion.datasets import ImagesConfig
from stepsearch.diffusion.datasets.preparing import prepared
from stepsearch.pixels import scaled

SIZE = 64
Epoch = Callable[[], Iterator[Tensor]]


def photographs(folder: Path, count: int) -> None:
    """Patches of scikit-learn's two photographs, as JPEG files of two classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        photograph = load_sample_images().images[number % 2]
        top, left = random.integers(0, 427 - 128), random.integers(0, 640 - 192)
        file = folder / str(number % 2) / f"{number:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[top : top + 128, left : left + 192]).save(file, quality=90)


class Files(torch.utils.data.Dataset[Tensor]):
    """A file each time."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as picture:
            image = torch.from_numpy(prepared(picture, SIZE, 3).copy())
        flipped = image.flip(2) if torch.rand(()) < 0.5 else image
        return scaled(flipped)


def data_loader(folder: Path, batch: int, workers: int) -> Epoch:
    loader = DataLoader(
        Files(folder), batch, shuffle=True, drop_last=True, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip
    return lambda: iter(loader)


def ours(folder: Path, batch: int, *, streams: bool) -> Epoch:
    """The data set is loaded when its first batch is asked for."""
    stream: list[Batches] = []

    def epoch() -> Iterator[Tensor]:
        if not stream:
            data = ImagesConfig(path=folder, size=SIZE, held_out=1e-3, flip=True).load()
            batches._MOST_ON_CPU = 0 if streams else 2**40
            stream.append(Batches(data.train, 0, torch.device("cpu"), flip=True))
        count = len(Files(folder)) // batch * batch
        return (stream[0].take(start, batch) for start in range(0, count, batch))

    return epoch


def speed(epoch: Epoch) -> float:
    """Images a second of one epoch."""
    begun = time.perf_counter()
    count = sum(len(images) for images in epoch())
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        os.environ["XDG_CACHE_HOME"] = f"{scratch}/machine"
        folder = Path(scratch) / "photographs"
        photographs(folder, asked.images)
        loaders = {
            "DataLoader, 0 workers": data_loader(folder, asked.batch, 0),
            "DataLoader, 2 workers": data_loader(folder, asked.batch, 2),
            "ours, resident": ours(folder, asked.batch, streams=False),
            "ours, streamed": ours(folder, asked.batch, streams=True),
        }
        found: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(asked.epochs):
            for name, epoch in loaders.items():
                found[name].append(speed(epoch))
    for name, speeds in found.items():
        print(f"{name:22}", "  ".join(f"{s:9,.0f}" for s in speeds), "images/s, by epoch")
    peers = np.array([found[name] for name in loaders if name.startswith("DataLoader")])
    first, later = peers[:, 0].max(), np.median(peers[:, 1:], axis=1).max()
    result = {"benchmark": "loader", "first_epoch": found["ours, resident"][0] / first}
    result |= {
        kind: np.median(found[f"ours, {kind}"][1:]) / later for kind in ("resident", "streamed")
    }
    print(
        json.dumps({k: v if isinstance(v, str) else round(float(v), 2) for k, v in result.items()})
    )


if __name__ == "__main__":
    main()
