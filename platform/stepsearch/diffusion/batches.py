"""The images of a training, batch by batch: small sets lie on the device, large ones stream."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from stepsearch.diffusion.data_order import DataOrder
from stepsearch.pixels import scaled

Labelled = tuple[Tensor, Tensor | None]
"""Images, and their labels where they were given."""

_MOST_ON_CPU = 2**30
_MOST_OF_GPU = 0.25
"""Of its memory."""


class Batches:
    """An endless stream of images in `DataOrder`'s order, which can be entered anywhere.

    A set larger than 1 GiB, or than a quarter of the GPU's memory, stays where it is, mostly on
    the disk; the next batch is read while the last one is trained on.
    """

    def __init__(
        self,
        images: Tensor,
        seed: int,
        device: torch.device,
        *,
        flip: bool = False,
        labels: Tensor | None = None,
    ) -> None:
        """`images` are [N, C, H, W], uint8 or float32 (`scaled`), `labels` their classes [N], if
        they are wanted. With `flip` an epoch has each image and its mirror image."""
        self._streams = images.nbytes > most_resident(device)
        self._images = images if self._streams else images.to(device)
        self._device, self._flip = device, flip
        order_on = images.device if self._streams else device
        self._order = DataOrder(len(images) * (2 if flip else 1), seed, order_on)
        self._labels = None if labels is None else labels.to(order_on)
        self._ahead: tuple[tuple[int, int], Future[Labelled]] | None = None
        self._thread = ThreadPoolExecutor(1) if self._streams else None

    def take(self, start: int, count: int) -> Tensor:
        """Images start..start+count-1 of the stream, float32 in [-1, 1] on the device."""
        return self.labelled(start, count)[0]

    def labelled(self, start: int, count: int) -> Labelled:
        """The same images, and their labels, int64 [count] on the device."""
        if self._thread is None:
            images, labels = self._read(start, count)
            return scaled(images), labels
        if self._ahead is not None and self._ahead[0] == (start, count):
            images, labels = self._ahead[1].result()
        else:
            images, labels = self._thread.submit(self._read, start, count).result()
        following = start + count, count
        self._ahead = following, self._thread.submit(self._read, *following)
        on_device = scaled(images.to(self._device, non_blocking=True))
        return on_device, None if labels is None else labels.to(self._device)

    def _read(self, start: int, count: int) -> Labelled:
        index = self._order.indices(start, count)
        images = self._chosen(index)
        if self._streams and self._device.type == "cuda":
            images = images.pin_memory()
        labels = None if self._labels is None else self._labels[index % len(self._labels)]
        return images, labels

    def _chosen(self, index: Tensor) -> Tensor:
        if not self._flip:
            return self._images[index]
        images = self._images[index % len(self._images)]
        mirrored = (index >= len(self._images)).view(-1, 1, 1, 1)
        return torch.where(mirrored, images.flip(3), images)


def most_resident(device: torch.device) -> float:
    """Bytes of images that are put on the device."""
    if device.type != "cuda":
        return _MOST_ON_CPU
    return _MOST_OF_GPU * torch.cuda.get_device_properties(device).total_memory
