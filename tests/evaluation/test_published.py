"""Published statistics: read as they were written, or refused in one line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stepsearch.errors import UserError
from stepsearch.evaluation.published import read_statistics

D, S = 4, 3


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {}
    for mean, cov, d in (("mu", "sigma", D), ("mu_s", "sigma_s", S)):
        features = random.normal(size=(50, d))
        found |= {mean: features.mean(0), cov: np.cov(features.T)}
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "statistics.npz"


def read(file: Path):
    return read_statistics(file, "judge.features.reference", D, S)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_statistics_of_pytorch_fid_and_of_adm_are_read(save, file):
    given = arrays()
    images = np.zeros((5, 8, 8, 3), np.uint8)  # ADM's files hold some
    save(file, arr_0=images, **given)
    (mean, cov), spatial = read(file)
    for found, name in zip((mean, cov, *spatial), given, strict=True):
        assert torch.equal(found, torch.from_numpy(given[name]))
    save(file, mu=given["mu"], sigma=given["sigma"])
    assert read(file)[1] is None


def test_single_precision_and_columns_first_are_the_same_numbers(file):
    given = arrays()
    np.savez(file, mu=given["mu"].astype("f4"), sigma=np.asfortranarray(given["sigma"]))
    (mean, cov), _ = read(file)
    assert mean.dtype == cov.dtype == torch.float64
    np.testing.assert_allclose(mean, given["mu"], rtol=1e-6)
    assert torch.equal(cov, torch.from_numpy(given["sigma"]))


def changed(**others) -> dict[str, np.ndarray]:
    return {key: value for key, value in (arrays() | others).items() if value is not None}


NOT_SYMMETRIC = np.arange(D * D, dtype=float).reshape(D, D)
WRONG = [
    ({"mu": None}, "There is no item named 'mu.npy' in the archive"),
    ({"sigma": None}, "There is no item named 'sigma.npy' in the archive"),
    ({"mu": np.zeros(2048)}, r"mu is float64 \[2048\]"),
    ({"sigma": np.zeros((D, D + 1))}, r"sigma is float64 \[4, 5\]"),
    ({"mu": np.zeros(D, int)}, r"mu is int64 \[4\]"),
    ({"mu": np.array([None] * D)}, r"mu is object \[4\]"),
    ({"mu": np.full(D, np.nan)}, "mu has values that are not finite"),
    ({"sigma": NOT_SYMMETRIC}, "sigma is not symmetric"),
    ({"mu_s": np.zeros(S + 1)}, r"mu_s is float64 \[4\]"),
]


@pytest.mark.parametrize(("others", "reason"), WRONG, ids=[reason for _, reason in WRONG])
def test_other_arrays_are_refused_in_one_line(others, reason, file):
    np.savez(file, **changed(**others))
    rule = (
        r"^judge\.features\.reference must be an npz file with mu \[4\] and sigma \[4, 4\], got "
        rf"'.*statistics\.npz': {reason}$"
    )
    with pytest.raises(UserError, match=rule):
        read(file)


def test_a_missing_file_and_a_folder_are_refused(file):
    with pytest.raises(UserError, match="No such file"):
        read(file)
    file.mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        read(file)


def is_refused(file: Path, content: bytes) -> bool:
    file.write_bytes(content)
    try:
        read(file)
    except UserError:
        return True
    return False


def test_a_file_that_is_damaged_anywhere_is_refused_or_read(file):
    np.savez_compressed(file, **arrays())
    whole = file.read_bytes()
    flipped = (
        whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] for at in range(len(whole))
    )
    assert sum(is_refused(file, content) for content in flipped) > len(whole) / 2
    assert all(is_refused(file, whole[:length]) for length in range(0, len(whole), 50))


def test_a_header_that_claims_terabytes_is_refused_before_they_are_there(file):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)}
    )
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", header.getvalue() + bytes(10**7))
    with pytest.raises(UserError, match=r"mu is float64 \[1000000000000\]"):
        read(file)
