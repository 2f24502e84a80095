"""Does anything grow? Many short trials in one search, watched from outside and from inside.

    python benchmarks/many_trials.py              200 real trials: two steps, two evaluations each
    python benchmarks/many_trials.py --trivial    1000 trials that only compute a number

Both run through the whole engine on two lanes, with early stopping, in a process and a storage of
their own. Every two seconds: memory, descriptors and threads of each kind of process, Ray's actors
and placement groups, what the driver's threads have used; for each trial: how long its lane waited
for it. The table gives medians over the first, the middle and the last tenth of the trials and the
slope over the second half (Siegel's), --out takes a figure, and the last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import optuna
import pandas as pd
import psutil  # type: ignore[import-untyped]
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import siegelslopes

from benchmarks import stamps, vitals
from benchmarks.stamps import StampedTrainer, Visit
from benchmarks.trivial import TrivialTrainer
from benchmarks.vitals import COUNTS, CPU, DESCRIPTORS, MEMORY, Sign
from search_spaces.speed import SpeedSpace
from stepsearch.cluster import LanesConfig
from stepsearch.diffusion.denoisers import UNetConfig
from stepsearch.diffusion.training import TrainingConfig
from stepsearch.evaluation.judge_config import JudgeConfig
from stepsearch.figures import COLOURS, STYLE
from stepsearch.sampling.sampler import SamplerConfig
from stepsearch.search.config import BudgetConfig, FinalistsConfig, SearchConfig
from stepsearch.search.driver import launch
from stepsearch.study import AnyOptunaSampler, RandomConfig, TpeConfig

NAME = "many"
SAMPLERS: Mapping[str, AnyOptunaSampler] = {"tpe": TpeConfig(), "random": RandomConfig()}
WAITS, CPU_A_TRIAL = "seconds", "CPU-seconds a trial"
IDLE = "last report to the next trial's first step"
LACKING = "trials ended, not yet in MLflow"


def configuration(storage: Path, trials: int, sampler: str, trivial: bool) -> SearchConfig:
    real = StampedTrainer(
        denoiser=UNetConfig(channels=(8, 16)),
        training=TrainingConfig(warmup_steps=0),
        sampler=SamplerConfig(num_steps=2),
        judge=JudgeConfig(samples=64),
    )
    return SearchConfig(
        name=NAME,
        space=SpeedSpace(),
        trainer=TrivialTrainer() if trivial else real,
        storage=storage,
        budget=BudgetConfig(trials=trials, images=128, reports=2, first_report=0.5),
        lanes=LanesConfig(count=2),
        optuna_sampler=SAMPLERS[sampler],
        finalists=FinalistsConfig(count=0),
    )


def search(storage: Path, every: float, trials: int, sampler: str, trivial: bool) -> None:
    """Runs in a process of its own."""
    config = configuration(storage, trials, sampler, trivial)
    result = launch(config, vitals.FromInside(storage / "inside.jsonl", every))
    (storage / "unrecorded").write_text(str(result.waiting + result.lost))


def watch(storage: Path, every: float, *arguments: object) -> list[Sign]:
    """Run the search and look at it from outside."""
    os.environ[stamps.FILE] = str(storage / "stamps.jsonl")
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=search, args=(storage, every, *arguments))
    process.start()
    driver, signs = psutil.Process(process.pid), list[Sign]()
    while process.is_alive():
        signs += vitals.of_processes(driver) + vitals.of_mlflow(storage / "mlflow.db")
        process.join(every)
    if process.exitcode:
        raise SystemExit(f"the search ended with {process.exitcode}")
    return signs + vitals.read(storage / "inside.jsonl")


def waits(visits: Sequence[Visit], proposed: Sequence[float]) -> Iterator[Sign]:
    """What lanes waited for, trial by trial; `proposed` when Optuna was asked for it."""
    for lane in {visit.process for visit in visits}:
        for before, after in pairwise(visit for visit in visits if visit.process == lane):
            last, at = before.reported[-1], after.taken
            yield Sign(at, WAITS, IDLE, after.first_step - last)
            yield Sign(at, WAITS, "of it until the proposal", proposed[after.trial] - last)
    for visit in visits:
        if len(visit.reported) > 1:
            answer = visit.answered[0] - visit.reported[0]
            yield Sign(visit.answered[0], WAITS, "a report to its answer", answer)


def over_trials(signs: Sequence[Sign], visits: Sequence[Visit]) -> pd.DataFrame:
    """The signs while trials were running, by how many had ended: trial, what, whose, value."""
    ends = np.sort([visit.left for visit in visits])
    frame = pd.DataFrame(signs)
    frame["trial"] = np.searchsorted(ends, frame["at"])
    frame = frame[frame["at"].between(min(visit.taken for visit in visits), ends[-1])]
    closed = frame["whose"] == vitals.CLOSED
    frame.loc[closed, "value"] = frame["trial"] - frame["value"]
    frame = frame.replace({"whose": {vitals.CLOSED: LACKING}})
    lines = [_a_trial(line) if what == CPU else line for (what, _), line in _lines(frame)]
    return pd.concat(lines)


def _a_trial(line: pd.DataFrame) -> pd.DataFrame:
    """A total over time as what each trial added, over stretches of a 25th of them."""
    stretch = line.groupby(line["trial"] // max(1, line["trial"].max() // 25)).first()
    steps = stretch[["trial", "value"]].diff()
    return stretch.assign(what=CPU_A_TRIAL, value=steps["value"] / steps["trial"]).dropna()


def _lines(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for (what, whose), line in frame.groupby(["what", "whose"]):
        yield (str(what), str(whose)), line.sort_values("trial", kind="stable")


def table(frame: pd.DataFrame, trials: int) -> pd.DataFrame:
    """Medians of each line in three tenths of the trials, and its slope over the second half."""
    rows = {f"{what}: {whose}": _summary(line, trials) for (what, whose), line in _lines(frame)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _summary(line: pd.DataFrame, trials: int) -> dict[str, float]:
    share, later = line["trial"] / trials, line[line["trial"] >= trials / 2]
    slope = siegelslopes(later["value"], later["trial"])[0] if len(later) > 2 else np.nan
    return {
        "first tenth": line["value"][share <= 0.1].median(),
        "middle": line["value"][share.between(0.45, 0.55)].median(),
        "last tenth": line["value"][share > 0.9].median(),
        "per 100 trials": 100 * slope,
    }


PANELS: Sequence[tuple[str, str, Mapping[str, str]]] = (
    ("driver: memory, MiB", MEMORY, {vitals.DRIVER: ""}),
    ("both Train workers: memory, MiB", MEMORY, {vitals.WORKERS: ""}),
    ("actors: memory, MiB", MEMORY, {vitals.DISPATCHER: "dispatcher", vitals.TRIALS: "Tune's"}),
    ("daemons: memory, MiB", MEMORY, {"raylet": "raylet", "gcs_server": "gcs_server"}),
    ("driver: open descriptors", DESCRIPTORS, {vitals.DRIVER: ""}),
    ("both Train workers: open descriptors", DESCRIPTORS, {vitals.WORKERS: ""}),
    (
        "actors: open descriptors",
        DESCRIPTORS,
        {vitals.DISPATCHER: "dispatcher", vitals.TRIALS: "Tune's"},
    ),
    ("daemons: open descriptors", DESCRIPTORS, {"raylet": "raylet", "gcs_server": "gcs_server"}),
    (
        "alive",
        COUNTS,
        {
            "processes": "processes",
            "Ray actors": "Ray actors",
            "placement groups": "placement groups",
        },
    ),
    ("a lane between two trials, s", WAITS, {IDLE: ""}),
    (
        "driver: CPU-seconds a trial",
        CPU_A_TRIAL,
        {"MainThread": "Tune, Optuna", "tracking": "MLflow", "artist_0": "pictures"},
    ),
    ("ended, not yet in MLflow, trials", COUNTS, {LACKING: ""}),
)
"""The figure's: title, what, whose and how to call them."""


