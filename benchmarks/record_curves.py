"""Record the learning curves that `simulate` replays: an hour on two quiet CPU cores.

Runs one real search, SpeeD's space on the digits with nothing stopped early: 200 configurations
(the uniform baseline, the paper's setting, then a Sobol sequence), eleven reports each, and the
best one and the baseline again on three more seeds. An interrupted recording goes on when the
script is started again; what is finished by then can be written with --as-it-is.

    python benchmarks/record_curves.py STORAGE [--out FILE.csv.gz] [--as-it-is]

The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from stepsearch.search.folder import SearchFolder, names
from stepsearch.simulation.curves import SECONDS, Curves

ROOT = Path(__file__).parents[1]
NAME = "curves"
SETTINGS = (
    f"name={NAME}",
    "space={kind: speed, tau: [0.1, 1.0], k: [1, 10], lam: [0.5, 0.8]}",
    "trainer.training.lr=8.0e-3",
    "budget.trials=200",
    "budget.reports=11",  # a report at every 3/32 of the images
    "budget.first_report=0.0625",
    "trial_scheduler={kind: fifo}",
    "optuna_sampler={kind: qmc}",
    "finalists={count: 1, seeds: 4}",
    "retries=3",
)


def record(storage: Path) -> None:
    """Run the search, or go on with it. Raises CalledProcessError if the CLI fails."""
    cli = [sys.executable, str(ROOT / "run_search.py")]
    if NAME in names(storage):
        command = [*cli, "resume", NAME, "--storage", str(storage)]
    else:
        command = [*cli, "run", str(ROOT / "search_spaces" / "speed_digits.yaml")]
        for text in (*SETTINGS, f"storage={storage}"):
            command += ["--set", text]
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("storage", type=Path)
    default = ROOT / "benchmarks" / "curves" / "speed_digits.csv.gz"
    parser.add_argument("--out", type=Path, default=default, metavar="FILE.csv.gz")
    parser.add_argument("--as-it-is", action="store_true", help="record nothing more")
    asked = parser.parse_args()
    storage = asked.storage.absolute()
    if not asked.as_it_is:
        record(storage)
    curves = Curves.of_search(SearchFolder.find(storage, NAME))
    curves.write(asked.out)
    reports = [m for r in curves.recordings for m in r.reports.values()]
    result = {
        "benchmark": "record_curves",
        "configurations": len(curves.originals),
        "repeats": len(curves.recordings) - len(curves.originals),
        "reports": len(reports),
        "cpu_s": round(sum(m[name] for m in reports for name in SECONDS)),
        "bytes": asked.out.stat().st_size,
    }
    for name, value in result.items():
        print(f"{name:15s} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
