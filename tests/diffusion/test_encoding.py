"""`data encode`'s work: what the folder holds, going on after a kill, other work refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from filelock import FileLock

from stepsearch.diffusion.autoencoder import Autoencoder
from stepsearch.diffusion.datasets import ImagesConfig, LatentsConfig, shards
from stepsearch.diffusion.datasets.encoding import Encoding
from stepsearch.diffusion.datasets.latents import decoder
from stepsearch.diffusion.datasets.shards import Encoded, Pixels, Run, Shard, encode_here
from stepsearch.errors import UserError
from stepsearch.pixels import scaled
from tests.latents import write_digits, write_vae

N = 60
EACH = 8
"""Pictures of a shard, of which there are 9: the held-out pictures begin another one."""


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shards, "_MOST", EACH)
    return write_digits(tmp_path / "digits.npz", N)


def encoding(digits: Path, vae: Path, out: str = "latents", **fields: Any) -> Encoding:
    config = ImagesConfig(path=digits, **{"size": 8} | fields)
    return Encoding.of(config, vae, digits.parent / out)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def only(numbers: list[int], stop_after: int | None = None) -> Run:
    """Notes which shards it encodes."""

    def run(
        autoencoder: Autoencoder, todo: Sequence[Shard], read: Callable[[Shard], Pixels]
    ) -> Iterator[Encoded]:
        for encoded in encode_here(4)(autoencoder, todo, read):
            if len(numbers) == stop_after:
                raise KeyboardInterrupt
            numbers.append(encoded.shard.number)
            yield encoded

    return run


# --- what is encoded ----------------------------------------------------------------------------


def test_latents_are_the_posteriors_means_on_the_scale_of_the_autoencoder(
    digits: Path, vae: Path
) -> None:
    manifest = encoding(digits, vae).run(encode_here(4))
    data = LatentsConfig(path=digits.parent / "latents").load()
    pictures = ImagesConfig(path=digits, size=8, channels=1).load()
    network = AutoencoderKL.from_pretrained(vae)
    for latents, images in (
        (data.train, pictures.train),
        (data.held_out, pictures.held_out),
    ):
        with torch.no_grad():
            posterior = network.encode(scaled(images)).latent_dist
            decoded = network.decode(latents.float() / 2 + 0.1).sample.clamp(-1, 1)
        torch.testing.assert_close(
            latents.float(), (posterior.mean - 0.1) * 2, rtol=1e-3, atol=1e-3
        )
        ours = decoder(data.vae, torch.device("cpu"))(latents.float())
        torch.testing.assert_close(ours, decoded, rtol=0, atol=1e-5)
    with torch.no_grad():
        every = network.encode(scaled(torch.cat([pictures.train, pictures.held_out]))).latent_dist
    numbers = torch.cat([data.train, data.held_out]).double()
    assert manifest.mean == pytest.approx(float(numbers.mean()))
    assert manifest.std == pytest.approx(float(numbers.std(correction=0)))
    assert manifest.posterior_std == pytest.approx(2 * float(every.var.mean().sqrt()), rel=1e-4)
    assert data.train_labels is not None
    assert pictures.train_labels is not None
    assert torch.equal(data.train_labels, pictures.train_labels)
    assert (data.name, data.shape) == ("digits", (4, 4, 4))


def test_mirrored_pictures_come_after_the_others(digits: Path, vae: Path) -> None:
    encoding(digits, vae, "plain").run(encode_here(4))
    encoding(digits, vae, "both", flip=True).run(encode_here(4))
    plain, both = (LatentsConfig(path=digits.parent / name).load() for name in ("plain", "both"))
    n = len(plain.train)
    assert len(both.train) == 2 * n
    assert torch.equal(both.train[:n], plain.train)
    assert torch.equal(both.held_out, plain.held_out)
    assert not torch.allclose(both.train[n:], plain.train.flip(3))
    pictures = ImagesConfig(path=digits, size=8, channels=1).load()
    network = AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        mean = network.encode(scaled(pictures.train.flip(3))).latent_dist.mean
    torch.testing.assert_close(both.train[n:].float(), (mean - 0.1) * 2, rtol=1e-3, atol=1e-3)
    assert both.train_labels is not None
    assert torch.equal(both.train_labels[:n], both.train_labels[n:])


def test_a_pipelines_autoencoder_is_found_and_copied(digits: Path, tmp_path: Path) -> None:
    write_vae(tmp_path / "pipeline" / "vae", shift_factor=None)
    encoding(digits, tmp_path / "pipeline").run(encode_here(4))
    assert files(digits.parent / "latents" / "vae") == files(tmp_path / "pipeline" / "vae")
    manifest = json.loads((digits.parent / "latents/manifest.json").read_text())
    assert (manifest["scaling_factor"], manifest["shift_factor"]) == (2.0, 0.0)


# --- going on -----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from stepsearch.diffusion.datasets import ImagesConfig, encoding, shards

shards._MOST = int(sys.argv[3])
whole, kept = np.savez, []

def cut_off(file, **arrays):
    kept.append(file)
    if len(kept) == 4:
        file.write(b"half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    whole(file, **arrays)

np.savez = cut_off
digits, vae = Path(sys.argv[1]), Path(sys.argv[2])
config = ImagesConfig(path=digits, size=8)
encoding.Encoding.of(config, vae, digits.parent / "killed").run(shards.encode_here(4))
"""


