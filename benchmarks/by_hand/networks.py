"""The two networks that are compared, written for any framework's `Layers`."""

from __future__ import annotations

from typing import Any, Protocol


class Layers(Protocol):
    """Layers in a framework; each call makes one more, with bias, ReLU and batch norm but for `head`."""

    def conv(self, x: Any, filters: int, stride: int = 1, kernel: int = 3) -> Any:
        """Convolution."""
        ...

    def up(self, x: Any, filters: int) -> Any:
        """Transposed convolution, kernel 3, stride 2."""
        ...

    def head(self, x: Any, stride: int) -> Any:
        """To one channel, without ReLU: transposed, kernel 3, for stride 2; kernel 1 for stride 1."""
        ...

    def concat(self, x: Any, skip: Any) -> Any:
        """Join channels."""
        ...


def fcn(layers: Layers, x: Any) -> Any:
    """Of `configs/fcn.yaml`."""
    for filters in (32, 64, 128):
        x = layers.conv(x, filters, stride=2)
    x = layers.conv(x, 128, kernel=1)
    for filters in (64, 32):
        x = layers.up(x, filters)
    return layers.head(x, stride=2)


def unet(layers: Layers, x: Any) -> Any:
    """Of `configs/unet.yaml`, without dropout."""
    x = layers.conv(layers.conv(x, 16), 16)
    skips = []
    for filters in (32, 64, 128, 256):
        skips.append(x)
        x = layers.conv(layers.conv(x, filters, stride=2), filters)
    for filters in (128, 64, 32, 16):
        x = layers.conv(layers.concat(layers.up(x, filters), skips.pop()), filters)
    return layers.head(x, stride=1)


NETWORKS = {"fcn": fcn, "unet": unet}
