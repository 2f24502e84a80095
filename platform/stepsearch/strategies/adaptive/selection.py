"""Which few timesteps explain the sum over all of them: Algorithm 2's feature selection."""

from __future__ import annotations

import torch
from torch import Tensor

_NOTHING_LEFT = 1e-9
"""Of a column's variance, below which it is explained by those that were selected."""


def top_correlated(rows: Tensor, count: int) -> Tensor:
    """The columns whose correlation with the rows' sums is strongest, best first.

    What scikit-learn's SelectKBest(f_regression) selects, as the paper's code does: neighbours
    are nearly the same column, so they are selected together.
    """
    columns, y = _centred(rows)
    return _explained(columns, y).argsort(descending=True, stable=True)[:count]


def forward_selection(rows: Tensor, count: int) -> Tensor:
    """Columns that together explain the rows' sums, best first: greedy, on what is left.

    After each choice all columns and the sums lose their part along the chosen column
    (orthogonal matching pursuit). Where nothing is left, the rest are those lying farthest
    from the ones chosen.
    """
    columns, y = _centred(rows)
    total = (columns**2).sum(0)
    chosen: list[int] = []
    for _ in range(min(count, rows.shape[1])):
        gain = _explained(columns, y)
        gain[(columns**2).sum(0) <= _NOTHING_LEFT * total] = 0
        gain[chosen] = -1
        best = int(gain.argmax()) if gain.max() > 0 else _farthest(chosen, rows.shape[1])
        chosen.append(best)
        direction = columns[:, best] / columns[:, best].norm().clamp(min=1e-300)
        columns = columns - direction[:, None] * (direction @ columns)
        y = y - direction * (direction @ y)
    return torch.tensor(chosen)


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows = rows.double().cpu()
    y = rows.sum(1)
    return rows - rows.mean(0), y - y.mean()


def _explained(columns: Tensor, y: Tensor) -> Tensor:
    """The part of y's square sum that each column explains alone."""
    length = (columns**2).sum(0)
    along = (y @ columns) ** 2
    return torch.where(length > 0, along / length.clamp(min=1e-300), torch.zeros_like(along))


def _farthest(chosen: list[int], count: int) -> int:
    if not chosen:
        return count // 2
    distance = (torch.arange(count)[:, None] - torch.tensor(chosen)).abs().amin(1)
    return int(distance.argmax())
