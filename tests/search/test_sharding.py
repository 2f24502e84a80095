"""A data set in parts on the workers of a real cluster."""

from __future__ import annotations

import os
import time

import pytest
import ray

from stepsearch.diffusion.datasets import DigitsConfig
from stepsearch.diffusion.stages import Found, StagesConfig, find_stages, pixels
from stepsearch.diffusion.stages.find import stages_of
from stepsearch.diffusion.stages.sharded import Read, Shard, ShardedDenoiser
from stepsearch.errors import StepsearchError, UserError
from stepsearch.search import sharding

pytestmark = pytest.mark.usefixtures("ray_cluster")

CONFIG = StagesConfig(samples=1000)
MEMORY = CONFIG.memory * 2**20


def sharded(read: Read, workers: int | None, device: str = "cpu"):
    return sharding.sharded(read, workers, signed=False, device=device, memory=MEMORY)


def read():
    return DigitsConfig().load().train, True


def found(workers: int | None) -> Found:
    with sharded(read, workers) as everywhere:
        return stages_of(ShardedDenoiser(everywhere, memory=MEMORY), CONFIG)


def free_cpus() -> float:
    return float(ray.available_resources().get("CPU", 0))


def test_two_workers_find_what_one_process_finds_again_and_again() -> None:
    one = find_stages(pixels(read()[0]), CONFIG)
    two, again = found(workers=2), found(workers=None)
    assert two.boundaries == again.boundaries
    assert two.others == again.others
    assert two.points == one.points
    assert two.boundaries == pytest.approx(one.boundaries, abs=1e-3)
    for name, boundaries in one.others.items():
        assert two.others[name] == pytest.approx(boundaries, abs=1e-3)


def test_nothing_of_the_cluster_stays_taken() -> None:
    with sharded(read, 2) as everywhere:
        ends = [look.part.count for look in everywhere(Shard.look)]
        assert ends == [719, 719]
        assert free_cpus() == 0
    for _ in range(100):
        if free_cpus() == 2:
            break
        time.sleep(0.1)
    assert free_cpus() == 2


def test_more_workers_than_the_cluster_has_are_refused() -> None:
    with pytest.raises(UserError) as error, sharded(read, 3):
        pass
    assert str(error.value) == (
        "workers must be at most 2 with one CPU each on a cluster of 2 CPUs, got 3"
    )
    with pytest.raises(UserError) as error, sharded(read, None, device="cuda"):
        pass
    assert str(error.value) == (
        "workers must be at most 0 with one CPU and one GPU each on a cluster of 2 CPUs, 0 GPUs,"
        " got 1"
    )


def test_workers_that_find_no_room_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with sharded(read, 1):
        monkeypatch.setattr(sharding, "_TIMEOUT_S", 1)
        with pytest.raises(UserError) as error, sharded(read, 2):
            pass
    assert str(error.value) == (
        "workers must be at most what is free on the cluster, got 2: there was no room for 1 s"
    )


def test_what_a_worker_refuses_is_said_here() -> None:
    def refuse():
        raise UserError("DATASET must be a .npy file, got 'gone.npy'")

    with sharded(refuse, 2) as everywhere, pytest.raises(UserError) as error:
        ShardedDenoiser(everywhere, memory=MEMORY)
    assert type(error.value) is UserError
    assert str(error.value) == "DATASET must be a .npy file, got 'gone.npy'"


def test_a_device_is_looked_for_where_the_worker_is() -> None:
    with sharded(read, 1, device="mps") as everywhere, pytest.raises(UserError) as error:
        ShardedDenoiser(everywhere, memory=MEMORY)
    assert str(error.value).startswith("device must be one of this machine, got 'mps': ")


def test_a_worker_that_dies_ends_it_in_one_line() -> None:
    with (
        sharded(lambda: os._exit(1), 1) as everywhere,
        pytest.raises(StepsearchError, match=r"^a worker was lost: .+$") as error,
    ):
        ShardedDenoiser(everywhere, memory=MEMORY)
    assert not isinstance(error.value, UserError)
