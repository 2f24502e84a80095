"""What a record for MLflow costs the search that puts it.

Three ways to be rid of one report of 25 metrics, one after another in one process:

    spool       a line in the search's spool file, from where a thread delivers it
    with fsync  the same, and waiting until the disk has it
    MLflow      a call of MLflow's own client, into sqlite

    python benchmarks/spool.py [--records N] [--folder FOLDER]

FOLDER says which disk. The last line is a JSON object with the microseconds of each, the median
and the 99th percentile of N records (2000; 200 for MLflow), and the bytes of a line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from stepsearch.tracking.client import connect
from stepsearch.tracking.records import Metrics, Run
from stepsearch.tracking.spool import Spool

RUN = Run("a-search-0123abcd", 3)


def report(step: int) -> Metrics:
    values = {f"metric_{key}": 1 / (step + key + 1) for key in range(25)}
    return Metrics(RUN, time.time_ns() // 1_000_000, step, values)


def cost(put: Callable[[Metrics], object], records: int) -> dict[str, float]:
    """Microseconds a record."""
    seconds = []
    for step in range(records):
        record, began = report(step), time.perf_counter()
        put(record)
        seconds.append(time.perf_counter() - began)
    return {
        "median": round(float(np.median(seconds)) * 1e6, 1),
        "p99": round(float(np.quantile(seconds, 0.99)) * 1e6, 1),
    }


def with_fsync(spool: Spool) -> Callable[[Metrics], object]:
    def put(record: Metrics) -> None:
        spool.add(record)
        os.fsync(spool.fileno())

    return put


def mlflow_call(folder: Path) -> Callable[[Metrics], object]:
    client = connect(f"sqlite:///{folder / 'mlflow.db'}")
    from mlflow.entities import Metric

    run = client.create_run(client.create_experiment("benchmark"))

    def put(record: Metrics) -> None:
        values = [Metric(k, v, record.time, record.step) for k, v in record.values.items()]
        client.log_batch(run.info.run_id, metrics=values)

    return put


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"benchmark": "spool"}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        with closing(Spool(folder / "spool.jsonl")) as spool:
            found["spool"] = cost(spool.add, options.records)
            found["bytes"] = (folder / "spool.jsonl").stat().st_size // options.records
            found["with fsync"] = cost(with_fsync(spool), options.records)
        found["MLflow"] = cost(mlflow_call(folder.resolve()), max(1, options.records // 10))
    for way in ("spool", "with fsync", "MLflow"):
        print(f"{way:12}{found[way]['median']:10.1f} us{found[way]['p99']:10.1f} us (p99)")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
