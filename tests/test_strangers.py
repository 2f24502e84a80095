"""Files from strangers: thousands of damaged ones; each is read, or refused in one line."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import run_search
from stepsearch.diffusion.checkpoints import read_checkpoint, write_checkpoint
from stepsearch.diffusion.datasets import Dataset
from stepsearch.diffusion.denoisers import PretrainedConfig, UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.diffusion.weights import WEIGHTS
from stepsearch.errors import StepsearchError
from stepsearch.sampling.bundle import load_strategy
from stepsearch.search.closing import show_report
from stepsearch.search.config import SearchConfig
from stepsearch.search.files import assignments
from stepsearch.search.folder import SearchFolder
from stepsearch.search.history import History
from stepsearch.search.result import SearchResult
from stepsearch.simulation.curves import Curves
from stepsearch.study import Objective, RandomConfig, Study

SEARCH = yaml.safe_load(
    (Path(run_search.__file__).parent / "search_spaces" / "speed_digits.yaml").read_text()
)
WHOLE = SEARCH | {
    "trainer": {
        "kind": "denoising",
        "dataset": {"kind": "images", "path": "pictures", "size": 8},
        "denoiser": {"kind": "unet", "channels": [8, 16]},
        "training": {"batch_size": 32, "lr": 1e-3},
        "strategy": {"kind": "speed", "tau": 600},
    },
    "lanes": {"count": 1, "cpus": 0.5},
    "optuna_sampler": {"kind": "gp"},
    "objectives": [{"name": "fd_digits"}, {"name": "recall", "direction": "maximize"}],
    "guards": {"off_manifold": 0.1},
    "tracking": {"uri": "postgresql://me@host/db"},
    "storage": "~/searches",
}


def fuzz(examples: int) -> settings:
    """So many inputs, none of which may hang."""
    return settings(max_examples=examples, deadline=timedelta(seconds=60))


def read_or_refused(read: Callable[[], object]) -> None:
    """Anything but a value or one line fails the test."""
    line = ""
    try:
        read()
    except StepsearchError as error:
        line = str(error)
    assert line.isprintable()
    assert len(line) < 1600


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["speed", "uniform", "~nobody/x", "a\0b", "http://me:secret@[", 10**400])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def changed(draw: st.DrawFn, whole: Any) -> Any:
    """Plain data of which one part, somewhere, is another, or gone, or named differently."""
    if not isinstance(whole, dict | list) or not whole or draw(st.integers(0, 5)) == 0:
        return draw(values)
    key = draw(st.sampled_from(range(len(whole)) if isinstance(whole, list) else sorted(whole)))
    copy: Any = whole.copy()
    match draw(st.integers(0, 9)):
        case 0:
            copy.pop(key)
        case 1 if isinstance(copy, dict):
            copy[draw(st.text(max_size=8))] = copy.pop(key)
        case _:
            copy[key] = draw(changed(whole[key]))
    return copy


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file of which a few bytes are others, or too many, or missing."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        cut = draw(st.sampled_from([0, 1, 1, 2, 8, len(whole)]))
        data[start : start + cut] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strangers")


YAML = st.text("abk:[]{}-#&*!|>'\"%@,.?~0123=<\\ \n\t\u2028\ud7ff", max_size=60)


@fuzz(1000)
@given(text=st.text(max_size=60) | YAML)
def test_a_search_file_of_any_text(text: str, scratch: Path) -> None:
    (scratch / "any.yaml").write_text(text, errors="surrogatepass")
    read_or_refused(lambda: run_search.load(scratch / "any.yaml", []))


@fuzz(500)
@given(
    tag=st.sampled_from(
        [
            "int",
            "float",
            "bool",
            "null",
            "timestamp",
            "binary",
            "set",
            "omap",
            "pairs",
            "python/name:os.system",
        ]
    ),
    text=YAML,
)
def test_a_search_file_with_a_tag_on_a_value_that_does_not_fit(
    tag: str, text: str, scratch: Path
) -> None:
    (scratch / "tag.yaml").write_text(f"name: !!{tag} {text}")
    read_or_refused(lambda: run_search.load(scratch / "tag.yaml", []))


@fuzz(800)
@given(data=changed(WHOLE))
def test_a_search_file_of_which_a_part_is_changed(data: Any, scratch: Path) -> None:
    (scratch / "changed.yaml").write_text(yaml.dump(data, Dumper=yaml.CSafeDumper))
    read_or_refused(lambda: run_search.load(scratch / "changed.yaml", []))


@fuzz(500)
@given(data=damaged(yaml.safe_dump(WHOLE).encode()))
def test_a_search_file_of_which_bytes_are_changed(data: bytes, scratch: Path) -> None:
    (scratch / "damaged.yaml").write_bytes(data)
    read_or_refused(lambda: run_search.load(scratch / "damaged.yaml", []))


@fuzz(1000)
@given(
    sets=st.lists(
        st.text(max_size=30)
        | st.builds("{}={}".format, st.sampled_from(["name", "space.k", "a", "a.b"]), YAML),
        max_size=3,
    )
)
def test_assignments_of_any_text(sets: list[str]) -> None:
    read_or_refused(lambda: assignments(sets))


T = 3
STRATEGY = {
    "family": "speed",
    "parameters": {"tau": 2},
    "prediction_type": "epsilon",
    "p": [0.5, 0.25, 0.25],
    "w": [1.0] * T,
    "schedule": {"name": "linear", "timesteps": T, "alpha_bar": [0.9, 0.5, 0.1], "diffusers": {}},
    "training": {},
    "provenance": {
        "search": "a",
        "trial": 1,
        "seed": 0,
        "images_seen": 9,
        "objective": "fd",
        "metrics": {"fd": 1.0},
    },
}


@fuzz(700)
@given(
    content=changed(STRATEGY).map(json.dumps).map(str.encode)
    | damaged(json.dumps(STRATEGY).encode())
    | st.binary()
)
def test_a_damaged_strategy(content: bytes, scratch: Path) -> None:
    (scratch / "strategy.json").write_bytes(content)
    read_or_refused(lambda: load_strategy(scratch / "strategy.json"))


HEAD = (
    "trial,label,role,repeats,seed,param.x,images_seen,minimize.fd,"
    "metric.train_cpu_s,metric.evaluation_cpu_s"
)
CURVES = f"""{HEAD}
0,u,baseline,,0,1,100,3,1,1
0,u,baseline,,0,1,200,2,1,1
1,v,repeat,0,1,1,100,3,1,1
1,v,repeat,0,1,1,200,2,1,1
""".encode()


@fuzz(500)
@given(
    table=damaged(CURVES)
    | st.text('0129.,-"\n\r enaif').map(lambda lines: f"{HEAD}\n{lines}".encode()),
    squeezed=st.booleans(),
)
def test_damaged_curves(table: bytes, squeezed: bool, scratch: Path) -> None:
    path = scratch / ("curves.csv.gz" if squeezed else "curves.csv")
    path.write_bytes(gzip.compress(table) if squeezed else table)
    read_or_refused(lambda: Curves.read(path))


@fuzz(100)
@given(table=damaged(gzip.compress(CURVES)))
def test_damaged_curves_that_do_not_unpack(table: bytes, scratch: Path) -> None:
    (scratch / "broken.csv.gz").write_bytes(table)
    read_or_refused(lambda: Curves.read(scratch / "broken.csv.gz"))


def written() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        write_checkpoint({"images_seen": 3, "denoiser": {"weight": torch.arange(6.0)}}, path)
        return path.read_bytes()


@fuzz(500)
@given(content=damaged(written()) | st.binary(max_size=50))
def test_a_damaged_checkpoint(content: bytes, scratch: Path) -> None:
    (scratch / "checkpoint.pt").write_bytes(content)
    read_or_refused(lambda: read_checkpoint(scratch / "checkpoint.pt"))


@pytest.fixture(scope="module")
def network(scratch: Path) -> tuple[dict[str, Any], bytes]:
    """What diffusers writes of a small network: config.json, and its weights."""
    folder = scratch / "network"
    UNetConfig(channels=(8, 8), attention="none").build((1, 8, 8), seed=0).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), (folder / WEIGHTS).read_bytes()


@fuzz(60)
@given(data=st.data())
def test_a_damaged_network(
    data: st.DataObject, network: tuple[dict[str, Any], bytes], scratch: Path
) -> None:
    config, weights = network
    start = bytes(weights[:3000])  # most of the header
    if data.draw(st.booleans()):
        config = data.draw(changed(config))
    else:
        weights = data.draw(damaged(start)) + weights[3000:]
    (scratch / "network" / "config.json").write_text(json.dumps(config))
    (scratch / "network" / WEIGHTS).write_bytes(weights)
    image = torch.zeros(1, 1, 8, 8)
    images = Dataset("noise", image, image, None, None, "")
    denoiser = PretrainedConfig(path=scratch / "network")
    read_or_refused(lambda: denoiser.build_for(images, VPConfig().build(), 0))


@pytest.fixture(scope="module")
def folder(scratch: Path) -> SearchFolder:
    """What a search with a finished trial leaves, damaged by each of the tests below in turn."""
    data = WHOLE | {"name": "old", "storage": str(scratch), "objectives": [{"name": "fd"}]}
    folder = SearchFolder.create(scratch / "old", SearchConfig.model_validate(data))
    with Study.create(folder.study, "old", [Objective("fd")], RandomConfig(), 0) as study:
        study.ask(lambda trial: {"x": trial.suggest_float("x", 0, 1)})
        study.tell(0, "finished", [0.5])
    history = History(folder.history)
    history.add(0, 100, {"fd": 0.7})
    history.add(0, 200, {"fd": 0.5})
    shutil.copytree(folder.path, scratch / "whole")
    return folder


def status(folder: SearchFolder, file: str, content: bytes) -> None:
    """What `status` prints with other content in one of the files."""
    shutil.rmtree(folder.path)
    shutil.copytree(folder.path.parent / "whole", folder.path)
    (folder.path / file).write_bytes(content)
    console = Console(file=io.StringIO())
    read_or_refused(
        lambda: show_report(
            SearchResult.read(run_search.recorded("old", folder.path.parent)), console
        )
    )


@fuzz(150)
@given(content=changed(WHOLE).map(yaml.safe_dump).map(str.encode) | st.binary())
def test_the_status_of_a_search_with_another_configuration(
    content: bytes, folder: SearchFolder
) -> None:
    status(folder, "search.yaml", content)


ENTRY = {"trial": 0, "images_seen": 200, "metrics": {"fd": 0.5, "recall": 0.1}}


@fuzz(80)
@given(
    lines=st.lists(changed(ENTRY).map(json.dumps).map(str.encode) | st.binary(), min_size=1),
    whole=st.booleans(),
)
def test_the_status_of_a_search_with_another_history(
    lines: list[bytes], whole: bool, folder: SearchFolder
) -> None:
    kept = [json.dumps(ENTRY).encode()] if whole else []
    status(folder, "history.jsonl", b"\n".join([*kept, *lines, b""]))


@fuzz(100)
@given(
    at=st.floats(0, 1), length=st.sampled_from([0, 1, 100, 5000, 10**6]), byte=st.integers(0, 255)
)
def test_the_status_of_a_search_with_a_damaged_study(
    at: float, length: int, byte: int, folder: SearchFolder
) -> None:
    study = (folder.path.parent / "whole" / "study.db").read_bytes()
    start = int(at * len(study))
    after = study[start + length :] if length else b""  # 0: cut off
    status(folder, "study.db", study[:start] + bytes([byte]) * length + after)
