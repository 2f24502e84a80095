"""What a network sees in the training images, on disk: it may be hours of work."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from stepsearch.evaluation.cache import UNUSABLE, one_at_a_time, store
from stepsearch.evaluation.features.base import Observed, kept_rows
from stepsearch.evaluation.features.network import Network
from stepsearch.evaluation.moments import Statistics

logger = logging.getLogger(__name__)

# Counts up when a network's definition changes, so that old files are made anew.
_VERSION = 1


def real_file(network: str, fingerprint: str, cache: Path) -> Path:
    """`cache`/<fingerprint of the data set>/<fingerprint of the network>-<version>.safetensors"""
    return cache / fingerprint / f"{network}-{_VERSION}.safetensors"


def load_or_observe(network: Network, train: Tensor, device: torch.device, file: Path) -> Observed:
    """What `network` sees in `train` [n, C, H, W], from `file` if it is there; else it is stored.

    A file that cannot be read is replaced. Of several processes one looks and the others wait for
    it. Raises UserError when `file` cannot be written.
    """
    with one_at_a_time(file):
        try:
            return _load(len(kept_rows(len(train))), file)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except UNUSABLE as error:
            logger.warning("the cached features %s are unusable and made anew: %s", file, error)
        seen = network.observe(train, device)
        store(_tensors(seen), {"version": _VERSION}, file)
        return seen


def _tensors(seen: Observed) -> dict[str, Tensor]:
    tensors = {"features": seen.features, "mean": seen.statistics.mean, "cov": seen.statistics.cov}
    if seen.spatial is not None:
        tensors |= {"spatial_mean": seen.spatial.mean, "spatial_cov": seen.spatial.cov}
    return tensors


def _load(kept: int, file: Path) -> Observed:
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("it holds values that are not finite")
    features = tensors["features"]
    if features.ndim != 2 or len(features) != kept:
        raise ValueError(f"it has features {list(features.shape)} of {kept} images")
    spatial = None
    if "spatial_mean" in tensors:
        spatial = _square(tensors["spatial_mean"], tensors["spatial_cov"])
    of_all = _square(tensors["mean"], tensors["cov"])
    if of_all.mean.shape != features.shape[1:]:
        raise ValueError("its features are not those of its mean")
    return Observed(features, of_all, spatial)


def _square(mean: Tensor, cov: Tensor) -> Statistics:
    if mean.ndim != 1 or cov.shape != 2 * mean.shape:
        raise ValueError(f"it has a mean {list(mean.shape)}, a covariance {list(cov.shape)}")
    return Statistics(mean, cov)
