"""The two networks of the comparison, written for any framework's `Layers`."""

from __future__ import annotations

from typing import Any, Protocol


class Layers(Protocol):
    """Layers in a framework. Each call adds one, with bias, ReLU and batch norm except in `head`."""

    def conv(self, x: Any, filters: int, stride: int = 1, kernel: int = 3) -> Any:
        """Convolve."""
        ...

    def up(self, x: Any, filters: int) -> Any:
        """Convolve transposed, with kernel 3 and stride 2."""
        ...

    def head(self, x: Any, stride: int) -> Any:
        """Convolve to one channel without ReLU: for stride 2 transposed with kernel 3, else with kernel 1."""
        ...

    def concat(self, x: Any, skip: Any) -> Any:
        """Join channels."""
        ...


def fcn(layers: Layers, x: Any) -> Any:
    """Build the network of `configs/fcn.yaml`."""
    for filters in (32, 64, 128):
        x = layers.conv(x, filters, stride=2)
    x = layers.conv(x, 128, kernel=1)
    for filters in (64, 32):
        x = layers.up(x, filters)
    return layers.head(x, stride=2)


def unet(layers: Layers, x: Any) -> Any:
    """Build the network of `configs/unet.yaml`, without dropout."""
    x = layers.conv(layers.conv(x, 16), 16)
    skips = []
    for filters in (32, 64, 128, 256):
        skips.append(x)
        x = layers.conv(layers.conv(x, filters, stride=2), filters)
    for filters in (128, 64, 32, 16):
        x = layers.conv(layers.concat(layers.up(x, filters), skips.pop()), filters)
    return layers.head(x, stride=1)


NETWORKS = {"fcn": fcn, "unet": unet}
