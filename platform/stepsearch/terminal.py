"""Charts in the terminal from Unicode blocks: readable without colour, in a pipe, in a log."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

BLOCKS = " ▁▂▃▄▅▆▇█"
MARGIN = 8  # columns for the numbers of the y axis


def strategy_chart(p: FloatArray, w: FloatArray, *, width: int = 80, height: int = 6) -> str:
    """Density (as T p, so that uniform is 1) and weight of a strategy, one above the other."""
    density = chart(len(p) * p, "density p (times uniform)", 1.0, width=width, height=height)
    weight = chart(w, "weight w", 1.0, width=width, height=height)
    return f"{density}\n\n{weight}"


def chart(
    values: FloatArray,
    title: str = "",
    reference: float | None = None,
    *,
    width: int = 80,
    height: int = 6,
) -> str:
    """An area chart of non-negative values over t = 0..T-1, at most `width` columns wide.

    A column shows the mean of its timesteps where T is larger than the chart. `reference` is a
    dashed line, seen where the area leaves room. The chart has a line for the title, `height`
    lines and two for the t axis.
    """
    columns = _resample(np.asarray(values, dtype=np.float64), max(10, width - MARGIN - 1))
    top = max(columns.max(), reference or 0.0) or 1.0
    rows = _area(columns / top, height)
    numbers = {0: top}
    if reference is not None:
        row = min(height - 1, int(height * (1 - reference / top)))
        rows[row] = rows[row].replace(" ", "╌")
        numbers[row] = reference
    lines = [_left(numbers.get(i)) + row for i, row in enumerate(rows)]
    lines.append(f"{'0':>{MARGIN - 2}} └" + "─" * len(columns))
    lines.append(f"{'t':>{MARGIN - 2}}  " + _time_axis(len(values), len(columns)))
    heading = [" " * MARGIN + title] if title else []
    return "\n".join(line.rstrip() for line in heading + lines)


def _resample(values: FloatArray, columns: int) -> FloatArray:
    if len(values) <= columns:
        return values[np.arange(columns) * len(values) // columns]
    return np.array([part.mean() for part in np.array_split(values, columns)])


def _area(heights: FloatArray, rows: int) -> list[str]:
    """Text rows, top first, of columns that are `heights` (0..1) high, in eighths of a row."""
    eighths = np.rint(heights * rows * 8)
    filled = np.clip(eighths - 8 * np.arange(rows)[::-1, None], 0, 8).astype(int)
    # Whatever is above zero is seen, however small.
    filled[-1] = np.where((heights > 0) & (filled[-1] == 0), 1, filled[-1])
    return ["".join(BLOCKS[level] for level in row) for row in filled]


def _left(number: float | None) -> str:
    if number is None:
        return " " * (MARGIN - 1) + "│"
    return f"{number:>{MARGIN - 2}.3g} ┤"


def _time_axis(timesteps: int, columns: int) -> str:
    """Numbers at both ends and the quarters, e.g. 0, 250, 500, 750, 999, where they fit."""
    last = str(timesteps - 1)
    line = last.rjust(columns)
    for quarter in range(4):
        number = str(timesteps * quarter // 4)
        at = columns * quarter // 4
        end = at + len(number)
        if not line[max(0, at - 1) : end + 1].strip():
            line = line[:at] + number + line[end:]
    return line
