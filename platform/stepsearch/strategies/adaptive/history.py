"""The last values of every row of a table, pushed a batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def empty_history(rows: int, length: int) -> dict[str, Tensor]:
    """State for `push`: the last `length` values of each row, and how many there were ever."""
    return {
        # one row more than asked for takes what is thrown away
        "history": torch.zeros(rows + 1, length, dtype=torch.float64),
        "count": torch.zeros(rows + 1, dtype=torch.int64),
    }


def push(state: dict[str, Tensor], row: Tensor, value: Tensor) -> dict[str, Tensor]:
    """The state after row[0] got value[0], row[1] value[1] ...; values not finite are skipped.

    Works without a look at the values, which would wait for the device.
    """
    history, count = state["history"].clone(), state["count"].clone()
    rows, length = len(history) - 1, history.shape[1]
    row, order = torch.where(value.isfinite(), row, rows).sort(stable=True)
    place = torch.arange(len(row), device=row.device)
    first = torch.searchsorted(row, row)
    last = torch.searchsorted(row, row, right=True)
    slot = (count[row] + place - first) % length
    # of more values than a row can hold only the last ones are written
    kept = torch.where(last - place <= length, row, rows)
    history[kept, slot] = value[order]
    history[rows] = 0
    count.index_add_(0, row, torch.ones_like(row))
    return {"history": history, "count": count}


def means(state: dict[str, Tensor], power: int = 1) -> Tensor:
    """The mean of value^power over what is known of each row; 0 where nothing is."""
    known = state["count"][:-1].clamp(max=state["history"].shape[1])
    total = (state["history"][:-1] ** power).sum(1)
    return total / known.clamp(min=1)