def figure(frame: pd.DataFrame, title: str) -> Figure:
    """Small multiples over the trials, each from zero: what is flat looks flat."""
    with mpl.rc_context({**STYLE, "font.size": 9, "axes.titlesize": 10}):
        drawing = Figure(figsize=(12, 7.5), layout="constrained")
        FigureCanvasAgg(drawing)
        axes = drawing.subplots(3, 4, sharex=True)
        for axis, (name, what, whose) in zip(axes.flat, PANELS, strict=True):
            _panel(axis, frame[frame["what"] == what], whose)
            axis.set_title(name)
        for axis in axes[-1]:
            axis.set_xlabel("trials ended")
        drawing.suptitle(title, x=0.01, ha="left")
    return drawing


def _panel(axis: Axes, frame: pd.DataFrame, whose: Mapping[str, str]) -> None:
    for (one, label), colour in zip(whose.items(), COLOURS, strict=False):
        line = frame[frame["whose"] == one].sort_values("trial")
        if line["what"].eq(WAITS).any():  # one trial differs from the next: points, and a median
            axis.plot(line["trial"], line["value"], ".", color=colour, alpha=0.3, markersize=3)
            smooth = line["value"].rolling(25, center=True, min_periods=5).median()
            line = line.assign(value=smooth)
        axis.plot(line["trial"], line["value"], color=colour, label=label)
    several = len(whose) > 1
    axis.set_ylim(bottom=0, top=(1.5 if several else 1.15) * axis.get_ylim()[1])
    if several:
        axis.legend(loc="upper left", ncols=1, fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trivial", action="store_true", help="trials that train nothing")
    parser.add_argument("--trials", type=int, help="200, or 1000 trivial ones")
    parser.add_argument("--optuna-sampler", choices=SAMPLERS, default="tpe")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two looks")
    parser.add_argument("--out", type=Path, help="folder for the figure")
    options = parser.parse_args()
    trials = options.trials or (1000 if options.trivial else 200)
    with tempfile.TemporaryDirectory() as folder:
        storage, began = Path(folder), time.time()
        signs = watch(storage, options.every, trials, options.optuna_sampler, options.trivial)
        wall = time.time() - began
        unrecorded = int((storage / "unrecorded").read_text())
        visits = stamps.visits(stamps.read(storage / "stamps.jsonl"))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = f"sqlite:///{storage / NAME / 'study.db'}"
        records = optuna.load_study(study_name=NAME, storage=study).trials
    proposed = [t.datetime_start.timestamp() if t.datetime_start else np.nan for t in records]
    frame = over_trials([*signs, *waits(visits, proposed)], visits)
    rows = table(frame, trials)
    print(rows.to_string(float_format="{:.3f}".format))
    if options.out:
        kind = "trivial" if options.trivial else "short, real"
        name = "many-trials-trivial.png" if options.trivial else "many-trials.png"
        figure(frame, f"{trials} {kind} trials on two lanes").savefig(options.out / name)
    result = {
        "benchmark": "many_trials",
        "trivial": options.trivial,
        "trials": trials,
        "optuna_sampler": options.optuna_sampler,
        "pruned": sum(t.state is optuna.trial.TrialState.PRUNED for t in records),
        "wall_s": round(wall, 1),
        "records_lost_to_mlflow": unrecorded,
        "lines": json.loads(rows.round(4).to_json(orient="index")),  # a NaN becomes null
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
