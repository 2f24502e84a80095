"""Datasets: the digits and a folder of real photographs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from sklearn.datasets import load_digits

from stepsearch.config import parse
from stepsearch.diffusion.datasets import (
    DATASETS,
    AnyDataset,
    Dataset,
    DigitsConfig,
    ImagesConfig,
)
from stepsearch.errors import UserError
from stepsearch.pixels import scaled
from tests.diffusion.written import as_trained


@pytest.fixture
def folder(photographs: list[Image.Image], tmp_path: Path) -> Callable[..., Path]:
    """folder(["a/0.png", "b/1.jpg"]): a folder with a photograph under each name."""

    def write(names: Sequence[str], name: str = "holiday") -> Path:
        root = tmp_path / name
        for photograph, file in zip(photographs, names, strict=False):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            photograph.save(root / file)
        return root

    return write


def load(path: Path, **fields: Any) -> Dataset:
    return as_trained(parse(ImagesConfig, {"path": str(path), "size": 16} | fields).load())


NEEDED: dict[str, dict[str, Any]] = {
    "images": {"path": "x", "size": 8},
    "latents": {"path": "x"},
}
FLAT = [f"{i:02}.png" for i in range(10)]


# --- both kinds ---------------------------------------------------------------------------------


def test_the_table_and_the_union_name_the_same_kinds() -> None:
    for kind, config in DATASETS.items():
        fields = {"kind": kind} | NEEDED.get(kind, {})
        assert type(TypeAdapter(AnyDataset).validate_python(fields)) is config
    with pytest.raises(ValidationError, match="'digits', 'images'"):
        TypeAdapter(AnyDataset).validate_python({"kind": "mnist"})


@pytest.mark.parametrize("kind", DATASETS)
def test_every_dataset_keeps_the_contract(
    kind: str, folder: Callable[..., Path], encoded: Path
) -> None:
    places = {"images": {"path": folder(FLAT), "size": 16}, "latents": {"path": encoded}}
    fields = places.get(kind, {})
    config = DATASETS[kind].model_validate(fields)
    dataset = config.load()
    assert dataset.train.dtype == dataset.held_out.dtype
    for images in (scaled(dataset.train), scaled(dataset.held_out)):
        assert images.dtype == torch.float32
        assert images.shape[1:] == dataset.shape
        assert dataset.vae or images.min() >= -1
        assert dataset.vae or images.max() <= 1
        assert images.std() > 0.1
    pictures = config.pictures_of()
    assert pictures.vae is None
    assert len(pictures.train) == len(dataset.train)
    assert pictures.name == dataset.name
    assert dataset is DATASETS[kind].model_validate(fields).load()
    assert dataset.name.isidentifier()


def test_the_fingerprint_follows_content_and_split(folder: Callable[..., Path]) -> None:
    one, same = load(folder(FLAT, "one")), load(folder(FLAT, "same"))
    fingerprints = [
        load(folder(FLAT, "split"), split_seed=1).fingerprint,
        load(folder(FLAT, "size"), size=8).fingerprint,
        load(folder(FLAT[:9], "fewer")).fingerprint,
        load(folder([f"a/{name}" for name in FLAT], "labelled")).fingerprint,
    ]
    assert one.fingerprint == same.fingerprint
    assert len({one.fingerprint, *fingerprints}) == 5


# --- digits -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_with_a_fifth_of_each_class_held_out() -> None:
    dataset = DigitsConfig().load()
    assert dataset.shape == (1, 8, 8)
    assert dataset.train_labels is not None
    assert dataset.held_out_labels is not None
    images = torch.cat([dataset.train, dataset.held_out]).flatten(1)
    labels = torch.cat([dataset.train_labels, dataset.held_out_labels])
    digits = load_digits()
    assert sorted(map(tuple, np.c_[images.numpy(), labels])) == sorted(
        map(tuple, np.c_[digits.data / 8 - 1, digits.target])
    )
    held_out = np.bincount(dataset.held_out_labels) / np.bincount(digits.target)
    np.testing.assert_allclose(held_out, 0.2, atol=0.003)


def test_digits_have_another_split_with_another_seed() -> None:
    assert not torch.equal(DigitsConfig().load().train, DigitsConfig(split_seed=1).load().train)


# --- folders of images --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "webp", "bmp", "tiff", "gif"])
def test_a_folder_may_hold_any_common_type(suffix: str, folder: Callable[..., Path]) -> None:
    dataset = load(folder([f"{i}.{suffix}" for i in range(5)]))
    reference = load(folder(FLAT[:5], "reference"))
    assert dataset.train.shape == (4, 3, 16, 16)
    assert dataset.held_out.shape == (1, 3, 16, 16)
    assert (dataset.train - reference.train).abs().mean() < 0.1  # but for lossy compression


def test_images_are_cropped_to_the_centre_and_resized_with_antialiasing(
    folder: Callable[..., Path], photographs: list[Image.Image]
) -> None:
    dataset = load(folder(FLAT[:5]), held_out=0.2)
    images = torch.cat([dataset.train, dataset.held_out])
    for photograph in photographs[:5]:
        centre = torch.from_numpy(np.asarray(photograph.crop((15, 0, 75, 60)), dtype=np.float32))
        expected = torch.nn.functional.interpolate(
            centre.permute(2, 0, 1)[None] / 127.5 - 1, 16, mode="bicubic", antialias=True
        )
        assert (images - expected).abs().flatten(1).mean(1).min() < 0.02


def test_grey_images_have_one_channel(folder: Callable[..., Path]) -> None:
    colour = load(folder(FLAT))
    grey = load(folder(FLAT), channels=1)
    assert grey.shape == (1, 16, 16)
    luma = (colour.train * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(grey.train, luma, rtol=0, atol=0.03)


def test_subfolders_are_classes_in_alphabetical_order(folder: Callable[..., Path]) -> None:
    flowers = [f"flowers/{i}.png" for i in range(5)]
    temples = [f"temples/china/{i}.png" for i in range(10)]
    dataset = load(folder([*flowers, *temples]))
    assert dataset.train_labels is not None
    assert dataset.held_out_labels is not None
    assert torch.bincount(dataset.train_labels).tolist() == [4, 8]
    assert torch.bincount(dataset.held_out_labels).tolist() == [1, 2]


def test_images_beside_subfolders_have_no_classes(folder: Callable[..., Path]) -> None:
    dataset = load(folder(["a/0.png", "a/1.png", "b/2.png", "b/3.png", "4.png"]))
    assert dataset.train_labels is None
    assert len(dataset.train) == 4


def test_hidden_and_other_files_are_passed_over(folder: Callable[..., Path]) -> None:
    path = folder(FLAT)
    (path / "notes.txt").write_text("no image")
    (path / "._00.png").write_bytes(b"what macOS leaves")
    (path / "folder.png").mkdir()
    assert len(load(path).train) == 8


def test_the_name_is_the_folders_fit_for_a_metric(folder: Callable[..., Path]) -> None:
    assert load(folder(FLAT, "My Holiday (2026)")).name == "my_holiday_2026"
    assert load(folder(FLAT), name="CIFAR-10").name == "cifar_10"


def test_a_relative_path_does_not_change_with_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ImagesConfig(path=Path("images"), size=8).path == tmp_path / "images"
    assert ImagesConfig(path=Path("~/images"), size=8).path == Path.home() / "images"


def save_all(path: Path, image: Image.Image, suffix: str = "png", **options: Any) -> Path:
    path.mkdir()
    for i in range(5):
        image.save(path / f"{i}.{suffix}", **options)
    return path


def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    clear_red = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert (load(save_all(tmp_path / "clear", clear_red)).train == 1).all()
    palette = Image.new("RGB", (20, 20), "red").quantize(4)
    assert (load(save_all(tmp_path / "palette", palette, transparency=0)).train == 1).all()


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    middle = Image.fromarray(np.full((20, 20), 128 * 256, dtype=np.uint16))
    images = load(save_all(tmp_path / "deep", middle), channels=1).train
    torch.testing.assert_close(images, torch.full_like(images, 128 / 127.5 - 1))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_a_photograph_is_turned_upright(
    suffix: str, photographs: list[Image.Image], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    turned = save_all(tmp_path / "turned", photographs[0].rotate(180), suffix, exif=exif)
    upright = save_all(tmp_path / "upright", photographs[0])
    assert torch.equal(load(turned).train, load(upright).train)


# --- bad input ----------------------------------------------------------------------------------


def refusal(path: Path, **fields: Any) -> str:
    with pytest.raises(UserError) as error:
        load(path, **fields)
    return str(error.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert refusal(absent) == f"dataset.path must exist, got '{absent}'"


def test_a_single_image_is_no_data_set(folder: Callable[..., Path]) -> None:
    file = folder(FLAT) / "00.png"
    assert refusal(file) == (
        "dataset.path must be a folder of image files, a zip of them, npz, Parquet, idx or CIFAR "
        f"for Python, got '{file}'"
    )


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        "dataset.path holds no images"
        f" (.bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp): {tmp_path}"
    )


def test_too_few_images_to_hold_one_out_are_refused(folder: Callable[..., Path]) -> None:
    path = folder(FLAT[:2])
    assert refusal(path) == (
        f"dataset.path must hold enough images to hold out 0.2 of them, got 2: {path}"
    )


def test_all_unreadable_images_are_named(folder: Callable[..., Path]) -> None:
    path = folder(["a.png", "dogs/b.jpg", "c.png", "d.png"])
    (path / "a.png").write_bytes((path / "a.png").read_bytes()[:1000])
    (path / "dogs/b.jpg").write_bytes((path / "dogs/b.jpg").read_bytes()[:500])
    assert refusal(path) == "dataset.path holds 2 unreadable images: a.png, dogs/b.jpg"
    (path / "a.png").unlink()
    assert refusal(path, size=8) == "dataset.path holds 1 unreadable image: dogs/b.jpg"


def test_many_unreadable_images_are_counted(tmp_path: Path) -> None:
    for i in range(13):
        (tmp_path / f"{i:02}.png").write_bytes(b"not an image")
    assert refusal(tmp_path).startswith("dataset.path holds 13 unreadable images: 00.png, 01.png,")
    assert refusal(tmp_path).endswith(", 09.png and 3 more")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": 3}, "dataset.path must be a path, got 3"),
        ({"size": 2}, "dataset.size must be at least 4, got 2"),
        ({"size": 2000}, "dataset.size must be at most 1024, got 2000"),
        ({"size": "big"}, "dataset.size must be an integer, got 'big'"),
        ({"channels": 2}, "dataset.channels must be one of 1 or 3, got 2"),
        ({"name": "--"}, "dataset.name must hold a letter or digit, got '--'"),
        ({"held_out": 0}, "dataset.held_out must be greater than 0, got 0"),
        ({"held_out": 1}, "dataset.held_out must be less than 1, got 1"),
        ({"split_seed": -1}, "dataset.split_seed must be at least 0, got -1"),
    ],
)
def test_bad_fields_of_a_folder_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(ImagesConfig, {"path": "images", "size": 8} | fields, "dataset")
    assert str(error.value) == message


def test_a_folder_needs_a_path_and_a_size() -> None:
    with pytest.raises(UserError, match=r"^dataset.path is required$"):
        parse(ImagesConfig, {"size": 8}, "dataset")
    with pytest.raises(UserError, match=r"^dataset.size is required$"):
        parse(ImagesConfig, {"path": "images"}, "dataset")


def test_a_bad_split_seed_of_the_digits_is_refused() -> None:
    with pytest.raises(UserError, match=r"^dataset.split_seed must be at least 0, got -1$"):
        parse(DigitsConfig, {"split_seed": -1}, "dataset")
