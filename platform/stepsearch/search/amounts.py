"""What a search spends, in the units of its budgets and in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from stepsearch.cluster import LaneShape
from stepsearch.errors import UserError
from stepsearch.search.config import BudgetConfig, PricesConfig
from stepsearch.search.view import clock

Budget = Literal["hours", "gpu_hours", "cpu_hours", "money"]
BUDGETS: tuple[Budget, ...] = get_args(Budget)
Amounts = dict[Budget, float]


def limits(budget: BudgetConfig) -> Amounts:
    """The budgets that are set."""
    values = {name: getattr(budget, name) for name in BUDGETS}
    return {name: value for name, value in values.items() if value is not None}


def used(
    shape: LaneShape, prices: PricesConfig | None, hours: float, lane_hours: float
) -> Amounts:
    """What lanes of this shape use in so many hours, `lane_hours` of all of them together.

    A lane uses what it holds, idle or not.
    """
    gpu_hours = lane_hours * shape.workers * shape.gpus
    cpu_hours = lane_hours * shape.workers * shape.cpus
    money = gpu_hours * prices.gpu_hour + cpu_hours * prices.cpu_hour if prices else 0.0
    return {"hours": hours, "gpu_hours": gpu_hours, "cpu_hours": cpu_hours, "money": money}


def check_budget(budget: BudgetConfig, prices: PricesConfig | None, shape: LaneShape) -> None:
    """Raise UserError for a budget that lanes of this shape never use up."""
    uses = used(shape, prices, 1.0, 1.0)
    for name in limits(budget):
        if not uses[name]:
            raise UserError(
                f"budget.{name} must be something that the lanes use: one has "
                f"{shape.workers * shape.cpus:g} CPUs and {shape.workers * shape.gpus:g} GPUs"
            )


def amount(name: Budget, value: float, prices: PricesConfig | None) -> str:
    """`2 hours`, `0.5 GPU-hours`, `12 EUR`."""
    units = {"hours": "hours", "gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours"}
    unit = units.get(name) or (prices.currency if prices else "")
    return f"{value:.3g} {unit if value != 1 else unit.removesuffix('s')}"


def in_words(spent: Amounts, budget: BudgetConfig, prices: PricesConfig | None) -> str:
    """`1.2 of 2 hours · 4.8 GPU-hours · 10.1 of 40 EUR`."""
    return " · ".join(_parts(spent, limits(budget), prices))


def _parts(spent: Amounts, given: Amounts, prices: PricesConfig | None) -> Iterator[str]:
    for name in BUDGETS:
        value = spent.get(name, 0.0)
        if name in given:
            yield f"{value:.3g} of {amount(name, given[name], prices)}"
        elif name == "hours":
            yield clock(3600 * value)
        elif value and (name != "cpu_hours" or not spent["gpu_hours"]):
            yield amount(name, value, prices)
