"""`stages`: boundaries from the command line, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Cli
from tests.cli.test_mistakes import assert_refused, tree


def test_the_boundaries_of_the_digits(cli: Cli, tmp_path: Path) -> None:
    ending = cli("stages", "digits", "--json", "stages.json", "--out", "stages.png")
    assert (ending.code, ending.err) == (0, "")
    found = json.loads((tmp_path / "stages.json").read_text())
    assert found["boundaries"] == pytest.approx([0.097, 0.441], abs=0.01)
    assert found["methods"]["SNR clusters"]["vp"] == [0.348, 0.709]
    assert found["points"] == [1438, 64]
    assert {len(values) for values in found["curves"].values()} == {5000}
    assert f"{found['boundaries'][0]:.3f} {found['boundaries'][1]:.3f}" in ending.out
    assert max(map(len, ending.out.splitlines())) <= 80
    with Image.open(tmp_path / "stages.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize("kernel", ["ve", "edm"])
def test_another_kernel_tells_the_same_boundaries_by_its_clock(
    cli: Cli, tmp_path: Path, kernel: str
) -> None:
    some = ["stages", "digits", "--samples", "500", "--seed", "2", "--json"]
    cli(*some, "vp.json")
    cli(*some, "other.json", "--kernel", kernel)
    vp, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("vp", "other"))
    assert other["sigma"] == vp["sigma"]
    assert other["boundaries"] != pytest.approx(vp["boundaries"])
    assert kernel != "edm" or other["boundaries"] == vp["sigma"]


def test_latents_in_a_file_beside_gradients_and_boundaries_of_ones_own(
    cli: Cli, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "latents.npy", random.standard_normal((300, 4, 4, 4), dtype=np.float32))
    options = ["--n", "4", "--samples", "500", "--json", "stages.json"]
    ending = cli(
        "stages", "latents.npy", *options, "--set", "compare=[0.1, 0.5]", "--set", "gradients=3"
    )
    assert (ending.code, ending.err) == (0, "")
    found = json.loads((tmp_path / "stages.json").read_text())
    assert len(found["boundaries"]) == 3
    assert found["points"] == [300, 64]
    assert found["methods"]["compare"]["vp"] == [0.1, 0.5]
    assert len(found["methods"]["gradient clusters"]["vp"]) == 3
    assert "compare" in ending.out


@pytest.mark.usefixtures("ray_cluster")
def test_a_file_sharded_over_a_cluster(cli: Cli, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "latents.npy", random.standard_normal((301, 4, 4, 4), dtype=np.float32))
    some = ["stages", "latents.npy", "--n", "4", "--samples", "500", "--json"]
    cli(*some, "one.json")
    ending = cli(*some, "two.json", "--address", "local", "--set", "workers=2")
    assert (ending.code, ending.err) == (0, "")
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["boundaries"] == pytest.approx(one["boundaries"])
    assert two["points"] == one["points"] == [301, 64]
    assert two["settings"]["workers"] == 2
    for words in (["digits", "--set", "workers=3"], ["latents.npy", "--set", "workers=400"]):
        ending = cli("stages", *words)
        assert (ending.code, ending.err.count("\n"), ending.out) == (2, 1, "")
        assert ending.err.startswith("error: workers must be at most 2 with one CPU each")


def test_a_folder_of_images(cli: Cli, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in range(20):
        noise = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{i}.png")
    image = ["--set", "size=8", "--set", "channels=1"]
    ending = cli("stages", "pictures", *image, "--samples", "200", "--json", "stages.json")
    assert (ending.code, ending.err) == (0, "")
    assert json.loads((tmp_path / "stages.json").read_text())["points"] == [16, 64]


def test_a_folder_of_latents(cli: Cli, encoded: Path, tmp_path: Path) -> None:
    ending = cli("stages", str(encoded), "--samples", "200", "--json", "stages.json")
    assert (ending.code, ending.err) == (0, "")
    assert json.loads((tmp_path / "stages.json").read_text())["points"] == [240, 64]


WRONG = [
    (["digits", "--n", "1"], "n must be at least 2, got 1"),
    (["digits", "--n", "6"], "n must be at most 5, got 6"),
    (["digits", "--samples", "10"], "samples must be at least 100, got 10"),
    (["digits", "--seed", "-1"], "seed must be at least 0, got -1"),
    (["digits", "--kernel", "vpp"], "kernel must be one of 'vp', 've' or 'edm', got 'vpp'"),
    (["digits", "--set", "alpha=1"], "alpha must be less than 1, got 1"),
    (["digits", "--set", "eta=0"], "eta must be greater than 0, got 0"),
    (["digits", "--set", "memory=0"], "memory must be at least 1, got 0"),
    (["digits", "--set", "device=gpu"], None),
    (["digits", "--set", "device=meta"], None),
    (["digits", "--set", "gradients=-1"], "gradients must be at least 0, got -1"),
    (["digits", "--set", "signed=3"], None),
    (["digits", "--set", "workers=0"], "workers must be at least 1, got 0"),
    (["digits", "--set", "workers=two"], "workers must be an integer, got 'two'"),
    (["digits", "--address", "local", "--set", "gradients=5"],
     "gradients must be 0 where the data set is sharded: one process trains on all of it, got 5"),
    (["digits", "--set", "compare=[0.6, 0.4]"],
     "compare must be one to four times 0 < t_1 < t_2 < ... < 1, got [0.6, 0.4]"),
    (["digits", "--set", "compare=[0.4, 1.0]"],
     "compare must be one to four times 0 < t_1 < t_2 < ... < 1, got [0.4, 1.0]"),
    (["digits", "--set", "alhpa=0.8"],
     "dataset.alhpa is not a known key (known keys: kind, split_seed)"),
    (["noise.npy", "--set", "alhpa=0.8"],
     "alhpa is not a known key; did you mean 'alpha'? (known keys: alpha, compare, device, eta, "
     "gradients, kernel, memory, n, samples, seed, signed, workers)"),
    (["digist"],
     "DATASET must be one of digits, the path or address of images, or a .npy file, got 'digist'"),
    (["images"],
     "DATASET must be one of digits, the path or address of images, or a .npy file, got 'images'"),
    (["latents"], "DATASET must be one of digits, the path or address of images, or a .npy file, "
     "got 'latents'"),
    (["searches"], "dataset.size is required"),
    (["gone.npy"], "DATASET must be a .npy file, got 'gone.npy': [Errno 2] No such file or "
     "directory: 'gone.npy'"),
    (["text.npy"], None),
    (["whole.npy"],
     "DATASET must hold uint8 (pixels) or floats (latents), got int64 in whole.npy"),
    (["one.npy"], "the data set must hold at least 2 images, got 1"),
    (["same.npy"], "the data set must hold at least 2 different images, got 5 identical ones"),
    (["digits", "--samples", "200", "--json", "no/where.json"],
     "--json must be a file that can be written, got 'no/where.json': No such file or directory"),
    (["digits", "--samples", "200", "--out", "no/where.png"],
     "--out must be a file that can be written, got 'no/where.png': No such file or directory"),
    (["digits", "--out", "searches"],
     "--out must be a file that can be written, got 'searches': Is a directory"),
    (["digits", "--samples", "200", "--out", "figure.docx"], None),
]  # fmt: skip


@pytest.mark.parametrize(("words", "line"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, words: list[str], line: str | None
) -> None:
    np.save(tmp_path / "one.npy", np.zeros((1, 3, 4, 4), dtype=np.uint8))
    np.save(tmp_path / "same.npy", np.full((5, 3, 4, 4), 7, dtype=np.uint8))
    np.save(tmp_path / "whole.npy", np.arange(20).reshape(5, 4))
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).random((50, 1, 4, 4)))
    (tmp_path / "text.npy").write_text("no array")
    before = tree(tmp_path)
    ending = cli("stages", *words)
    if line is not None:
        assert_refused(ending, line)
    assert (ending.code, ending.err.count("\n"), ending.err[:7]) == (2, 1, "error: ")
    assert tree(tmp_path) == before
