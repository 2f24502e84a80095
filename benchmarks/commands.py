"""How long a person waits at a search of many trials: status, resume, export, MLflow's table.

    python benchmarks/commands.py                    1000 trials
    python benchmarks/commands.py --keep FOLDER      the same, and the search stays

The trials compute a number and report it under as many names as a real trial has. The commands are
run as they are typed, and the best of several times counts. `resume` goes on with two real trials,
of which `export` takes one. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import stamps
from benchmarks.many_trials import NAME, configuration
from benchmarks.trivial import TrivialTrainer, trivial_run
from stepsearch.diffusion.workers import ALONE, Workers
from stepsearch.search.driver import launch
from stepsearch.search.trial import Report, Run, Trial
from stepsearch.tracking import TrackingConfig, ui_command
from trainers.stopwatch import OF_THE_CLOCK

ROOT = Path(__file__).parents[1]
METRICS = (
    "fd_digits", "kid_digits", "precision", "recall", "pixel_fd", "off_manifold", "train_loss",
    "grad_norm", "drawn_images", "network_evaluations", *sorted(OF_THE_CLOCK),
)  # fmt: skip
PORT = 5987


class CrowdedTrainer(TrivialTrainer):
    """Trials that train nothing and report all that a real one does."""

    @property
    def run(self) -> Run:
        return crowded_run

    def objective(self) -> str:
        return METRICS[0]


def crowded_run(trial: Trial, report: Report, workers: Workers = ALONE) -> None:
    """`trivial_run`, its number under every name, and worse than any real trial's."""
    trivial_run(trial, _Crowded(report), workers)


class _Crowded:
    def __init__(self, report: Report) -> None:
        self._report = report

    def __call__(self, metrics: Mapping[str, float]) -> bool:
        seen = {"images_seen": metrics["images_seen"]}
        return self._report(seen | dict.fromkeys(METRICS, 1000 + metrics["distance"]))

    def progress(self, images_seen: int) -> bool:
        return self._report.progress(images_seen)


def search(storage: Path, trials: int) -> None:
    """Runs in a process of its own, and leaves a search that the command line knows."""
    config = configuration(storage, trials, "tpe", trivial=True)
    small = configuration(storage, trials, "tpe", trivial=False).trainer
    plain = {name: getattr(small, name) for name in ("denoiser", "training", "sampler", "judge")}
    launch(config.model_copy(update={"trainer": CrowdedTrainer(**plain)}))


def run(storage: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "run_search.py"), *words, "--storage", str(storage)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=storage)


def seconds(deed: Callable[[], object]) -> float:
    start = time.perf_counter()
    deed()
    return time.perf_counter() - start


def whole(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")


def best(times: int, deed: Callable[[], object]) -> float:
    return min(seconds(deed) for _ in range(times))


def resumed(storage: Path, trials: int) -> tuple[float, float]:
    """Seconds until the first new trial is proposed, and until the end of two."""
    folder, start = storage / NAME / "trials" / f"{trials:03d}", time.perf_counter()
    process = run(storage, "resume", NAME, "--trials", str(trials + 2))
    while not folder.exists() and process.poll() is None:
        time.sleep(0.005)
    proposed = time.perf_counter() - start
    whole(process)
    return proposed, time.perf_counter() - start


@contextmanager
def mlflow(storage: Path) -> Iterator[str]:
    command = ui_command(TrackingConfig(), storage, port=PORT)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{PORT}"
        while process.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(f"{url}/health").close()  # noqa: S310 (our own)
                break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def ask(url: str, what: str, body: Mapping[str, object] | None = None) -> Any:
    """MLflow's answer to its own page."""
    request = urllib.request.Request(  # noqa: S310 (our own server)
        f"{url}/ajax-api/2.0/mlflow/{what}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        return json.load(answer)


def table(url: str, page: str, results: int) -> None:
    """Get the first rows of the search's table as its page does; `page` is the link to it."""
    experiment, view = re.findall(r"experiments/(\d+)/.*viewStateShareKey=([^&]+)", page)[0]
    tags = ask(url, f"experiments/get?experiment_id={experiment}")["experiment"]["tags"]
    states = {tag["key"]: tag["value"] for tag in tags}
    state = json.loads(states[f"mlflow.sharedViewState.{view}"])
    order = f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"
    body = {"filter": state["searchFilter"], "order_by": [order], "max_results": results}
    assert len(ask(url, "runs/search", {"experiment_ids": [experiment], **body})["runs"]) > 0


def measure(storage: Path, trials: int) -> dict[str, float]:
    found = {"status": best(5, lambda: whole(run(storage, "status", NAME)))}
    found["resume, first proposal"], found["resume, two trials"] = resumed(storage, trials)
    out = (str(storage / f"bundle-{i}") for i in range(3))
    words = ("export", NAME, "--out")  # the winner: the others are worse than any real trial
    found["export"] = best(3, lambda: whole(run(storage, *words, next(out))))
    page = (storage / NAME / ".mlflow-page").read_text()
    with mlflow(storage) as url:
        for results in (100, 1000):
            found[f"MLflow, {results} runs"] = best(5, partial(table, url, page, results))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="leave the search in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        storage = (arguments.keep or Path(scratch)).absolute()
        os.environ[stamps.FILE] = str(Path(scratch) / "stamps.jsonl")
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=search, args=(storage, arguments.trials))
        process.start()
        process.join()
        found = measure(storage, arguments.trials)
    for what, value in found.items():
        print(f"{what:28} {value:8.2f} s")
    print(json.dumps({"benchmark": "commands", "trials": arguments.trials, "seconds": found}))


if __name__ == "__main__":
    main()
