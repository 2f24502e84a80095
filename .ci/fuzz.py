"""Coverage-guided fuzzing of all that reads strangers' files; on demand, no part of `.ci/run`.

    pip install -c constraints.txt -e '.[test,fuzz]'
    python .ci/fuzz.py 60                  each reader for a minute
    python .ci/fuzz.py 600 spool           one of them for ten
    python .ci/fuzz.py spool-crash-0123    an input that was found, once more

A reader returns, or refuses in one line. Anything else stops it with a traceback, and the input is
left in READER-crash-*. The exit code is that of the worst.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

import atheris  # noqa: E402
import torch  # noqa: E402
from torch._weights_only_unpickler import Unpickler  # noqa: E402

Unpickler.load = atheris.instrument_func(Unpickler.load)
with atheris.instrument_imports(["stepsearch", "search_spaces", "trainers", "run_search", "yaml"]):
    import run_search
    from stepsearch.diffusion.checkpoints import read_checkpoint, write_checkpoint
    from stepsearch.sampling.bundle import load_strategy
    from stepsearch.search.amounts import in_words
    from stepsearch.search.config import BudgetConfig
    from stepsearch.search.files import assignments, to_yaml
    from stepsearch.search.history import History
    from stepsearch.search.ledger import Ledger
    from stepsearch.simulation.curves import Curves
    from stepsearch.study import Objective, RandomConfig, StoredStudy, Study
    from stepsearch.tracking.lines import record_line
    from stepsearch.tracking.records import End, Metrics, Run, Start, Text
    from stepsearch.tracking.spool import Spool, count_waiting
    from tests.test_strangers import CURVES, ENTRY, STRATEGY, WHOLE, read_or_refused

MAX_BYTES = 4096
SLOW_S = 20
A_STUDY = 2**18
"""More than the bytes of a small study's file."""


def spool(path: Path) -> None:
    """As a status counts it, and as the next driver opens it."""
    count_waiting(path)
    Spool(path).close()


def ledger(path: Path) -> None:
    in_words(Ledger.read(path).spent, BudgetConfig(), None)


def weights(path: Path) -> None:
    """The pickle inside a checkpoint; the archive around it is sound, its CRC included."""
    pickle = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickle), ("version", b"3\n"), ("data/0", bytes(24))):
            archive.writestr(f"checkpoint/{name}", content)
    read_checkpoint(path)


def study(path: Path) -> None:
    with StoredStudy.look(path, "old") as stored:
        stored.trials()


READERS: dict[str, Callable[[Path], object]] = {
    "search": lambda path: run_search.load(path, []),
    "set": lambda path: assignments([path.read_text(errors="surrogateescape")]),
    "strategy": load_strategy,
    "curves": Curves.read,
    "checkpoint": read_checkpoint,
    "weights": weights,
    "history": History,
    "ledger": ledger,
    "spool": spool,
    "study": study,
}


def seeds(name: str, folder: Path) -> list[bytes]:
    """Files that the reader takes."""
    if name == "search":
        files = (ROOT / "search_spaces").glob("*.yaml")
        return [to_yaml(WHOLE).encode(), *(file.read_bytes() for file in files)]
    if name in ("checkpoint", "weights"):
        path = folder / "checkpoint.pt"
        write_checkpoint({"images_seen": 3, "weight": torch.arange(6.0)}, path)
        with zipfile.ZipFile(path) as archive:
            (pickle,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
            return [path.read_bytes() if name == "checkpoint" else archive.read(pickle)]
    if name == "study":
        path = folder / "study.db"
        with Study.create(path, "old", [Objective("fd")], RandomConfig(), 0) as new:
            new.ask(lambda trial: {"x": trial.suggest_float("x", 0, 1)})
            new.report(0, 100, 0.7)
            new.tell(0, "finished", [0.5])
        return [path.read_bytes()]
    run = Run("old", 1)
    records = [
        Start(run, 0, "trial", {"tau": "600"}, {"role": "baseline"}),
        Metrics(run, 0, 100, {"fd": 0.5}),
        Text(run, "note", "a.txt"),
        End(run, 0, "finished"),
    ]
    return {
        "set": [b"space.k=[1, 25]"],
        "strategy": [json.dumps(STRATEGY).encode()],
        "curves": [CURVES],
        "history": [json.dumps(ENTRY).encode() + b"\n"],
        "ledger": [Ledger().model_dump_json().encode()],
        "spool": [b"".join(record_line(n, r, folder) for n, r in enumerate(records, 1))],
    }[name]


def fuzz(name: str, *options: str) -> None:
    """Runs in a process of its own, which libFuzzer ends."""
    with tempfile.TemporaryDirectory() as scratch:
        path, corpus = Path(scratch) / "file", Path(scratch) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds(name, Path(scratch))):
            (corpus / str(number)).write_bytes(seed)
        longest = A_STUDY if name == "study" else MAX_BYTES

        def once(data: bytes) -> None:
            path.write_bytes(data)
            read_or_refused(lambda: READERS[name](path))

        limits = [f"-max_len={longest}", f"-timeout={SLOW_S}", f"-artifact_prefix={name}-"]
        atheris.Setup([name, *limits, *options, str(corpus)], once)
        atheris.Fuzz()


def main() -> int:
    first, *names = sys.argv[1:]
    if first in READERS:
        fuzz(first, *names)
    if not first.isdigit():
        path = Path(first)
        READERS[path.name.split("-")[0]](path)
        return 0
    command = [sys.executable, __file__]
    codes = [
        subprocess.run([*command, name, f"-max_total_time={first}"], check=False).returncode
        for name in names or READERS
    ]
    return max(map(abs, codes))


if __name__ == "__main__":
    sys.exit(main())
