"""A small image classifier, trained once on the data set: the judge's feature extractor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from stepsearch.config import Config
from stepsearch.evaluation.features.base import Observed, kept_rows
from stepsearch.evaluation.moments import statistics
from stepsearch.pixels import scaled

# Images of one forward pass.
_BATCH = 500


class ClassifierConfig(Config):
    """The network and its training; every field is part of the cache's key."""

    width: int = Field(default=32, ge=1, le=256, description="channels of the first convolution")
    features: int = Field(default=48, ge=1, le=2048, description="size of the penultimate layer")
    budget: int = Field(default=60_000, ge=1, description="images seen in training")
    batch_size: int = Field(default=64, ge=2, description="images a step")
    lr: float = Field(default=3e-3, gt=0, description="AdamW's, annealed to 0 by a cosine")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's weight decay")
    seed: int = Field(default=0, ge=0, description="of the weights and the order of images")


class Classifier(nn.Module):
    """Convolutions down to 4 x 4, pooled to 2 x 2; `body` ends in the penultimate ReLU layer."""

    def __init__(self, shape: tuple[int, int, int], classes: int, config: ClassifierConfig):
        super().__init__()
        channels, height, width = shape
        side, out = max(height, width), config.width
        # Images above 16 px are halved at once: full resolution would be most of the cost.
        layers = _convolution(channels, out, stride=1 if side <= 16 else 2)
        side = side if side <= 16 else (side + 1) // 2
        while side > 4:
            wider = min(2 * out, 4 * config.width)
            layers += _convolution(out, wider, stride=2)
            side, out = (side + 1) // 2, wider
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * out, config.features)]
        self.body = nn.Sequential(*layers, nn.ReLU())
        self.head = nn.Linear(config.features, classes)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of images [n, C, H, W]."""
        return self.head(self.body(images))  # type: ignore[no-any-return]

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations [n, d] of images [n, C, H, W], float64, times `scale`.

        `scale` gives the training images' features a mean square of 1, so that distances do not
        depend on the size that a network happens to give its activations.
        """
        batches = [self.body(scaled(batch)) for batch in torch.split(images, _BATCH)]
        return torch.cat(batches).double() * self.scale

    def observe(self, images: Tensor, device: torch.device) -> Observed:
        """The features of images. On the CPU: those of another device would be others."""
        features = self.features(images)
        return Observed(features[kept_rows(len(images))], statistics(features))

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """Share of images [n, C, H, W] that are given their label [n]."""
        guesses = [self(scaled(batch)).argmax(1) for batch in torch.split(images, _BATCH)]
        return float((torch.cat(guesses) == labels).double().mean())


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def build_classifier(config: ClassifierConfig, images: Tensor, labels: Tensor) -> Classifier:
    """An untrained classifier for images [n, C, H, W] with labels 0..classes-1 [n]."""
    channels, height, width = images.shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        return Classifier((channels, height, width), int(labels.max()) + 1, config)


def train_classifier(config: ClassifierConfig, images: Tensor, labels: Tensor) -> Classifier:
    """A classifier trained with cross-entropy on images [n, C, H, W] in [-1, 1], in eval mode.

    The result depends on the arguments and the processor only, not on global random state or the
    number of threads.
    """
    classifier = build_classifier(config, images, labels)
    size = min(config.batch_size, len(images))
    steps = max(1, config.budget // size)
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    with _one_thread():
        for indices in _batches(len(images), size, steps, config.seed):
            logits = classifier(scaled(images[indices]))
            loss = functional.cross_entropy(logits, labels[indices])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            annealing.step()
        mean_square = classifier.eval().features(images).square().mean()
    classifier.scale.copy_(mean_square.clamp_min(1e-12).rsqrt())
    return classifier


def _batches(images: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while steps > 0:
        order = torch.randperm(images, generator=generator)
        epoch = torch.split(order[: images - images % size], size)[:steps]
        yield from epoch
        steps -= len(epoch)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The order of summation, hence the trained weights, depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
