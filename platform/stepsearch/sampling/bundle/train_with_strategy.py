"""Train a denoiser with the timesteps of strategy.json, in plain PyTorch and diffusers.

    python train_with_strategy.py --steps 2000 --out retrained

Starts from new weights, with the settings of the original training, and saves a pipeline. Left
out, whatever that training had: another precision than float32, `ema_halflives`, mirrored images
(`dataset.flip`), draws that are not stratified, and EDM's jitter of sigma inside a timestep's bin.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
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


def levels(schedule: dict[str, Any]) -> Tensor:
    """a, b and the denoiser's time for each t: it sees a x0 + b noise, and is told the time."""
    abar = torch.tensor(schedule["alpha_bar"], dtype=torch.float64)
    snr, T = abar / (1 - abar), schedule["timesteps"]
    if schedule["kind"] == "edm":  # Karras et al. 2022, table 1
        sigma, sigma_data = snr**-0.5, schedule["diffusers"]["sigma_data"]
        c_in = (sigma**2 + sigma_data**2) ** -0.5
        return torch.stack([c_in, c_in * sigma, sigma.log() / 4]).float()
    if schedule["kind"] == "flow":
        s = 1 / (1 + snr**0.5)
        return torch.stack([1 - s, s, s * T]).float()
    return torch.stack([abar**0.5, (1 - abar) ** 0.5, torch.arange(T)]).float()


def target(strategy: dict[str, Any], x0: Tensor, noise: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """What the denoiser has to predict."""
    kind = strategy["prediction_type"]
    if kind == "v_prediction":
        return a * noise - b * x0
    if kind == "edm":
        sigma_data: float = strategy["schedule"]["diffusers"]["sigma_data"]
        return b / sigma_data * x0 - sigma_data * a * noise
    if kind == "flow":
        return noise - x0
    return x0 if kind == "sample" else noise


def null_class(denoiser: ModelMixin) -> int | None:
    """The label of no class for a denoiser that is told classes: the last that it knows."""
    rows = denoiser.config.get("num_class_embeds")
    return getattr(denoiser, "null_class", None) if rows is None else rows - 1


def train(
    denoiser: ModelMixin,
    images: Tensor,
    labels: Tensor | None,
    strategy: dict[str, Any],
    steps: int,
) -> None:
    """Train `denoiser` on `images` [N, C, H, W] in [-1, 1] and leave it with averaged weights.

    One with classes is told the `labels` [N], and of some images none.
    """
    settings, device, null = strategy["training"], denoiser.device, null_class(denoiser)
    table = levels(strategy["schedule"])
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
        chosen = torch.randint(len(images), (settings["batch_size"],))
        x0, condition = images[chosen], {}
        if labels is not None and null is not None:
            dropped = torch.rand(len(x0)) < settings["label_dropout"]
            told = labels[chosen].masked_fill(dropped, null)
            condition = {"class_labels": told.to(device)}
        noise = torch.randn_like(x0)
        t = draw_timesteps(p, len(x0))  # instead of uniform ones
        a, b, time = table[:, t].view(3, -1, 1, 1, 1)
        goal = target(strategy, x0, noise, a, b).to(device)
        x_t, time = (a * x0 + b * noise).to(device), time.flatten().to(device)
        output = denoiser(x_t, time, **condition).sample
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


def load_digits(channels: int, size: int) -> tuple[Tensor, Tensor]:
    """scikit-learn's 1797 digits in [-1, 1], and which they are."""
    if (channels, size) != (1, 8):
        raise SystemExit(f"--data is required: the denoiser draws {channels}x{size}x{size} images")
    from sklearn import datasets

    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).float().div(8).sub(1).unsqueeze(1)
    return images, torch.from_numpy(digits.target)


def load_images(folder: Path, channels: int, size: int) -> tuple[Tensor, Tensor | None]:
    """All images below a folder in [-1, 1], cropped to squares and resized.

    If all are in folders right below it, those are the classes, in alphabetical order.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"--data must be a folder with images, got {str(folder)!r}")
    pixels = np.empty((len(files), size, size, channels), dtype=np.uint8)
    for row, file in zip(pixels, files, strict=True):
        image = Image.open(file, formats=FORMATS).convert("L" if channels == 1 else "RGB")
        row[:] = np.asarray(ImageOps.fit(image, (size, size))).reshape(row.shape)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    names = [file.relative_to(folder).parts[0] for file in files]
    if any(file.parent == folder for file in files):
        return images, None
    return images, torch.from_numpy(np.unique(names, return_inverse=True)[1])


def check_classes(denoiser: ModelMixin, labels: Tensor | None) -> None:
    """Stop unless a denoiser that is told classes knows those of the images."""
    null, found = null_class(denoiser), 0 if labels is None else int(labels.max()) + 1
    if null is not None and not 0 < found <= null:
        raise SystemExit(f"--data must be 1 to {null} folders of images, one a class, got {found}")


@torch.no_grad()
def encode(vae: ModelMixin, images: Tensor) -> Tensor:
    """Latents, on their scale: the means of the posteriors."""
    batches = torch.split(images, 32)
    means = [vae.encode(batch.to(vae.device)).latent_dist.mean.cpu() for batch in batches]
    scale: float = vae.config.scaling_factor
    return (torch.cat(means) - (vae.config.shift_factor or 0)) * scale


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
    own_class = any(HERE.glob("pipeline/**/*.py"))  # which diffusers lacks
    pipeline = DiffusionPipeline.from_pretrained(HERE / "pipeline", trust_remote_code=own_class)
    denoiser = type(pipeline.unet).from_config(pipeline.unet.config)
    denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
    vae = getattr(pipeline, "vae", None)  # of a denoiser of latents
    shape = denoiser.config.in_channels, denoiser.config.sample_size
    if vae is not None:
        vae.to(denoiser.device)
        reduction = 2 ** (len(vae.config.block_out_channels) - 1)
        shape = vae.config.in_channels, shape[1] * reduction
    images, labels = load_images(args.data, *shape) if args.data else load_digits(*shape)
    check_classes(denoiser, labels)
    images = images if vae is None else encode(vae, images)
    train(denoiser, images, labels, strategy, args.steps)
    pipeline.unet = denoiser
    pipeline.save_pretrained(args.out)
    shutil.copyfile(HERE / "pipeline" / "model_index.json", args.out / "model_index.json")
    for code in (HERE / "pipeline").rglob("*.py"):
        shutil.copyfile(code, args.out / code.relative_to(HERE / "pipeline"))
    print(f"saved to {args.out}")


if __name__ == "__main__":
    main()
