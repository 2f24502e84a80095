"""The features of FD_DINOv2: only scores in those of ViT-L/14 are called fd_dinov2."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import nn

from stepsearch.config import AbsolutePath
from stepsearch.errors import UserError
from stepsearch.evaluation.features.base import ScoreNames
from stepsearch.evaluation.features.dinov2_vit import SIZES, DinoV2
from stepsearch.evaluation.features.network import NetworkConfig
from stepsearch.evaluation.features.weights import Published, load_published, read_published

VARIABLE = "STEPSEARCH_DINOV2_WEIGHTS"
_FIELD = "judge.features.weights"


def _published(network: str, megabytes: float, sha256: str) -> Published:
    folder = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{network}"
    what = f"dinov2_{network}_pretrain.pth ({megabytes} MB, {folder})"
    return Published(what, sha256, int(1e6 * (megabytes + 1)))


PUBLISHED = {
    network: _published(network, megabytes, sha256)
    for network, megabytes, sha256 in (
        ("vits14", 88.3, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
        ("vitb14", 346.4, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
        ("vitl14", 1217.6, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
    )
}


class DinoV2Config(NetworkConfig):
    """The class token of a DINOv2 without registers, on Meta's weights; needs no labels."""

    kind: Literal["dinov2"] = "dinov2"
    network: Literal["vits14", "vitb14", "vitl14"] = Field(
        "vitl14", description="FD_DINOv2 is vitl14's; the others are faster"
    )
    weights: AbsolutePath | None = Field(
        None,
        description="the published file, or the folder that it is in; "
        f"the variable {VARIABLE} where none is given",
    )

    @property
    def dimensions(self) -> int:
        return SIZES[self.network].width

    def names(self, data: str) -> ScoreNames:
        """fd_dinov2, kid_dinov2 on every data set, as papers have them; another network's name
        is added."""
        own = "dinov2" if self.network == "vitl14" else f"dinov2_{self.network}"
        return ScoreNames(f"fd_{own}", f"kid_{own}")

    def check(self) -> None:
        read_published(self._file, PUBLISHED[self.network], _FIELD)

    def load(self) -> nn.Module:
        build = partial(DinoV2, SIZES[self.network])
        return load_published(build, self._file, PUBLISHED[self.network], _FIELD)

    def fingerprint(self) -> str:
        return f"dinov2-{PUBLISHED[self.network].sha256[:16]}"

    def resolved(self) -> DinoV2Config:
        return self.model_copy(update={"weights": self._file})

    @property
    def _file(self) -> Path:
        given = self.weights or os.environ.get(VARIABLE)
        if not given:
            what = PUBLISHED[self.network].what
            raise UserError(f"{_FIELD} must name {what}: set it or {VARIABLE}")
        path = Path(given).absolute()
        return path / f"dinov2_{self.network}_pretrain.pth" if path.is_dir() else path
