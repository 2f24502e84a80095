"""Files that are no data sets: refused in one line, or with the pictures that are broken."""

from __future__ import annotations

import gzip
import io
import pickle
import shutil
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stepsearch.diffusion.datasets.formats import BROKEN, open_pictures, quiet
from stepsearch.diffusion.datasets.preparing import prepared
from stepsearch.errors import UserError
from tests.diffusion.written import (
    LABELS,
    PIXELS,
    SIDE,
    TEST,
    TRAIN,
    WRITERS,
    archive,
    cifar,
    folder,
    idx,
    load,
    mnist,
    png,
)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load(path)
    return str(error.value)


@pytest.mark.parametrize("name", ["zip", "npz"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_file_that_ends_too_early_is_refused(name: str, keep: float, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    assert refusal(path).startswith("dataset.path must be a file that is whole, got ")


def test_other_files_that_end_too_early_are_refused(tmp_path: Path) -> None:
    path = mnist(tmp_path)
    file = path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:100])
    assert refusal(path).startswith("dataset.path must be a file that is whole, got ")
    file.write_bytes(gzip.compress(idx(PIXELS)[:-1]))
    assert refusal(path) == (
        "dataset.path must hold idx files of uint8 with 3 dimensions, all there, "
        "got train-images-idx3-ubyte.gz"
    )
    path, _ = cifar(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(path).startswith("dataset.path must be a file that is whole, got ")


def test_a_parquet_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    assert refusal(tmp_path).startswith(f"dataset.path must hold Parquet files, got {tmp_path}: ")
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "a.parquet")
    assert refusal(tmp_path) == (
        "dataset.path must hold a column of pictures (image, img, jpg, png, webp), got text, label"
    )


def test_rows_without_a_picture_are_named(tmp_path: Path) -> None:
    images = [png(PIXELS[0]), None, b"no picture"]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    assert refusal(tmp_path) == (
        "dataset.path holds 2 unreadable images: a.parquet row 1, a.parquet row 2"
    )


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"z": PIXELS}, "an array named images, x, data, arr_0, got z: "),
        ({"images": PIXELS / 255}, "pictures as uint8"),
        ({"images": PIXELS[0]}, "got uint8 [8, 8]: "),
        ({"images": np.stack([PIXELS] * 2, -1)}, "got uint8 [40, 8, 8, 2]: "),
        ({"images": PIXELS[:0]}, "got uint8 [0, 8, 8]: "),
        ({"images": PIXELS, "labels": LABELS[:9]}, "got 9 labels of 40 pictures: "),
        ({"images": PIXELS, "labels": LABELS / 2}, "labels as integers [N], got float64 [40]: "),
        ({"images": np.array([{}])}, "must be a file that is whole"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_are_no_pictures_are_refused(
    arrays: dict[str, Any], line: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    assert line in refusal(tmp_path / "a.npz")


def test_arrays_that_would_swell_are_refused(tmp_path: Path) -> None:
    header = struct.pack(">HBB", 0, 8, 3) + struct.pack(">3I", 2**31, 2**20, 2**20)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header)
    assert "got train-images-idx3-ubyte" in refusal(tmp_path / "train-images-idx3-ubyte")


def test_broken_images_are_passed_over_only_if_asked(tmp_path: Path) -> None:
    path = archive(tmp_path)
    with zipfile.ZipFile(path, "a") as out:
        out.writestr("train/3/broken.png", b"no picture")
    assert refusal(path) == "dataset.path holds 1 unreadable image: train/3/broken.png"
    data = load(path, skip_broken=True)
    assert (len(data.train), len(data.held_out)) == (TRAIN, TEST)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, and sometimes an end missing."""
    changed = bytearray(data)
    for position in rng.integers(0, len(changed), 1 + rng.integers(8)):
        changed[position] = rng.integers(256)
    return bytes(changed[: rng.integers(1, len(changed))] if rng.random() < 0.3 else changed)


def one_file(name: str, root: Path) -> Path:
    path = cifar(root)[0] if name == "CIFAR for Python" else WRITERS[name](root)
    if name == "CIFAR for Python":
        shutil.unpack_archive(path, root)
        return root / "cifar-10" / "data_batch_1"
    return next(path.rglob("train*")) if path.is_dir() else path


@pytest.mark.parametrize("name", ["zip", "npz", "idx", "Parquet", "CIFAR for Python"])
def test_damaged_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    file, rng, refused = one_file(name, tmp_path), np.random.default_rng(0), 0
    path, whole = (file if file.suffix in (".zip", ".npz") else file.parent), file.read_bytes()
    for _ in range(150):
        file.write_bytes(damaged(whole, rng))
        try:
            pictures = open_pictures(path)
        except UserError:
            refused += 1
            continue
        for index in range(0, len(pictures), 7):
            with quiet(), suppress(*BROKEN), pictures.read(index) as picture:
                prepared(picture, SIDE, 1)
    assert 0 < refused < 150


def test_a_cifar_pickle_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path(tmp_path / "ran").touch, ()

    (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a"]}))
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": Evil(), b"labels": [0]}))
    with pytest.raises(UserError, match="CIFAR's pickles and nothing else, got data_batch_1"):
        open_pictures(tmp_path)
    assert not (tmp_path / "ran").exists()


# --- what is there besides ----------------------------------------------------------------------


def test_a_packed_twin_of_an_idx_file_is_passed_over(tmp_path: Path) -> None:
    path = mnist(tmp_path)
    for file in path.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    assert len(open_pictures(path)) == TRAIN + TEST


def test_idx_files_of_several_data_sets_are_refused(tmp_path: Path) -> None:
    path = mnist(tmp_path)
    (path / "emnist-letters-train-images-idx3-ubyte").write_bytes(idx(PIXELS))
    assert "must hold idx files of one data set, or be one of them" in refusal(path)
    assert len(open_pictures(path / "emnist-letters-train-images-idx3-ubyte")) == TRAIN + TEST


def test_test_and_validation_arrays_are_both_held_out(tmp_path: Path) -> None:
    arrays = {}
    for part, rows in {"train": slice(20), "val": slice(20, 25), "test": slice(25, 40)}.items():
        arrays |= {f"{part}_images": PIXELS[rows], f"{part}_labels": LABELS[rows, None]}
    np.savez(tmp_path / "medmnist.npz", **arrays)
    data = load(tmp_path / "medmnist.npz")
    assert (len(data.train), len(data.held_out)) == (20, 20)


def test_a_zip_of_a_folder_has_the_folders_classes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        for name in ("cat/0.png", "cat/1.png", "dog/2.png"):
            out.writestr(f"pictures/{name}", png(PIXELS[0]))
            out.writestr(f"__MACOSX/pictures/._{name}", b"what macOS adds")
            out.writestr(f"pictures/.thumbnails/{name}", b"and others")
    pictures = open_pictures(tmp_path / "a.zip")
    assert (list(pictures.classes), len(pictures)) == (["cat", "dog"], 3)


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/cat").symlink_to(tmp_path / "elsewhere")
    assert refusal(tmp_path / "pictures") == (
        "dataset.path must hold no folders that are links, got cat"
    )


def test_hidden_folders_and_links_to_nothing_are_passed_over(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / ".thumbnails").mkdir()
    (path / ".thumbnails/0.png").write_bytes(b"no picture")
    (path / ".#0.png").symlink_to("gone")
    (path / "train/3/gone.png").symlink_to("gone")
    assert len(load(path).train) == TRAIN


def test_parquet_parts_may_be_folders_and_all_files_need_the_column(tmp_path: Path) -> None:
    for part, rows in (("train", slice(30)), ("test", slice(30, 40))):
        (tmp_path / part).mkdir()
        images = [png(pixels) for pixels in PIXELS[rows]]
        table = pa.table({"image": images, "label": LABELS[rows].astype(int)})
        pq.write_table(table, tmp_path / part / "0000.parquet", row_group_size=1)
    data = load(tmp_path)  # by several threads, a row group each
    assert (len(data.train), len(data.held_out)) == (30, 10)
    assert open_pictures(tmp_path).names[0] == "test/0000.parquet row 0"
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "z.parquet")
    with pytest.raises(UserError, match=r"must hold image in all files, got z.parquet"):
        open_pictures(tmp_path)


def test_a_table_beside_image_files_describes_them(tmp_path: Path) -> None:
    path = folder(tmp_path)
    pq.write_table(pa.table({"file_name": ["a"]}), path / "metadata.parquet")
    assert len(load(path).train) == TRAIN


def test_an_array_that_claims_more_than_is_there_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as out, out.open("images.npy", "w") as entry:
        header = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 32, 32)}
        np.lib.format.write_array_header_1_0(entry, header)
    assert "that are all there" in refusal(tmp_path / "a.npz")


def test_damaged_exif_spoils_no_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x9286] = 6, "a camera", b"note"
    rng, refused = np.random.default_rng(0), 0
    stream = io.BytesIO()
    Image.fromarray(PIXELS[0]).resize((24, 16)).save(stream, "JPEG", exif=exif)
    whole = stream.getvalue()
    start = whole.index(b"Exif")
    for _ in range(400):
        changed = bytearray(whole)
        for position in rng.integers(start, start + 90, 3):
            changed[position] = rng.integers(256)
        (tmp_path / "0.jpg").write_bytes(changed)
        try:
            with quiet(), open_pictures(tmp_path).read(0) as picture:
                assert prepared(picture, SIDE, 1).shape == (1, SIDE, SIDE)
        except BROKEN:
            refused += 1
    assert refused < 400


def test_floats_of_an_unknown_range_are_no_picture(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[0] / np.float32(255)).save(tmp_path / "0.tiff")
    assert refusal(tmp_path) == "dataset.path holds 1 unreadable image: 0.tiff"
