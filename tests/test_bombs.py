"""Files that would swell, run or wander: refused in one line, before they do."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

import run_search
from stepsearch.diffusion.checkpoints import read_checkpoint
from stepsearch.diffusion.datasets import ImagesConfig
from stepsearch.errors import UserError
from stepsearch.sampling.bundle import load_strategy
from stepsearch.search.files import MAX_BYTES, assignments, read_yaml, to_yaml
from stepsearch.simulation.curves import Curves

ROOT = Path(run_search.__file__).parent

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (LAUGHS, "must be written without aliases"),
        ("a: &a [*a]", "must be written without aliases"),
        ("a: " + "[" * 100_000, "must not be nested deeper than 20"),
        ("a: " + "{b: " * 10_000, "must not be nested deeper than 20"),
        ("a: " + "- " * 10_000, "FILE must be YAML"),
        ("a: " + "9" * 10_000, "FILE must be YAML"),
        ("a: !!python/object/apply:os.system [touch ran]", "could not determine a constructor"),
        ("#" * (MAX_BYTES + 1), f"FILE must have at most {MAX_BYTES} bytes, got more"),
    ],
    ids=["laughs", "itself", "lists", "mappings", "items", "digits", "code", "bytes"],
)
def test_a_search_file_that_swells_is_refused(
    text: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^FILE must") as refused:
        read_yaml(Path("a.yaml"))
    assert line in str(refused.value)
    assert os.listdir() == ["a.yaml"], "nothing ran"


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(UserError, match="at most"):
        read_yaml(Path("/dev/zero"))


def test_what_is_written_has_no_aliases(tmp_path: Path) -> None:
    same = [1, 2]
    (tmp_path / "a.yaml").write_text(to_yaml({"a": same, "b": same}))
    assert read_yaml(tmp_path / "a.yaml") == {"a": same, "b": same}


@pytest.mark.parametrize("text", [".".join("a" * 5000) + "=1", "a=" + "[" * 5000])
def test_a_deep_assignment_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^--set"):
        assignments([text])


def test_a_home_that_nobody_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nspace: speed\nstorage: ~nobody-at-all/x")
    with pytest.raises(UserError, match="storage: there is no such user's home, got '~nobody-at"):
        run_search.load(tmp_path / "a.yaml", [])


def test_a_warm_start_does_not_leave_the_storage(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\nspace: speed\nwarm_start: ../../elsewhere")
    with pytest.raises(UserError, match="warm_start must be a string that matches"):
        run_search.load(tmp_path / "a.yaml", [])


def test_a_strategy_that_swells_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "strategy.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="must be JSON: maximum recursion"):
        load_strategy(path)
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole; takes no room
    with pytest.raises(UserError, match="must have at most 33554432 bytes, got more"):
        load_strategy(path)


UNPACK = """
import re, sys
from pathlib import Path
from stepsearch.errors import UserError
from stepsearch.simulation.curves import Curves
try:
    Curves.read(Path(sys.argv[1]))
except UserError as error:
    print(error)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(int(peak[1]) < 2**20, file=sys.stderr)  # getrusage would count the parent's as well
"""


def test_curves_that_unpack_without_end_are_refused(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.csv.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(1024):  # 1 GiB in 5 MB
            file.write(bytes(2**20))
    paths = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    ended = subprocess.run(
        [sys.executable, "-c", UNPACK, str(bomb)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "it must have at most 67108864 bytes, unpacked" in ended.stdout
    assert ended.stderr == "True\n", "it took less than a gigabyte of memory"


def test_curves_with_columns_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "wide.csv").write_text("a,b\n" + "," * 100_000)
    with pytest.raises(UserError, match="it must have at most 1000 columns"):
        Curves.read(tmp_path / "wide.csv")


class Ran:
    """What unpickling it does is seen."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_a_checkpoint_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Ran()}, "code.pt")
    with pytest.raises(UserError, match=r"checkpoint 'code.pt' is unreadable: Weights only load"):
        read_checkpoint(Path("code.pt"))
    Path("pickle.pt").write_bytes(pickle.dumps(Ran()))
    with pytest.raises(UserError, match=r"checkpoint 'pickle.pt' is unreadable: .*not a zip"):
        read_checkpoint(Path("pickle.pt"))
    assert not Path("ran").exists()


def test_a_checkpoint_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(2**20))
    with pytest.raises(UserError, match="it is compressed, as no checkpoint is"):
        read_checkpoint(path)


def test_a_checkpoint_holds_a_mapping(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="is unreadable: it holds a list"):
        read_checkpoint(tmp_path / "list.pt")


def dataset(path: Path) -> ImagesConfig:
    return ImagesConfig(path=path, size=8, held_out=0.5)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two images, and room for a third."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def png(width: int, height: int) -> bytes:
    """An image of so many pixels, all black, in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    lines = zlib.compress(bytes((width // 8 + 1) * height))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [11_000, 20_000])
def test_an_image_that_unpacks_without_end_is_refused(side: int, pictures: Path) -> None:
    (pictures / "bomb.png").write_bytes(png(side, side))
    with pytest.raises(UserError, match=r"dataset.path holds 1 unreadable image: bomb.png"):
        dataset(pictures).load()


def test_a_large_photograph_is_not_a_bomb(pictures: Path) -> None:
    (pictures / "large.png").write_bytes(png(10_000, 9_900))
    images = dataset(pictures).load()
    assert len(images.train) + len(images.held_out) == 3


def test_an_image_of_a_kind_that_pillow_gives_to_another_program_is_refused(
    pictures: Path,
) -> None:
    Image.new("RGB", (8, 8)).save(pictures / "c.eps")
    (pictures / "c.eps").rename(pictures / "c.png")
    with pytest.raises(UserError, match=r"dataset.path holds 1 unreadable image: c.png"):
        dataset(pictures).load()


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(
    pictures: Path, tmp_path: Path
) -> None:
    (pictures / "again.png").symlink_to("a.png")
    images = dataset(pictures).load()
    assert len(images.train) + len(images.held_out) == 3
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    (pictures / "link.png").symlink_to("../private.png")
    (tmp_path / "link").symlink_to(pictures)
    with pytest.raises(UserError, match=r"must hold no links that lead out of it, got link.png"):
        dataset(tmp_path / "link").load()
