"""A checkpoint holds everything that the following steps depend on."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stepsearch.diffusion.checkpoints import read_checkpoint, read_latest, write_checkpoint
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.training import Training
from stepsearch.errors import UserError
from stepsearch.strategies import strategy
from stepsearch.strategies.base import Step, TableStrategy

Start = Callable[..., "subprocess.Popen[str]"]
Build = Callable[..., Training]


def losses_of(process: "subprocess.Popen[str]") -> list[float]:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    losses: list[float] = json.loads(output)
    return losses


@pytest.mark.slow
def test_a_run_killed_after_its_checkpoint_goes_on_bit_for_bit(
    build_training: Build, start_training: Start, tmp_path: Path
) -> None:
    killed = start_training(steps=20, save=tmp_path / "half", more=40)
    assert killed.stdout is not None
    first_losses = json.loads(killed.stdout.readline())
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    resumed = start_training(load=tmp_path / "half", steps=20, save=tmp_path / "resumed")

    whole = build_training()
    losses = [whole.run(8 * step).mean_loss for step in range(1, 41)]
    assert first_losses + losses_of(resumed) == losses
    assert_equal(read_checkpoint(tmp_path / "resumed"), whole.state_dict())


def assert_equal(one: Any, other: Any) -> None:
    """The same keys, values and tensors, all bits of them, at every depth."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16", "ema_halflives": (50, 900)}])
def test_a_checkpoint_is_the_same_in_a_training_that_began_differently(
    build_training: Build, tmp_path: Path, changes: dict[str, Any]
) -> None:
    one, other = build_training(**changes), build_training(**changes)
    one.run(80)
    other.run(24)
    one.save(tmp_path / "checkpoint")
    other.load(tmp_path / "checkpoint")
    assert other.images_seen == 80
    assert one.run(160).mean_loss == other.run(160).mean_loss
    assert_equal(one.state_dict(), other.state_dict())


def test_a_checkpoint_from_before_precisions_and_averages_is_read(
    build_training: Build, tmp_path: Path
) -> None:
    one, other = build_training(), build_training()
    one.run(80)
    state = one.state_dict()
    del state["loss_scale"], state["averages"]
    write_checkpoint(state, tmp_path / "checkpoint")
    other.load(tmp_path / "checkpoint")
    assert_equal(one.state_dict(), other.state_dict())


def test_a_checkpoint_that_a_gpu_wrote_is_read_on_a_cpu(
    build_training: Build, tmp_path: Path
) -> None:
    """The state of a GPU's generator is a seed and an offset."""
    one, other, begun = build_training(), build_training(), build_training()
    one.run(80)
    seed_and_offset = torch.zeros(16, dtype=torch.uint8)
    write_checkpoint(one.state_dict() | {"generator": seed_and_offset}, tmp_path / "checkpoint")
    other.load(tmp_path / "checkpoint")
    assert_equal(one.ema.state_dict(), other.ema.state_dict())
    numbers = [training.state_dict()["generator"] for training in (other, begun)]
    assert not torch.equal(*numbers), "what was drawn first is not drawn again"
    assert other.run(160).steps == 10


def test_a_checkpoint_without_an_average_that_is_asked_for_is_refused(
    build_training: Build, tmp_path: Path
) -> None:
    build_training(ema_halflives=(50,)).save(tmp_path / "checkpoint")
    with pytest.raises(UserError, match=r"must be a checkpoint of this training: 900$"):
        build_training(ema_halflives=(900,)).load(tmp_path / "checkpoint")


class Counting(TableStrategy):
    """A strategy that learns: it counts the timesteps that it has seen."""

    def __init__(self, timesteps: int) -> None:
        uniform = VPConfig(timesteps=timesteps).build().alpha_bar * 0 + 1 / timesteps
        super().__init__(uniform, uniform * timesteps)
        self.seen = torch.zeros(timesteps)

    def after_update(self, step: Step) -> None:
        self.observe(step.t, step.losses())

    def observe(self, t: Tensor, loss: Tensor) -> None:
        assert t.shape == loss.shape
        assert not loss.requires_grad
        self.seen.index_add_(0, t, torch.ones_like(loss))

    def state_dict(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.seen = state["seen"]


def test_a_strategy_observes_every_step_and_its_state_is_in_the_checkpoint(
    build_training: Build, tmp_path: Path
) -> None:
    learned, fresh = Counting(1000), Counting(1000)
    training = build_training(timesteps=learned)
    training.run(80)
    training.save(tmp_path / "checkpoint")
    build_training(timesteps=fresh).load(tmp_path / "checkpoint")
    assert learned.seen.sum() == 80
    assert torch.equal(fresh.seen, learned.seen)


def test_a_phase_is_resumed_where_it_was(build_training: Build, tmp_path: Path) -> None:
    alpha_bar = VPConfig().build().alpha_bar
    first = {"strategy": {"kind": "speed"}, "images": 80}
    phases = strategy("phase", phases=[first, {"strategy": {"kind": "uniform"}}])
    one, other = (build_training(timesteps=phases.build(alpha_bar)) for _ in range(2))
    one.run(40)
    assert np.ptp(one.strategy.p) > 1e-4
    one.save(tmp_path / "checkpoint")
    other.load(tmp_path / "checkpoint")
    assert one.run(160).mean_loss == other.run(160).mean_loss
    assert_equal(one.state_dict(), other.state_dict())
    assert np.ptp(other.strategy.p) < 1e-12


def test_an_interrupted_write_leaves_the_last_checkpoint_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    write_checkpoint({"images_seen": 1}, path)
    with pytest.raises(AttributeError, match="local object"):  # refused halfway into the file
        write_checkpoint({"weights": torch.zeros(9), "images_seen": lambda: 2}, path)
    assert read_checkpoint(path) == {"images_seen": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint must be an existing file, got '.*/absent'"):
        read_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "broken"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^checkpoint '.*/broken' is unreadable: [^\n]+$"):
        read_checkpoint(path)


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"images_seen": Path("a class that no checkpoint needs")}, tmp_path / "foreign")
    with pytest.raises(UserError, match="is unreadable: "):
        read_checkpoint(tmp_path / "foreign")


WEIGHTS = {"weights": torch.arange(1000.0)}


def flip_a_bit(path: Path, at: float) -> None:
    """`at` is a share of the file's length."""
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("at", [i / 40 for i in range(40)])
def test_a_flipped_bit_is_found_or_makes_no_difference(at: float, tmp_path: Path) -> None:
    """Some bytes of a zip archive only fill it up."""
    path = tmp_path / "checkpoint"
    write_checkpoint(WEIGHTS, path)
    flip_a_bit(path, at)
    try:
        state = read_checkpoint(path)
    except UserError:
        return
    assert torch.equal(state["weights"], WEIGHTS["weights"])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_weight(path: Path) -> None:
    flip_a_bit(path, 0.5)


@pytest.mark.parametrize("damage", [cut_short, flip_a_weight, Path.unlink])
def test_the_checkpoint_before_a_damaged_one_is_used(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    for images_seen in (1, 2, 3):
        write_checkpoint(WEIGHTS | {"images_seen": images_seen}, path)
    damage(path)
    latest = read_latest(path)
    assert latest is not None
    assert latest["images_seen"] == 2
    write_checkpoint(WEIGHTS | {"images_seen": 4}, path)
    assert read_checkpoint(path)["images_seen"] == 4


def test_without_any_whole_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert read_latest(tmp_path / "checkpoint") is None
    (tmp_path / "checkpoint").write_bytes(b"half")
    assert read_latest(tmp_path / "checkpoint") is None
