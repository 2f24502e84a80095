"""The costs of a MultistageUNet from its widths alone, without building one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from stepsearch.diffusion.multistage.accounting import Amount, StageCosts


def unet_costs(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    decoders: Sequence[Sequence[int]],
    *,
    layers: int,
    attention: bool,
) -> StageCosts:
    """What `stage_costs` counts on the network for images of `shape` (C, H, W)."""
    colours, height, width = shape
    areas = [height * width // 4**level for level in range(len(channels))]
    embedding = 4 * channels[0]
    shared = _conv(colours, channels[0], areas[0])
    shared += _linear(channels[0], embedding) + _linear(embedding, embedding)
    skips, current = [channels[0]], channels[0]
    for level, own in enumerate(channels):
        for before in [current, *[own] * (layers - 1)]:
            shared += _resnet(before, own, embedding, areas[level])
        skips += [own] * layers
        if level < len(channels) - 1:
            shared += _conv(own, own, areas[level + 1])
            skips.append(own)
        current = own
    shared += _resnet(current, current, embedding, areas[-1])
    shared += _resnet(current, current, embedding, areas[-1])
    if attention:
        shared += _attention(current, areas[-1])
    stages = (_decoder(own, skips, current, embedding, colours, areas) for own in decoders)
    return StageCosts(shared, tuple(shared + stage for stage in stages))


def _decoder(
    widths: Sequence[int],
    skips: Sequence[int],
    middle: int,
    embedding: int,
    colours: int,
    areas: Sequence[int],
) -> Amount:
    total, left, current = Amount(0, 0), list(skips), middle
    for level in reversed(range(len(widths))):
        own = widths[level]
        for before, _ in pairwise([current, *[own] * (len(skips) // len(widths))]):
            total += _resnet(before + left.pop(), own, embedding, areas[level])
        if level:
            total += _conv(own, own, areas[level - 1])
        current = own
    return total + _norm(current) + _conv(current, colours, areas[0])


def _resnet(before: int, after: int, embedding: int, area: int) -> Amount:
    total = _norm(before) + _conv(before, after, area) + _linear(embedding, after)
    total += _norm(after) + _conv(after, after, area)
    return total + _conv(before, after, area, kernel=1) if before != after else total


def _attention(width: int, area: int) -> Amount:
    """Queries, keys, values and the output of each position, and two products of matrices."""
    maps = [_conv(width, width, area, kernel=1)] * 4
    return sum(maps, _norm(width)) + Amount(0, 2 * 2 * area**2 * width)


def _conv(before: int, after: int, area: int, kernel: int = 3) -> Amount:
    weights = kernel**2 * before * after
    return Amount(weights + after, 2 * weights * area)


def _linear(before: int, after: int) -> Amount:
    return _conv(before, after, area=1, kernel=1)


def _norm(width: int) -> Amount:
    return Amount(2 * width, 0)
