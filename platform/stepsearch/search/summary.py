"""What a search leaves on its parent run in MLflow: the verdict, the leaderboard, the curves."""

from __future__ import annotations

import shutil
from pathlib import Path

from stepsearch.errors import UserError
from stepsearch.figures import quality_curves
from stepsearch.search.leaderboard import Row
from stepsearch.search.result import SearchResult
from stepsearch.tracking import Tracker


def log_summary(tracker: Tracker, result: SearchResult, seconds: float | None) -> None:
    """Record what a search found, or where an interrupted one stands, and end its run; `seconds`
    are those of its driver, where that lives."""
    tracker.log(tracker.search, _numbers(result, seconds), step=_progress(result))
    tracker.set_tags(tracker.search, {"ended_by": _ended_by(result)})
    folder = result.folder.summary
    folder.mkdir(exist_ok=True)
    write_leaderboard(result, folder)
    draw_quality(result, folder / "quality.png")
    result.config.trainer.overview(folder, result.leaderboard.frame())
    tracker.log_artifacts(tracker.search, folder, "summary")
    if result.winner is not None and not result.interrupted:
        bundle = result.folder.path / "bundle"
        shutil.rmtree(bundle, ignore_errors=True)
        try:
            tracker.log_artifacts(tracker.search, result.export(bundle), "bundle")
        except UserError as error:  # a winner that its trainer does not let out
            tracker.set_tags(tracker.search, {"no_bundle": str(error)})
    tracker.end_search("interrupted" if result.interrupted else "finished")


def _progress(result: SearchResult) -> int:
    """Grows with every report and every end: what MLflow has at a step is not written again."""
    return len(result.history) + sum(record.outcome is not None for record in result.records)


def write_leaderboard(result: SearchResult, folder: Path) -> None:
    """The leaderboard as CSV and Parquet, for pandas and everything else."""
    frame = result.leaderboard.frame()
    frame.to_csv(folder / "leaderboard.csv", index=False)
    frame.to_parquet(folder / "leaderboard.parquet", index=False)


def draw_quality(result: SearchResult, path: Path) -> None:
    """The primary metric of every trial against the images it has seen; nothing without a curve,
    which takes two reports."""
    curves = {f"{row.number:03d} {row.label}": _curve(result, row) for row in _reported(result)}
    baseline = result.leaderboard.baseline
    if any(len(seen) > 1 for seen, _ in curves.values()):
        quality_curves(
            curves,
            metric=result.config.primary.name,
            baseline=f"{baseline.number:03d} {baseline.label}" if baseline else None,
            direction=result.config.primary.direction,
        ).savefig(path, dpi=110)


def _reported(result: SearchResult) -> list[Row]:
    return [row for row in result.leaderboard.rows if row.metrics]


def _curve(result: SearchResult, row: Row) -> tuple[list[int], list[float]]:
    curve = result.history.curve(row.number, result.config.primary.name)
    return list(curve), list(curve.values())


def _ended_by(result: SearchResult) -> str:
    if result.interrupted:
        return "an interruption"
    return result.ledger.ended or "its last trial"


def _numbers(result: SearchResult, seconds: float | None) -> dict[str, float]:
    """The verdict as metrics of the parent run; `speed_up` only where the baseline was reached."""
    board, history, rung = result.leaderboard, result.history, result.first_rung
    evaluating = result.evaluating
    found = {
        "wall_s": seconds,
        **{f"spent_{name}": value for name, value in result.ledger.spent.items() if value},
        "train_cpu_s": history.total("train_cpu_s"),
        "evaluation_cpu_s": history.total("evaluation_cpu_s"),
        "evaluation_share": evaluating.share if evaluating else None,
        "drawn_images": evaluating.images if evaluating else None,
        "network_evaluations": evaluating.network_evaluations if evaluating else None,
        "baseline": board.baseline.value if board.baseline else None,
        "winner": board.winner.value if board.winner else None,
        "speed_up": result.speed_up.median if result.speed_up else None,
        "rank_pairs": result.ranks.pairs if result.ranks else None,
        "rank_correlation": result.ranks.correlation if result.ranks else None,
        "first_rung_correlation": rung.correlation if rung else None,
    }
    return {name: value for name, value in found.items() if value is not None}
