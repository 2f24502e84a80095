"""What compares schedules draws where the network is, and scores on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.noise import VPConfig
from stepsearch.sampling.timetuner import Network, SolverConfig, compare, gap_to

SHAPE = (1, 4, 4)


class Recorded:
    """A network that notes where its images are."""

    def __init__(self) -> None:
        self.devices: list[str] = []
        noise = VPConfig().build().scheduler_config()
        self.network = Network(self._run, SolverConfig(num_steps=2).build(noise, "epsilon"))

    def _run(self, x: Tensor, told: Tensor, nominal: Tensor) -> Tensor:
        self.devices.append(x.device.type)
        return x / 2


def test_images_are_drawn_on_the_device_and_scored_on_the_cpu() -> None:
    student, teacher = Recorded(), Recorded()
    scored: list[str] = []
    gap = gap_to(teacher.network, SHAPE, device=torch.device("cpu"))

    def score(images: Tensor, seed: int) -> float:
        scored.append(images.device.type)
        return gap(images, seed)

    times = student.network.solver.times
    verdict = compare("gap", score, student.network, times, [1], 3, SHAPE, device="cpu")
    assert verdict.tuned == verdict.untuned == (0.0,)
    assert student.devices == teacher.devices == ["cpu"] * 4
    assert scored == ["cpu"] * 2


def test_the_network_is_asked_on_the_device_that_is_named() -> None:
    """On one without numbers, so that nothing can be scored."""
    student, teacher = Recorded(), Recorded()
    times = student.network.solver.times
    gap = gap_to(teacher.network, SHAPE, device="meta")
    with pytest.raises(NotImplementedError, match="meta"):
        gap(torch.zeros(1, *SHAPE), 1)
    with pytest.raises(NotImplementedError, match="meta"):
        compare("gap", gap, student.network, times, [1], 1, SHAPE, device="meta")
    assert student.devices == teacher.devices == ["meta"] * 2
