"""A folder of latents as a data set: where it lies, and every way in which it is not whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stepsearch.config import parse
from stepsearch.diffusion.datasets import ImagesConfig, LatentsConfig
from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.denoisers import MultistageUNetConfig, PretrainedConfig
from stepsearch.diffusion.denoisers.unet import UNetConfig
from stepsearch.diffusion.noise import VPConfig
from stepsearch.errors import UserError
from tests.latents import write_digits, write_vae


@pytest.fixture
def copy(encoded: Path, tmp_path: Path) -> Path:
    """Of the latents and of their digits, to spoil."""
    shutil.copytree(encoded.parent, tmp_path / "copy")
    return tmp_path / "copy" / encoded.name


def load(folder: Path, **fields: Any) -> Any:
    return parse(LatentsConfig, {"path": str(folder)} | fields, "dataset").load()


def test_latents_stay_on_the_disk(copy: Path) -> None:
    data = load(copy)
    with (copy / "latents.npy").open("r+b") as file:
        file.seek(-2, 2)
        file.write(np.float16(123).tobytes())
    assert data.held_out[-1, -1, -1, -1] == 123
    assert data.train.dtype == torch.float16


def test_the_fingerprint_is_that_of_the_content(copy: Path, encoded: Path) -> None:
    assert load(copy).fingerprint == load(encoded).fingerprint
    edit(copy, digest="0" * 64)
    assert load(copy, pictures="x").fingerprint != load(encoded).fingerprint


def test_decoding_does_not_depend_on_how_many_are_decoded(encoded: Path) -> None:
    data = load(encoded)
    decode = decoder(data.vae, torch.device("cpu"))
    latents = 5 * data.train[:5].float()
    alone = torch.cat([decode(each) for each in latents.split(1)])
    torch.testing.assert_close(decode(latents), alone, rtol=0, atol=1e-5)
    assert alone.shape == (5, 1, 8, 8)
    assert alone.abs().max() == 1  # clipped


def test_stages_are_found_in_latents(encoded: Path) -> None:
    config = MultistageUNetConfig()
    starts = config.starts(load(encoded), VPConfig().build())
    assert 0 < starts[0] < starts[1] < 1000


# --- what is not whole --------------------------------------------------------------------------


def edit(folder: Path, **values: Any) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def cut(folder: Path) -> None:
    file = folder / "latents.npy"
    file.write_bytes(file.read_bytes()[:-100])


def others(folder: Path) -> None:
    np.save(folder / "labels.npy", np.zeros(300, dtype=np.int32))


SPOILED: list[tuple[Callable[[Path], Any], str]] = [
    (lambda at: (at / "manifest.json").unlink(),
     "dataset.path must be a folder that `data encode` has finished, got '{at}'"),
    (lambda at: (at / "manifest.json").write_text("{"),
     "{at}/manifest.json: must be JSON: Expecting property name enclosed in double quotes: line 1 "
     "column 2 (char 1)"),
    (lambda at: edit(at, version=2), "{at}/manifest.json: version must be one of 1, got 2"),
    (lambda at: edit(at, train=0), "{at}/manifest.json: train must be at least 1, got 0"),
    (lambda at: edit(at, train=239), "dataset.path must hold float16 [299, 4, 4, 4] in "
     "latents.npy, as its manifest says, got float16 [300, 4, 4, 4]"),
    (lambda at: edit(at, scaling_factor=3.0),
     "{at}/manifest.json: scaling_factor, shift_factor and shape must be (2.0, 0.1, (4, 4, 4)), "
     "as its autoencoder has them, got (3.0, 0.1, (4, 4, 4))"),
    (cut, "dataset.path must hold a whole latents.npy, got {at}/latents.npy: mmap length is "
     "greater than file size"),
    (lambda at: (at / "latents.npy").unlink(), "dataset.path must hold a whole latents.npy, got "
     "{at}/latents.npy: [Errno 2] No such file or directory: '{at}/latents.npy'"),
    (others, "dataset.path must hold int64 [300] in labels.npy, as its manifest says, got int32 "
     "[300]"),
    (lambda at: shutil.rmtree(at / "vae"),
     "{at}/vae/config.json: must be a readable file: No such file or directory"),
    (lambda at: write_vae(at / "vae", seed=1),
     "dataset.path must hold the autoencoder that made its latents (SHA-256 {vae}...), got "
     "another one: {at}/vae"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "line"), SPOILED)
def test_a_folder_that_is_not_whole_is_refused(
    copy: Path, spoil: Callable[[Path], Any], line: str
) -> None:
    vae = json.loads((copy / "manifest.json").read_text())["vae"][:12]
    spoil(copy)
    with pytest.raises(UserError) as caught:
        load(copy)
    assert str(caught.value) == line.format(at=copy, vae=vae)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"flip": True}, "dataset.flip is not a known key (known keys: kind, path, pictures)"),
        ({"path": 3}, "dataset.path must be a path, got 3"),
        ({"pictures": "ftp://a/b"}, "dataset.pictures: path must be a path or an address (s3, gs, "
         "az, abfs, hf, https, http) without credentials and query, got 'ftp://...'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_every_field_refuses_with_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        load(Path("latents"), **fields)
    assert str(caught.value) == line


# --- the pictures -------------------------------------------------------------------------------


def test_the_pictures_are_those_that_were_encoded(encoded: Path, tmp_path: Path) -> None:
    source = ImagesConfig(path=encoded.parent / "digits.npz", size=8, channels=1)
    pictures = LatentsConfig(path=encoded).pictures_of()
    assert pictures.fingerprint == source.load().fingerprint
    moved = shutil.copy(encoded.parent / "digits.npz", tmp_path / "moved.npz")
    elsewhere = LatentsConfig(path=encoded, pictures=moved).pictures_of()
    assert (elsewhere.fingerprint, elsewhere.name) == (pictures.fingerprint, "digits")


def test_pictures_that_are_gone_or_others_are_refused(encoded: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        LatentsConfig(path=encoded, pictures=tmp_path / "gone").pictures_of()
    assert str(caught.value) == (
        "the judge needs the pictures that were encoded (dataset.pictures says where they are "
        f"now): dataset.path must exist, got '{tmp_path}/gone'"
    )
    write_digits(tmp_path / "fewer.npz", 200)
    with pytest.raises(UserError, match=r"^dataset\.pictures must be those that were encoded"):
        LatentsConfig(path=encoded, pictures=tmp_path / "fewer.npz").pictures_of()


# --- networks of latents ------------------------------------------------------------------------


def test_a_network_of_another_autoencoders_latents_is_refused(
    encoded: Path, tmp_path: Path
) -> None:
    data = load(encoded)
    UNetConfig(channels=(8, 16)).build(data.shape, seed=0).save_pretrained(tmp_path / "unet")
    config = PretrainedConfig(path=tmp_path)
    config.check_latents(data)  # nothing says whose latents it knows
    shutil.copytree(encoded / "vae", tmp_path / "vae")
    config.check_latents(data)
    file = tmp_path / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scaling_factor": 0.5}))
    with pytest.raises(UserError) as caught:
        config.check_latents(data)
    assert str(caught.value) == (
        f"denoiser.path must draw latents of the data set's autoencoder, {encoded}/vae, got a "
        f"pipeline with another one, or with another scale: {tmp_path}/vae"
    )
    write_vae(tmp_path / "vae", seed=1)
    with pytest.raises(UserError, match="with another one"):
        config.check_latents(data)
