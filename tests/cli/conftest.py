"""The commands, typed as a user types them, in a folder of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import run_search
from stepsearch.search.config import SearchConfig
from stepsearch.search.folder import SearchFolder
from stepsearch.study import Objective, RandomConfig, Study

SMALL = {
    "name": "small",
    "space": {"kind": "speed"},
    "trainer": {
        "kind": "denoising",
        "denoiser": {"kind": "unet", "channels": [8, 16]},
        "training": {"batch_size": 32},
        "sampler": {"num_steps": 2},
        "judge": {"samples": 64, "classifier": {"budget": 1000}},
    },
    "budget": {"trials": 2, "images": 320},
    "lanes": {"count": 1},
}


@dataclass(frozen=True)
class Ending:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ending]


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """cli("run", "small.yaml"): the command in an empty folder that holds small.yaml."""
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "searches").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def type_(*words: str) -> Ending:
        monkeypatch.setattr(sys, "argv", ["run_search.py", *words])
        with pytest.raises(SystemExit) as ended:
            run_search.main()
        said = capsys.readouterr()
        return Ending(int(ended.value.code or 0), said.out, said.err)

    return type_


Recorded = Callable[..., Path]


@pytest.fixture
def recorded_search(tmp_path: Path) -> Recorded:
    """recorded_search("old"): what a search without any ended trial leaves in its folder."""

    def record(name: str = "old") -> Path:
        storage = tmp_path / "searches"
        objectives = [{"name": "fd_digits"}]
        data = SMALL | {"name": name, "storage": str(storage), "objectives": objectives}
        folder = SearchFolder.create(storage / name, SearchConfig.model_validate(data))
        Study.create(folder.study, name, [Objective("fd_digits")], RandomConfig(), seed=0).close()
        return folder.path

    return record
