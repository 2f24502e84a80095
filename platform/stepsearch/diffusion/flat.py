"""A module's many parameters as one vector, which is updated in few operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def flatten_weights(module: nn.Module) -> Tensor:
    """The vector of all trainable weights; each parameter becomes a view of its part of it.

    The order is that of `module.parameters()`. Moving the module to another device or type
    afterwards would part the two.
    """
    parameters = _trainable(module)
    vector = torch.cat([parameter.detach().flatten() for parameter in parameters])
    for parameter, part in zip(parameters, _parts(vector, parameters), strict=True):
        parameter.data = part
    return vector


def flatten_gradients(module: nn.Module) -> Tensor:
    """The vector of all gradients, zero at first; backward adds to it as long as it is kept.

    Clear it in place: a gradient set to None would no longer be a part of the vector.
    """
    parameters = _trainable(module)
    vector = torch.zeros_like(torch.cat([p.detach().flatten() for p in parameters]))
    for parameter, part in zip(parameters, _parts(vector, parameters), strict=True):
        parameter.grad = part
    return vector


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _parts(vector: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    pieces = torch.split(vector, [parameter.numel() for parameter in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
