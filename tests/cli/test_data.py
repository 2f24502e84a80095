"""`data inspect` and `data encode`: what is in a data set, its latents, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image

from stepsearch.diffusion.datasets import ImagesConfig, LatentsConfig
from tests.cli.conftest import Cli, Ending
from tests.cli.test_mistakes import assert_refused, tree
from tests.latents import write_digits, write_vae


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


# --- encode -------------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    write_vae(tmp_path / "vae")
    return write_digits(tmp_path / "digits.npz", 50)


def encode(cli: Cli, *words: str) -> Ending:
    return cli("data", "encode", "digits.npz", "--vae", "vae", "--out", "latents", *words)


def test_pictures_are_encoded_once(cli: Cli, digits: Path, tmp_path: Path) -> None:
    ending = encode(cli, "--size", "8", "--flip", "--set", "name=small")
    assert (ending.code, ending.err) == (0, "")
    rows = dict(line.split(maxsplit=1) for line in ending.out.splitlines() if "  " in line)
    assert rows["pictures"].strip() == "80, mirrored ones among them; 10 held out"
    assert rows["latents"].strip() == "4x4x4"
    config = LatentsConfig.model_validate(yaml.safe_load(ending.out.splitlines()[-1])["dataset"])
    data = config.load()
    assert (data.name, len(data.train), len(data.held_out)) == ("small", 80, 10)
    before = tree(tmp_path)
    assert encode(cli, "--size", "8", "--flip", "--set", "name=small").out == ending.out
    assert tree(tmp_path) == before


def test_latents_of_another_scale_than_denoisers_expect_are_pointed_out(
    cli: Cli, digits: Path, tmp_path: Path
) -> None:
    write_vae(tmp_path / "vae", scaling_factor=0.18215)
    ending = encode(cli, "--size", "8")
    (line,) = [line for line in ending.out.splitlines() if line.startswith("warning: ")]
    factor = float(line.split("scaling_factor to ")[1].split()[0])
    write_vae(tmp_path / "vae", scaling_factor=factor)
    ending = cli(
        *["data", "encode", "digits.npz", "--vae", "vae", "--out", "others", "--size", "8"]
    )
    assert "warning" not in ending.out
    assert ", standard deviation 1;" in ending.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--size", "9"], "--size must be a multiple of 2, by which the autoencoder reduces "
         "pictures, got 9"),
        (["--size", "2"], "dataset.size must be at least 4, got 2"),
        (["--size", "8", "--set", "split_sed=1"], "dataset.split_sed is not a known key; did you "
         "mean 'split_seed'? (known keys: channels, flip, held_out, kind, name, path, size, "
         "skip_broken, split_seed)"),
        (["--size", "8", "--address", ""], "--address must be local, auto or host:port, got ''"),
        (["--size", "8", "--address", "nowhere:1"], None),
        (["--size", "8", "--vae", "gone"],
         "--vae must hold a config.json, also in vae/, got 'gone'"),
        (["--size", "8", "--out", "digits.npz"], "--out must be a folder that can be written, got "
         "'{cwd}/digits.npz': File exists"),
        (["--size", "8", "--out", "vae"], "--out must be a new folder, or one of an encoding that "
         "was cut off, got 'vae'"),
        (["--size", "8", "--set", "channels=3"],
         "dataset.channels must be 1, as the autoencoder has, got 3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_cannot_be_encoded_is_refused(
    cli: Cli, digits: Path, tmp_path: Path, words: list[str], line: str | None
) -> None:
    ending = encode(cli, *words)
    if line is not None:
        assert_refused(ending, line.format(cwd=tmp_path))
    assert (ending.code, ending.err.count("\n"), ending.err[:7]) == (2, 1, "error: ")


def test_a_folder_of_another_autoencoders_latents_is_refused(
    cli: Cli, digits: Path, tmp_path: Path
) -> None:
    assert encode(cli, "--size", "8").code == 0
    write_vae(tmp_path / "vae", seed=1)
    ending = encode(cli, "--size", "8")
    assert ending.err.startswith(
        "error: --out must be a new folder, or one of the same pictures and autoencoder, got "
    )
    assert (ending.code, ending.err.count("\n")) == (2, 1)
