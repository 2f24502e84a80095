"""The house: what is importable, what is shipped, and that its arrows point down."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, path: Path = ROOT, cwd: Path = ROOT) -> str:
    """The output of a command with `path` first among Python's search paths."""
    env = os.environ | {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def build(version: str, folder: Path) -> Path:
    """A wheel, unpacked into `folder`: what pip installs, or what it installs for `-e`."""
    pytest.importorskip("hatchling", reason="`pip install hatchling` lets this test build wheels")
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder / "dist"), versions=[version])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_platform_is_the_standard_librarys_with_the_root_first_on_the_path() -> None:
    module = run(sys.executable, "-c", "import platform; print(platform.__file__)")
    assert Path(module).parent == Path(sysconfig.get_path("stdlib"))


def test_the_source_root_holds_one_package_and_no_python_file() -> None:
    root = ROOT / "platform"
    assert list(root.glob("*.py")) == []
    assert [path.name for path in root.iterdir() if path.name != "__pycache__"] == ["stepsearch"]
    assert "/platform/*.py" in (ROOT / ".gitignore").read_text().splitlines()


def test_an_installed_wheel_runs_by_itself(tmp_path: Path) -> None:
    installed = build("standard", tmp_path)
    code = "import run_search, stepsearch.config, pathlib; assert run_search.DEFAULT.is_file()"
    run(sys.executable, "-c", code, path=installed, cwd=tmp_path)
    shipped = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert shipped == {"run_search.py", "search_spaces", "stepsearch", "trainers"}


def test_an_editable_install_copies_no_code(tmp_path: Path) -> None:
    """A copy would be imported instead of the checkout and stay as it was when installed."""
    assert list(build("editable", tmp_path).rglob("*.py")) == []


def test_imports_point_downwards() -> None:
    linter = Path(sysconfig.get_path("scripts")) / "lint-imports"
    report = run(linter, "--no-cache", path=ROOT / "platform")
    assert "0 broken" in report
