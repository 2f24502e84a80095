"""The features of the reference FID: only these scores are called fid, sfid and is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import nn

from stepsearch.config import AbsolutePath
from stepsearch.errors import UserError
from stepsearch.evaluation.features.base import Observed, ScoreNames
from stepsearch.evaluation.features.inception_v3 import SPATIAL_DIMENSIONS, InceptionV3
from stepsearch.evaluation.features.network import NetworkConfig
from stepsearch.evaluation.features.weights import (
    Published,
    load_published,
    read_published,
)
from stepsearch.evaluation.moments import Statistics
from stepsearch.evaluation.published import read_statistics

VARIABLE = "STEPSEARCH_INCEPTION_WEIGHTS"
PUBLISHED = Published(
    "weights-inception-2015-12-05-6726825d.pth (95.6 MB, "
    "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0; "
    "pytorch-fid's pt_inception-2015-12-05-6726825d.pth is the same file)",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    200_000_000,
)
_FIELD = "judge.features.weights"


class InceptionConfig(NetworkConfig):
    """Inception-v3 on the weights of 2015-12-05, which no package has; needs no labels."""

    kind: Literal["inception"] = "inception"
    weights: AbsolutePath | None = Field(
        None, description=f"the published file; the variable {VARIABLE} where none is given"
    )
    reference: AbsolutePath | None = Field(
        None,
        description="published statistics (npz with mu, sigma) to compare with instead of the "
        "training images'",
    )

    @property
    def dimensions(self) -> int:
        return 2048

    def names(self, data: str) -> ScoreNames:
        """fid, kid_inception, sfid, is: on every data set, as papers have them."""
        return ScoreNames("fid", "kid_inception", "sfid", "is")

    def check(self) -> None:
        read_published(self._file, PUBLISHED, _FIELD)
        self._published()

    def load(self) -> nn.Module:
        return load_published(InceptionV3, self._file, PUBLISHED, _FIELD)

    def fingerprint(self) -> str:
        return f"inception-{PUBLISHED.sha256[:16]}"

    def resolved(self) -> InceptionConfig:
        return self.model_copy(update={"weights": self._file})

    def with_published(self, real: Observed) -> Observed:
        """sfid stays that of the training images where the file has no mu_s and sigma_s."""
        if not (found := self._published()):
            return real
        return real._replace(statistics=found[0], spatial=found[1] or real.spatial)

    def _published(self) -> tuple[Statistics, Statistics | None] | None:
        if self.reference is None:
            return None
        return read_statistics(
            self.reference, "judge.features.reference", self.dimensions, SPATIAL_DIMENSIONS
        )

    @property
    def _file(self) -> Path:
        given = self.weights or os.environ.get(VARIABLE)
        if not given:
            raise UserError(f"{_FIELD} must name {PUBLISHED.what}: set it or {VARIABLE}")
        return Path(given).absolute()
