"""The networks of the comparison, written for any framework's `Layers`."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, Protocol


class Scale(NamedTuple):
    """What the three channels are normalised by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Scale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EFFICIENTNET_LITE = Scale((0.498,) * 3, (0.502,) * 3)


class Unit(NamedTuple):
    """A convolution without bias, then batch norm, then an activation.

    `padding` is TensorFlow's SAME, or `kernel // 2` at both sides.
    """

    filters: int
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False
    activation: Literal["relu", "relu6", "none"] = "relu"
    padding: Literal["same", "symmetric"] = "symmetric"
    momentum: float = 0.9
    epsilon: float = 1e-5

    def pads(self, size: int) -> tuple[int, int]:
        """Return the pixels at both ends of an axis of this length."""
        if self.padding == "symmetric":
            return self.kernel // 2, self.kernel // 2
        total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


class Layers(Protocol):
    """Layers in a framework.

    `conv` and `up` have bias, ReLU and batch norm. Keras' have those up to `concat` alone.
    """

    def conv(self, x: Any, filters: int, stride: int = 1, kernel: int = 3) -> Any:
        """Convolve."""
        ...

    def up(self, x: Any, filters: int) -> Any:
        """Convolve transposed, with kernel 3 and stride 2."""
        ...

    def head(self, x: Any, stride: int, kernel: int = 1) -> Any:
        """Convolve to one channel, with bias: for stride 2 transposed with kernel 3, else with `kernel`."""
        ...

    def concat(self, x: Any, skip: Any) -> Any:
        """Join channels."""
        ...

    def three(self, x: Any, scale: Scale) -> Any:
        """Copy one channel to three, and normalise them."""
        ...

    def unit(self, x: Any, unit: Unit) -> Any:
        """Convolve, normalise, apply the activation."""
        ...

    def pool(self, x: Any) -> Any:
        """Take the maximum of 3x3 pixels with stride 2 and a pad of 1."""
        ...

    def add(self, x: Any, y: Any, *, relu: bool) -> Any:
        """Add two arrays of the same shape, with or without ReLU."""
        ...

    def nearest(self, x: Any) -> Any:
        """Repeat every pixel in 2 rows and columns."""
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


def unet_resnet34(layers: Layers, x: Any) -> Any:
    """Build the network of `configs/unet_resnet34.yaml`."""
    x = layers.unit(layers.three(x, IMAGENET), Unit(64, kernel=7, stride=2))
    skips = [x]
    x = layers.pool(x)
    for stage, repeats in enumerate((3, 4, 6, 3)):
        for number in range(repeats):
            filters, stride = 64 * 2**stage, 2 if stage and not number else 1
            y = layers.unit(x, Unit(filters, stride=stride))
            y = layers.unit(y, Unit(filters, activation="none"))
            if stride == 2:
                x = layers.unit(x, Unit(filters, kernel=1, stride=2, activation="none"))
            x = layers.add(y, x, relu=True)
        skips.append(x)
    return _decode(layers, skips, Unit)


def unet_efficientnet_lite0(layers: Layers, x: Any) -> Any:
    """Build the network of `configs/unet_efficientnet_lite0.yaml`."""
    kind = partial(Unit, padding="same", momentum=0.99, epsilon=1e-3)
    x = layers.unit(layers.three(x, EFFICIENTNET_LITE), kind(32, stride=2, activation="relu6"))
    before, skips = 32, []
    stages = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
              (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))  # fmt: skip
    for expansion, kernel, first_stride, filters, repeats in stages:
        if first_stride == 2:
            skips.append(x)
        for number in range(repeats):
            y, width, stride = x, before * expansion, 1 if number else first_stride
            if expansion > 1:
                y = layers.unit(y, kind(width, kernel=1, activation="relu6"))
            y = layers.unit(y, kind(width, kernel, stride, depthwise=True, activation="relu6"))
            y = layers.unit(y, kind(filters, kernel=1, activation="none"))
            x = layers.add(y, x, relu=False) if stride == 1 and before == filters else y
            before = filters
    return _decode(layers, [*skips, x], kind)


def _decode(layers: Layers, skips: list[Any], kind: Any) -> Any:
    """Build a U-Net's decoder and the output."""
    x = skips.pop()
    for filters in (256, 128, 64, 32, 16):
        x = layers.nearest(x)
        if skips:
            x = layers.concat(x, skips.pop())
        x = layers.unit(layers.unit(x, kind(filters)), kind(filters))
    return layers.head(x, stride=1, kernel=3)


NETWORKS = {
    "fcn": fcn,
    "unet": unet,
    "unet_resnet34": unet_resnet34,
    "unet_efficientnet_lite0": unet_efficientnet_lite0,
}
IN_KERAS = ("fcn", "unet")
"""The networks that are written in Keras too."""
