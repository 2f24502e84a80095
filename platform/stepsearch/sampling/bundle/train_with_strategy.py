"""Train a denoiser with the timesteps of strategy.json, in plain PyTorch and diffusers.

    python train_with_strategy.py --steps 2000 --out retrained

Starts from new weights, with the settings of the original training, and saves a pipeline.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image, ImageOps
from torch import Tensor

HERE = Path(__file__).resolve().parent
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
FORMATS = ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]


def draw_timesteps(p: Tensor, n: int) -> Tensor:
    """n timesteps with density p [T]; the batch as a whole is spread evenly over p."""
    u = (torch.randperm(n) + torch.rand(n, dtype=p.dtype)) / n
    return torch.searchsorted(p.cumsum(0)[:-1], u, right=True)


def target(scheduler: DDPMScheduler, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the denoiser has to predict."""
    if scheduler.config.prediction_type == "sample":
        return x0
    if scheduler.config.prediction_type == "v_prediction":
        velocity: Tensor = scheduler.get_velocity(x0, noise, t)
        return velocity
    return noise


def train(
    denoiser: UNet2DModel,
    scheduler: DDPMScheduler,
    images: Tensor,
    strategy: dict[str, Any],
    steps: int,
) -> None:
    """Train `denoiser` on `images` [N, C, H, W] in [-1, 1] and leave it with averaged weights."""
    settings, device = strategy["training"], denoiser.device
    p = torch.tensor(strategy["p"], dtype=torch.float64)
    w = torch.tensor(strategy["w"], dtype=torch.float32)
    parameters = list(denoiser.parameters())
    ema = EMAModel(parameters, decay=settings["ema_decay"])
    optimizer = torch.optim.AdamW(
        parameters, lr=settings["lr"], weight_decay=settings["weight_decay"]
    )
    lr_scheduler = get_scheduler(
        {"constant": "constant_with_warmup", "cosine": "cosine"}[settings["lr_scheduler"]],
        optimizer,
        num_warmup_steps=settings["warmup_steps"],
        num_training_steps=steps,
    )
    losses = []
    for step in range(1, steps + 1):
        x0 = images[torch.randint(len(images), (settings["batch_size"],))]
        noise = torch.randn_like(x0)
        t = draw_timesteps(p, len(x0))  # instead of uniform ones
        x_t = scheduler.add_noise(x0, noise, t)
        goal = target(scheduler, x0, noise, t).to(device)
        output = denoiser(x_t.to(device), t.to(device)).sample
        mse = (output - goal).square().flatten(1).mean(1)
        loss = (w[t].to(device) * mse).mean()  # instead of mse.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        lr_scheduler.step()
        ema.step(parameters)
        losses.append(loss.item())
        if step % max(1, steps // 10) == 0:
            print(f"step {step}/{steps}  loss {np.mean(losses):.4f}", flush=True)
            losses.clear()
    ema.copy_to(parameters)


def load_digits(channels: int, size: int) -> Tensor:
    """scikit-learn's 1797 digits in [-1, 1]."""
    if (channels, size) != (1, 8):
        raise SystemExit(f"--data is required: the denoiser draws {channels}x{size}x{size} images")
    from sklearn import datasets

    return torch.from_numpy(datasets.load_digits().images).float().div(8).sub(1).unsqueeze(1)


def load_images(folder: Path, channels: int, size: int) -> Tensor:
    """All images below a folder in [-1, 1], cropped to squares and resized."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"--data must be a folder with images, got {str(folder)!r}")
    pixels = np.empty((len(files), size, size, channels), dtype=np.uint8)
    for row, file in zip(pixels, files, strict=True):
        image = Image.open(file, formats=FORMATS).convert("L" if channels == 1 else "RGB")
        row[:] = np.asarray(ImageOps.fit(image, (size, size))).reshape(row.shape)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def arguments(steps: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of images; without: sklearn's digits")
    parser.add_argument("--steps", type=int, default=steps, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("retrained"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    strategy = json.loads((HERE / "strategy.json").read_text(encoding="utf-8"))
    args = arguments(strategy["provenance"]["images_seen"] // strategy["training"]["batch_size"])
    torch.manual_seed(args.seed)
    pipeline = HERE / "pipeline"
    scheduler = DDPMScheduler.from_pretrained(pipeline, subfolder="scheduler")
    denoiser = UNet2DModel.from_config(UNet2DModel.load_config(pipeline, subfolder="unet"))
    denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
    shape = denoiser.config.in_channels, denoiser.config.sample_size
    images = load_images(args.data, *shape) if args.data else load_digits(*shape)
    train(denoiser, scheduler, images, strategy, args.steps)
    DDPMPipeline(denoiser, scheduler).save_pretrained(args.out)
    print(f"saved to {args.out}")


if __name__ == "__main__":
    main()
