"""How a search ended, for a person: the leaderboard, the speed-up, what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from stepsearch.search.amounts import in_words
from stepsearch.search.leaderboard import Row
from stepsearch.search.result import SearchResult
from stepsearch.search.speed_up import SpeedUp
from stepsearch.search.view import STATE_STYLES

_SHOWN = 12
_WIDE = 100
"""Columns from which on the table has room for the range of each speed-up."""


def show_report(result: SearchResult, console: Console, address: str | None = None) -> None:
    """The whole closing page; `address` is the job server of a search on another machine.

    A terminal wraps the commands itself, so that they can be copied.
    """
    console.print(
        Group(_table(result, console.width), Text(), _verdict(result), Text(), _places(result))
    )
    console.print(_next(result, address), soft_wrap=True)


def _table(result: SearchResult, width: int) -> RenderableType:
    """The strategy's column gives way where `width` is short; all others are shown whole."""
    shown, guards = result.leaderboard.rows[:_SHOWN], list(result.config.guards or {})
    rows = [_cells(result, row, wide=width >= _WIDE) for row in shown]
    names = ["trial", "strategy", "outcome", result.config.primary.name, *guards, "speed-up"]
    needs = [max(len(str(cell)) for cell in cells) for cells in zip(names, *rows, strict=True)]
    room = width - sum(need + 2 for need in needs) + needs[1]
    needs[1] = max(8, min(needs[1], room))
    title = f"search {result.config.name}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for name, need in zip(names, needs, strict=True):
        justify: Literal["left", "right"] = "left" if name in ("strategy", "outcome") else "right"
        table.add_column(name, justify=justify, width=need, no_wrap=True, overflow="ellipsis")
    for row, cells in zip(shown, rows, strict=True):
        table.add_row(*cells, style="bold" if row is result.winner else "")
    hidden = len(result.leaderboard.rows) - _SHOWN
    if hidden > 0:
        table.caption = f"and {hidden} more: leaderboard.csv on the parent run in MLflow"
    return table


def _cells(result: SearchResult, row: Row, *, wide: bool) -> list[RenderableType]:
    """A row; of an unfinished trial the outcome says how far it came, and its value is dim."""
    metric, guards = result.config.primary.name, result.config.guards or {}
    share = row.images_seen / result.config.budget.images
    ended = row.outcome if row.values else f"{row.outcome} {share:.0%}"
    cells: list[RenderableType] = [
        str(row.number),
        row.label,
        Text(ended, style=STATE_STYLES.get(row.outcome, "")),
        _value(row, metric),
    ]
    for name in guards:
        shown = f"{row.metrics[name]:.3g}" if name in row.metrics else ""
        cells.append(Text(shown, style="red" if row.excess.get(name, 0) > 0 else ""))
    cells.append(_short(row.speed_up, wide) if row.speed_up else "")
    return cells


def _value(row: Row, metric: str) -> RenderableType:
    if row.value is None:
        return Text(f"{row.metrics[metric]:.3g}" if metric in row.metrics else "", style="dim")
    spread = f" ± {row.spread:.2g}" if row.spread is not None else ""
    return f"{row.value:.3g}{spread}"


def _short(speed_up: SpeedUp, wide: bool) -> str:
    """`1.67x (1.53-1.69)`: the median and, in a wide table, the range over the seeds."""
    if speed_up.median is None:
        return "not reached"
    known = [ratio or 0.0 for ratio in speed_up.ratios]
    span = f" ({min(known):.2f}-{max(known):.2f})" if wide and len(known) > 1 else ""
    return f"{speed_up.median:.2f}x{span}"


def _verdict(result: SearchResult) -> Text:
    """One honest sentence, after the reason why there are fewer trials than there might be."""
    ended = f"The search has ended: {result.ledger.ended}.\n" if result.ledger.ended else ""
    verdict = Text(ended).append_text(_comparison(result))
    verdict.append(_shut_out(result)).append(_groups(result)).append(_ranks(result))
    return verdict.append_text(_rung(result))


def _comparison(result: SearchResult) -> Text:
    board, metric = result.leaderboard, result.config.primary.name
    winner, baseline = board.winner, board.baseline
    if result.interrupted:
        return Text("The search was stopped; everything so far is kept.", style="bold")
    if winner is None or baseline is None or not baseline.values:
        return Text("No trial has finished yet that could be compared with the baseline.")
    if winner is baseline:
        return Text(
            f"No trial beat the {baseline.label} baseline ({metric} {baseline.value:.3g})."
        )
    seeds = len(winner.values)
    best = (
        f"Best: trial {winner.number} ({winner.label}), {metric} {winner.value:.3g} against "
        f"{baseline.value:.3g} of {baseline.label} ({seeds} seed{'s' * (seeds > 1)} each)."
    )
    if winner.speed_up is not None:
        best += f" Speed-up in images to the baseline's final quality: {winner.speed_up}."
    return Text(best, style="bold")


def _shut_out(result: SearchResult) -> str:
    """Why a trial with a better value is not the winner."""
    row, metric = result.leaderboard.shut_out, result.config.primary.name
    if row is None or result.interrupted:
        return ""
    beyond = next(name for name, excess in row.excess.items() if excess > 0)
    return (
        f"\nTrial {row.number} ({row.label}) has {metric} {row.value:.3g}, but its {beyond} of "
        f"{row.metrics[beyond]:.3g} is beyond the guard."
    )


def _groups(result: SearchResult) -> str:
    """Which family, whether the difference is real, and what matters inside the best one."""
    groups = result.groups
    if groups is None or result.interrupted:
        return ""
    best, text = groups.of[0].name, str(groups)
    shares = result.importance(best)
    inside = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    after = f"\nWhat matters inside {best}: {inside}." if inside else ""
    return f"\n{text[0].upper()}{text[1:]}.{after}"


def _ranks(result: SearchResult) -> str:
    return f"\nWarm start from {result.config.warm_start}: {result.ranks}." if result.ranks else ""


def _rung(result: SearchResult) -> Text:
    """A warning where trials may have been stopped by noise."""
    rung = result.first_rung
    if rung is None or not rung.within_noise or result.interrupted:
        return Text()
    return Text(f"\nWarning: {rung}.", style="yellow")


def _places(result: SearchResult) -> RenderableType:
    text = Text()
    if any(result.ledger.spent.values()):
        config, spent = result.config, result.ledger.spent
        text.append(f"Spent: {in_words(spent, config.budget, config.prices)}\n")
    if evaluating := result.evaluating:
        text.append(f"Evaluation {evaluating}\n")
    text.append(f"Everything is in {result.folder.mirror.place}")
    if result.waiting:
        wait = f"{result.waiting} records wait for MLflow"
        text.append(f"\n{wait}; `resume {result.config.name}` sends them", style="yellow")
    if result.lost:
        text.append(f"\nMLflow did not take {result.lost} records", style="yellow")
    return text


def _next(result: SearchResult, address: str | None) -> str:
    """The commands to type next; they name the storage only where it is not the default."""
    name, storage = result.config.name, result.config.storage
    if address is not None:
        tail = [name, "--address", address]
    else:
        default = storage == Path("searches").absolute()
        tail = [name] if default else [name, "--storage", str(storage)]
    verbs = {"resume": "go on"} if result.interrupted else {}
    verbs |= {"ui": "look at the trials in MLflow"}
    if any(row.values for row in result.leaderboard.rows):
        verbs |= {"export": "take the winner with you"}
    return "\n".join(
        f"  {what + ':':30}python run_search.py {verb} {shlex.join(tail)}"
        for verb, what in verbs.items()
    )
