"""Published statistics of a data set's features, as pytorch-fid and ADM's evaluator store them."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy

from stepsearch.errors import UserError
from stepsearch.evaluation.moments import Statistics

_BROKEN = (
    *(OSError, ValueError, KeyError, EOFError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What zipfile and numpy raise on files that they cannot read."""
_LONGEST_HEADER = 2**24
"""Bytes before an array's values."""


def read_statistics(
    file: Path, field: str, dimensions: int, spatial: int
) -> tuple[Statistics, Statistics | None]:
    """Mean `mu` [d] and covariance `sigma` [d, d] of an npz file, and `mu_s`, `sigma_s` of spatial
    features where it has them. Other arrays, images for example, are not read.

    Raises UserError for another content; nothing larger than the asked shapes is unpacked.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            of_all = _pair(archive, "mu", "sigma", dimensions)
            has_spatial = {"mu_s.npy", "sigma_s.npy"} <= names
            return of_all, _pair(archive, "mu_s", "sigma_s", spatial) if has_spatial else None
    except _BROKEN as error:
        reason = str(error).strip("'\"").splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{field} must be an npz file with mu [{dimensions}] and sigma "
            f"[{dimensions}, {dimensions}], got {str(file)!r}: {reason}"
        ) from None


def _pair(archive: zipfile.ZipFile, mean: str, cov: str, d: int) -> Statistics:
    mu, sigma = _array(archive, mean, (d,)), _array(archive, cov, (d, d))
    if not np.allclose(sigma, sigma.T, rtol=1e-3, atol=1e-6 * abs(sigma).max()):
        raise ValueError(f"{cov} is not symmetric")
    return Statistics(torch.from_numpy(mu), torch.from_numpy(sigma))


def _array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    if archive.getinfo(f"{name}.npy").file_size > 16 * math.prod(shape) + _LONGEST_HEADER:
        raise ValueError(f"{name} is larger than {list(shape)}")
    with archive.open(f"{name}.npy") as opened:
        version = npy.read_magic(opened)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        found, columns_first, dtype = header(opened)
        if found != shape or dtype.kind != "f":
            raise ValueError(f"{name} is {dtype} {list(found)}")
        raw = opened.read(dtype.itemsize * int(np.prod(shape)))
    values: npt.NDArray[Any] = np.frombuffer(raw, dtype).astype(np.float64)
    values = values.reshape(shape, order="F" if columns_first else "C")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has values that are not finite")
    return np.ascontiguousarray(values)
