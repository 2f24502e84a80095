"""The live view of a search in the terminal; plain lines where there is no terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stepsearch.search.board import Board, Entry, View

STATE_STYLES = {
    "running": "cyan",
    "finished": "green",
    "pruned": "yellow",
    "diverged": "red",
    "error": "red",
    "interrupted": "magenta",
}
_ROWS = 16


def live_view(console: Console) -> View:
    """A table that is redrawn on a terminal, a line an event elsewhere."""
    return LiveView(console) if console.is_terminal else LineView(console)


class LiveView:
    """Redraws the board four times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None

    def show(self, board: Board) -> None:
        self._live = Live(
            console=self._console,
            get_renderable=lambda: render(board),
            refresh_per_second=4,
            transient=True,
        )
        self._live.start()

    def say(self, line: str) -> None:
        self._console.print(line)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


class LineView:
    """Prints what happens, one line each: for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, board: Board) -> None:
        self._console.print(
            f"search {board.name}: {board.total} trials of {board.budget:,} images"
        )

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def close(self) -> None: ...


def render(board: Board) -> RenderableType:
    """The whole picture: progress, what is best so far, the trials."""
    return Panel(
        Group(_progress(board), _best(board), Text(), _trials(board)),
        title=f"[bold]{board.name}[/bold]",
        subtitle="Ctrl-C stops and keeps everything",
        border_style="dim",
    )


def _progress(board: Board) -> RenderableType:
    counts = board.counts
    waiting = max(0, board.total - sum(counts.values()))
    states = Text(" · ").join(
        [Text(f"{counts[s]} {s}", style=STATE_STYLES[s]) for s in STATE_STYLES if counts[s]]
        + [Text(f"{waiting} to come", style="dim")]
    )
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(justify="right")
    left = board.seconds_left
    when = f"{board.message} · " if board.message else ""
    when += f"{clock(left)} left" if left is not None else "time left: not known yet"
    grid.add_row(states, Text(when, style="dim"))
    grid.add_row(ProgressBar(total=1.0, completed=board.share_done), f"{board.share_done:.0%}")
    if board.spent:
        grid.add_row(Text(f"spent: {board.spent}", style="dim"), "")
    return grid


def _best(board: Board) -> RenderableType:
    baseline, best = board.baseline, board.best
    text = Text()
    if baseline and baseline.value is not None:
        text.append(f"{board.metric}: {baseline.label} {baseline.value:.3g}")
        text.append("" if baseline.state == "finished" else " so far")
    if best is not None and best is not baseline:
        text.append(f" · best {best.value:.3g} ", style="bold green")
        text.append(f"(trial {best.number}, {best.label})")
    return text


def _trials(board: Board) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("strategy", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("state", no_wrap=True)
    table.add_column("rung", justify="right", no_wrap=True)
    table.add_column("images seen", justify="right", no_wrap=True)
    table.add_column(board.metric, justify="right", no_wrap=True)
    for entry in _visible(board):
        table.add_row(*_row(board, entry))
    return table


def _visible(board: Board) -> list[Entry]:
    """All trials, or the running ones and the newest of the others."""
    entries = list(board.entries.values())
    running = [e for e in entries if e.state == "running"]
    ended = [e for e in entries if e.state != "running"]
    left = max(0, _ROWS - len(running))
    return ended[max(0, len(ended) - left) :] + running


def _row(board: Board, entry: Entry) -> tuple[RenderableType, ...]:
    rung = sum(m <= entry.images_seen for m in board.milestones)
    return (
        str(entry.number),
        Text(entry.label, style="bold" if entry is board.best else ""),
        Text(entry.state, style=STATE_STYLES[entry.state]),
        f"{rung}/{len(board.milestones)}",
        f"{entry.images_seen:,}",
        "" if entry.value is None else f"{entry.value:.3g}",
    )


def clock(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `3 min 10 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
