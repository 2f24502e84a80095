"""What a trial costs on this machine: a few real steps, images and scores, timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from stepsearch.diffusion.datasets import AnyDataset, Dataset
from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.training import Training
from stepsearch.evaluation.classifier import train_classifier
from stepsearch.evaluation.features.network import Network, NetworkConfig
from stepsearch.evaluation.judge import Judge
from stepsearch.evaluation.judge_config import JudgeConfig, check_labels
from stepsearch.pixels import scaled
from stepsearch.sampling.sampler import SamplerConfig, generate
from stepsearch.search.trial import Cost

_LONG_ENOUGH_S = 0.4
_JUDGED = 1000
"""Training images and samples that the judge is timed on, at most."""
_SEEN = 32
"""The same for a network that was trained elsewhere."""

Clock = Callable[[], float]


def measure(
    training: Training, sampler: SamplerConfig, judge: JudgeConfig, dataset: AnyDataset
) -> Cost:
    """Time a training, its sampler and its judge, on one thread or on the training's GPU.

    Seconds of this process on a CPU, whatever else it does, and of the clock on a GPU. Writes to a
    temporary folder only; the training has moved on by some steps.
    """
    torch.set_num_threads(1)
    data, pictures = dataset.load(), dataset.pictures_of()
    size, device = training.config.batch_size, training.workers.device
    decode = decoder(data.vae, device)
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def draw(images: int) -> None:
        generate(
            training.ema,
            training.process,
            sampler,
            images,
            shape=data.shape,
            prediction_type=training.config.prediction_type,
            seed=0,
            class_shares=data.class_shares,
            workers=training.workers,
            decode=decode,
        )

    training.run(size)  # the first step allocates
    with TemporaryDirectory() as scratch:
        step_s = _seconds_a_unit(
            lambda steps: training.run(training.images_seen + steps * size), clock
        )
        drawing_s = judge.samples * _seconds_a_unit(draw, clock, most=judge.samples)
        return Cost(
            batch_size=size,
            step_s=step_s,
            evaluation_s=drawing_s + _scoring(judge, pictures, Path(scratch), clock, device),
            prepare_s=_preparing(judge, pictures, clock, device),
            checkpoint_bytes=_checkpoint(training, Path(scratch)),
            once_s=(judge.sampling_seeds - 1) * drawing_s,
        )


def measure_drawing(
    draw: Callable[[int], object],
    once: Callable[[], object],
    judge: JudgeConfig | None,
    data: Dataset,
    *,
    gpu: bool,
) -> Cost:
    """Time a trial that trains nothing, whose steps draw images, and what it does `once`; without
    a judge, no scores."""
    torch.set_num_threads(1)
    clock, batch_size = time.perf_counter if gpu else time.process_time, 32
    draw(1)  # the first one allocates
    step_s = _seconds_a_unit(lambda steps: draw(steps * batch_size), clock)
    once_s = _seconds_a_unit(lambda _: once(), clock, most=1)
    if judge is None:
        return Cost(batch_size, step_s, 0.0, 0.0, 0, once_s)
    device = torch.device("cuda" if gpu else "cpu")
    with TemporaryDirectory() as scratch:
        scoring = _scoring(judge, data, Path(scratch), clock, device)
    return Cost(batch_size, step_s, scoring, _preparing(judge, data, clock, device), 0, once_s)


def _seconds_a_unit(work: Callable[[int], object], clock: Clock, most: int = 2**20) -> float:
    """Work on 1, 2, 4 ... units until that takes long enough to be timed."""
    units = 1
    while True:
        begun = clock()
        work(units)
        seconds = clock() - begun
        if seconds >= _LONG_ENOUGH_S or units == most:
            return seconds / units
        units = min(2 * units, most)


def _scoring(
    judge: JudgeConfig, data: Dataset, scratch: Path, clock: Clock, device: torch.device
) -> float:
    """Seconds to score `judge.samples` images, from a part of them against a part of the data.

    A classifier has had one step of training, which makes no difference to the time.
    """
    hasty = judge.classifier.model_copy(update={"budget": 1})
    is_network = isinstance(judge.features, NetworkConfig)
    fewest = 1 + max(judge.neighbours, judge.coverage_neighbours)
    train, labels = _part(data, max(_SEEN, 2 * fewest) if is_network else _JUDGED)
    judged = Judge.prepare(
        judge if is_network else judge.model_copy(update={"classifier": hasty}),
        data.name,
        train,
        data.held_out,
        labels,
        data.held_out_labels,
        data.fingerprint,
        scratch,
        device,
    )
    images = train[: judge.samples]
    begun = clock()
    judged.score(images)
    seconds = clock() - begun
    if isinstance(judge.features, NetworkConfig):
        # Its distances cost about as much for any number of images; looking at them does not.
        return seconds + judge.samples * _looking(judge.features, data, clock, device)
    return seconds / (len(images) / judge.samples * len(train) / len(data.train))


def _preparing(judge: JudgeConfig, data: Dataset, clock: Clock, device: torch.device) -> float:
    """Seconds to train the judge's classifier, or to look at the training images."""
    if isinstance(judge.features, NetworkConfig):
        return len(data.train) * _looking(judge.features, data, clock, device)
    return _learning(judge, data, clock)


def _looking(features: NetworkConfig, data: Dataset, clock: Clock, device: torch.device) -> float:
    """Seconds that a network takes for an image."""
    network, (images, _) = Network(features.load()), _part(data, _SEEN)
    network.observe(images[:2], device)  # the first pass allocates
    begun = clock()
    network.observe(images, device)
    return (clock() - begun) / len(images)


def _learning(judge: JudgeConfig, data: Dataset, clock: Clock) -> float:
    """Seconds to train the judge's classifier, from some of its steps."""
    train, some = _part(data, _JUDGED)
    labels, _ = check_labels(data.name, some, data.held_out_labels)
    config = judge.classifier

    def learn(steps: int) -> None:
        hasty = config.model_copy(update={"budget": steps * config.batch_size})
        train_classifier(hasty, train, labels)

    steps = max(1, config.budget // config.batch_size)
    return steps * _seconds_a_unit(learn, clock, most=steps)


def _part(data: Dataset, most: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Training images and labels, evenly thinned out where there are many."""
    stride = math.ceil(len(data.train) / most)
    labels = None if data.train_labels is None else data.train_labels[::stride]
    return scaled(data.train[::stride]), labels


def _checkpoint(training: Training, scratch: Path) -> int:
    """Bytes of a checkpoint."""
    training.save(scratch / "checkpoint.pt")
    return (scratch / "checkpoint.pt").stat().st_size
