"""`data inspect`: what is in a data set, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from stepsearch.diffusion.datasets import ImagesConfig
from tests.cli.conftest import Cli
from tests.cli.test_mistakes import assert_refused


@pytest.fixture
def pictures(photographs: list[Image.Image], tmp_path: Path) -> Path:
    """Six colour photographs of two classes, one of them broken."""
    for number, photograph in enumerate(photographs[:6]):
        folder = tmp_path / "pictures" / ("temple" if number % 3 else "flower")
        folder.mkdir(parents=True, exist_ok=True)
        photograph.save(folder / f"{number}.png")
    (tmp_path / "pictures/flower/0.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


def test_everything_that_is_there_is_counted(cli: Cli, pictures: Path, tmp_path: Path) -> None:
    ending = cli("data", "inspect", "pictures", "--out", "sheet.png")
    assert (ending.code, ending.err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in ending.out.splitlines() if "  " in line)
    assert {key: value.strip() for key, value in rows.items()} == {
        "format": "image files",
        "pictures": "6",
        "classes": "flower (2), temple (4)",
        "sizes": "90x60 (5)",
        "pixels": "RGB (5)",
        "broken": "flower/0.png",
    }
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 60
    line = yaml.safe_load(ending.out.splitlines()[-1])
    config = ImagesConfig.model_validate(line["dataset"])
    assert config.skip_broken
    assert config.size == 60
    assert len(config.load().train) == 4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "dataset.path must exist, got '{cwd}/nowhere'"),
        (["pictures", "--out", "a.txt"],
         "--out must end in one of .png, .jpg, .webp, got 'a.txt'"),
        (["pictures", "--out", "no/a.png"], "--out must be a file that can be written, got "
         "'no/a.png': No such file or directory"),
        (["pictures", "--size", "3"], "size must be at least 4, got 3"),
        (["ftp://a/b"], "path must be a path or an address (s3, gs, az, abfs, hf, https, http) "
         "without credentials and query, got 'ftp://...'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_inspected_is_refused(
    cli: Cli, pictures: Path, tmp_path: Path, words: list[str], line: str
) -> None:
    assert_refused(cli("data", "inspect", *words), line.format(cwd=tmp_path))
