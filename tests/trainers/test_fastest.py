"""A GPU is used where there is room on one, and left as it was."""

from __future__ import annotations

import pytest
import torch

from stepsearch.errors import Diverged
from trainers.fastest import on_the_fastest

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("there", [False, True])
def test_a_gpu_is_taken_where_there_is_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    forgotten: list[bool] = []
    found = on_the_fastest(lambda at: at, "it is", forget=lambda: forgotten.append(True))
    assert found == (CUDA if there else CPU)
    assert forgotten == [True] * there


def test_a_full_gpu_leaves_it_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    forgotten: list[bool] = []

    def work(device: torch.device) -> torch.device:
        if device == CUDA:
            raise torch.OutOfMemoryError("CUDA out of memory.\nSee the documentation")
        return device

    assert on_the_fastest(work, "it is made", forget=lambda: forgotten.append(True)) == CPU
    assert caplog.messages == ["it is made on the CPU: CUDA out of memory."]
    assert forgotten == [True]


def test_an_error_that_is_not_the_gpus_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(device: torch.device) -> None:
        seen.append(device)
        raise Diverged("NaN")

    for there in (False, True):
        seen: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        with pytest.raises(Diverged):
            on_the_fastest(diverge, "it is", forget=lambda: None)
        assert len(seen) == 1
