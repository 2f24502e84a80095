"""What becomes of an error that says that the memory is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepsearch.diffusion.memory import Slices
from stepsearch.diffusion.workers import ALONE
from stepsearch.errors import OutOfMemory


def slices_after(folder: Path, *, in_slices: bool, share: int = 4) -> tuple[OutOfMemory, int]:
    slices = Slices(folder, None, share)
    with pytest.raises(OutOfMemory) as caught, slices.fitting(ALONE, in_slices=in_slices):
        raise MemoryError
    return caught.value, Slices(folder, None, share).count


def test_a_training_is_halved_until_a_slice_is_one_image(tmp_path: Path) -> None:
    found = [slices_after(tmp_path, in_slices=True) for _ in range(3)]
    assert [(error.again, count) for error, count in found] == [(True, 2), (True, 4), (False, 4)]


def test_an_evaluation_is_not_helped_by_smaller_slices_of_a_training(tmp_path: Path) -> None:
    error, count = slices_after(tmp_path, in_slices=False)
    assert (error.again, count) == (False, 1)
    assert str(error).endswith(" in an evaluation")


@pytest.mark.parametrize(
    "words",
    [
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory",
        "could not create a primitive",
    ],
)
def test_torch_says_it_in_words(words: str, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory), Slices(tmp_path, None, 4).fitting(ALONE):
        raise RuntimeError(words)


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^odd$"), Slices(tmp_path, None, 4).fitting(ALONE):
        raise RuntimeError("odd")