def test_a_killed_encoding_goes_on_to_the_same_bytes(digits: Path, vae: Path) -> None:
    encoding(digits, vae, "whole").run(encode_here(4))
    platform = Path(__file__).parents[2] / "platform"
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, digits, vae, str(EACH)],
        env=os.environ | {"PYTHONPATH": str(platform), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    with pytest.raises(UserError, match="must be a folder that `data encode` has finished"):
        LatentsConfig(path=digits.parent / "killed").load()
    numbers: list[int] = []
    encoding(digits, vae, "killed").run(only(numbers))
    assert numbers == [3, 4, 5, 6, 7, 8]
    assert files(digits.parent / "killed") == files(digits.parent / "whole")


def test_a_damaged_shard_is_encoded_again(digits: Path, vae: Path) -> None:
    encoding(digits, vae, "whole").run(encode_here(4))
    numbers: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        encoding(digits, vae).run(only(numbers, stop_after=5))
    shard = digits.parent / "latents/shards/000002.npz"
    shard.write_bytes(shard.read_bytes()[:-30])
    encoding(digits, vae).run(only(numbers))
    assert numbers == [0, 1, 2, 3, 4, 2, 5, 6, 7, 8]
    assert files(digits.parent / "latents") == files(digits.parent / "whole")


def test_a_finished_folder_is_left_as_it_is(digits: Path, vae: Path) -> None:
    first = encoding(digits, vae).run(encode_here(4))
    before, numbers = files(digits.parent / "latents"), []
    assert encoding(digits, vae).run(only(numbers)) == first
    assert (numbers, files(digits.parent / "latents")) == ([], before)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"vae": 1}, "has autoencoder {old}, not {new}"),
        ({"size": 16}, "has size 8, not 16"),
        ({"flip": True}, "has flip False, not True"),
        ({"name": "others"}, "has name digits, not others"),
        ({"held_out": 0.5}, "has pictures {old}, not {new}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_folder_of_other_latents_is_refused(
    digits: Path, vae: Path, tmp_path: Path, finished: bool, changes: dict[str, Any], line: str
) -> None:
    first = encoding(digits, vae)
    if finished:
        first.run(encode_here(4))
    else:
        with pytest.raises(KeyboardInterrupt):
            first.run(only([], stop_after=2))
    before = files(digits.parent / "latents")
    fields = dict(changes)
    other = write_vae(tmp_path / "other", seed=fields.pop("vae")) if "vae" in changes else vae
    second = encoding(digits, other, **fields)
    names = {"old": first.source.vae[:12], "new": second.source.vae[:12]}
    if "held_out" in changes:
        names = {"old": first.source.fingerprint, "new": second.source.fingerprint}
    with pytest.raises(UserError) as caught:
        second.run(encode_here(4))
    assert str(caught.value) == (
        "--out must be a new folder, or one of the same pictures and autoencoder, got "
        f"'{digits.parent / 'latents'}', which {line.format(**names)}"
    )
    assert files(digits.parent / "latents") == before


def test_a_folder_of_something_else_is_refused(digits: Path, vae: Path) -> None:
    with pytest.raises(UserError, match=r"^--out must be a new folder, or one of an encoding"):
        encoding(digits, vae, ".").run(encode_here(4))


def test_a_folder_that_another_process_fills_is_refused(digits: Path, vae: Path) -> None:
    out = digits.parent / "latents"
    out.mkdir()
    with (
        FileLock(out / ".lock"),
        pytest.raises(UserError, match=r"^--out must not be in use, got "),
    ):
        encoding(digits, vae).run(encode_here(4))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"_class_name": "VQModel"}, "_class_name must be 'AutoencoderKL', got 'VQModel'"),
        ({"scaling_factor": 0}, "scaling_factor must be greater than 0, got 0"),
        ({"in_channels": 3}, "out_channels must be in_channels (3), got 1"),
        ({"in_channels": 4}, "in_channels must be one of 1 or 3, got 4"),
        ({"latent_channels": 65}, "latent_channels must be at most 64, got 65"),
        ({"latents_mean": [0.0] * 4},
         "latents_mean must be null, got [0.0, 0.0, 0.0, 0.0]"),
        ({"block_out_channels": [8] * 9}, "block_out_channels must be a list of 8 or fewer, got "
         "[8, 8, 8, 8, 8, 8, 8, 8, 8]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_an_autoencoder_of_another_kind_is_refused(
    digits: Path, tmp_path: Path, settings: dict[str, Any], line: str
) -> None:
    config = write_vae(tmp_path / "vae") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    with pytest.raises(UserError) as caught:
        encoding(digits, tmp_path / "vae")
    assert str(caught.value) == f"{config}: {line}"


def test_weights_that_do_not_fit_are_refused(digits: Path, tmp_path: Path) -> None:
    config = write_vae(tmp_path / "vae") / "config.json"
    config.write_text(config.read_text().replace('"latent_channels": 4', '"latent_channels": 8'))
    with pytest.raises(UserError, match=r"^--vae must hold weights that fit its config\.json"):
        encoding(digits, tmp_path / "vae").run(encode_here(4))
    (tmp_path / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"^--vae must hold its weights in one file diffusion"):
        encoding(digits, tmp_path / "vae")
    with pytest.raises(UserError, match=r"^--vae must hold a config\.json, also in vae/, got "):
        encoding(digits, tmp_path / "nowhere")


def test_a_size_that_the_autoencoder_does_not_halve_is_refused(digits: Path, vae: Path) -> None:
    with pytest.raises(UserError, match=r"^--size must be a multiple of 2, by which .*, got 9$"):
        encoding(digits, vae, size=9)


def test_latents_beyond_float16_are_refused(digits: Path, tmp_path: Path) -> None:
    write_vae(tmp_path / "vae", scaling_factor=1e9)
    with pytest.raises(UserError, match=r"^--vae must give latents within the range of float16"):
        encoding(digits, tmp_path / "vae").run(encode_here(4))
    assert np.load(digits)["images"].shape == (N, 8, 8)
