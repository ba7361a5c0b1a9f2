"""Lower blocks to primitive operations; only this module resolves SAME, skips and defaults.

`lower` returns the plan of a network for images of one size, or raises a `UserError` that names the key whose
shapes do not match. The rules for n input pixels, stride s and kernel k:

    SAME convolution      out = ceil(n/s); pads: total = max((out-1)s + k - n, 0), begin = total // 2
    SAME transposed       out = n*s; the adjoint of the convolution from n*s to n, whose pads are the crops

As in TensorFlow's SAME, the odd pixel of a padding is at the end (bottom, right).

Initial kernels are uniform with variance 2/fan_in before a ReLU (He et al., 2015) and 1/fan_in before
the output. The fan-in of a transposed convolution counts the taps that contribute to one output pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from core.base.errors import UserError
from core.base.rounding import to_float32
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Constant,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Operation,
    Pads,
    Parameter,
    Plan,
    Relu,
    Sigmoid,
    Statistic,
    Tensor,
    Uniform,
)
from core.network.specification import Block, ConvBlock, Network, OutputBlock, PointwiseBlock, TransposeBlock


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, Pads]:
    """Return output size and (begin, end) pads of a SAME convolution along one axis."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return out, (total // 2, total - total // 2)


def same_crops(size: int, kernel: int, stride: int) -> tuple[int, Pads]:
    """Return output size and (begin, end) crops of a SAME transposed convolution along one axis.

    The end crop is negative if the kernel is smaller than the stride; then zeros are appended.
    """
    out = size * stride
    _, (begin, _) = same_pads(out, kernel, stride)
    return out, (begin, (size - 1) * stride + kernel - begin - out)


def lower(network: Network, height: int, width: int, channels: int = 1) -> Plan:
    """Return the plan of `network` for images of `height` x `width` x `channels`.

    Raises:
        UserError: A skip joins blocks of different sizes, or the output's size differs from the input's. The
            message begins with the path of the key.
    """
    plan = lower_blocks(network, height, width, channels)
    logits = plan.output.output
    if (logits.height, logits.width) != (height, width):
        raise UserError(
            f"network: images of {height}x{width} would give masks of {logits.height}x{logits.width}",
            f"The strides going down and up must cancel, and {height} and {width} be multiples of the "
            f"largest reduction: preprocess with another --size, or change the strides.",
        )
    return plan


def lower_blocks(network: Network, height: int, width: int, channels: int = 1) -> Plan:
    """Return the plan as `lower` does, but allow masks whose size differs from the images'."""
    builder = _Builder(network, Tensor("image", height, width, channels))
    for index, block in enumerate(network.blocks):
        builder.add_block(index, block)
    return builder.finish()


@dataclass
class _Builder:
    """Collects operations; `current` is the tensor that the next operation reads."""

    network: Network
    image: Tensor
    operations: list[Operation] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    statistics: list[Statistic] = field(default_factory=list)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.current = self.image

    def add_block(self, index: int, block: Block) -> None:
        if block.skip is not None:
            self._join(index, block.name, block.skip)
        if isinstance(block, OutputBlock):
            self._convolve_transposed(block.name, 1, block.kernel, block.stride, relu=False)
        else:
            self._add_hidden(block)
        self.outputs[block.name] = self.current

    def _add_hidden(self, block: ConvBlock | PointwiseBlock | TransposeBlock) -> None:
        name = block.name
        if isinstance(block, ConvBlock):
            self._convolve(name, block.filters, block.kernel, block.stride)
        elif isinstance(block, PointwiseBlock):
            self._convolve(name, block.filters or self._filters_before(), kernel=1, stride=1)
        else:
            self._convolve_transposed(name, block.filters, block.kernel, block.stride, relu=True)
        self._append(Relu(f"{name}/relu", (self.current.name,), self._like(f"{name}/relu")))
        if self.network.batch_norm if block.batch_norm is None else block.batch_norm:
            self._normalise(name)
        rate = self.network.dropout if block.dropout is None else block.dropout
        if rate > 0:
            self._drop(name, rate)

    def finish(self) -> Plan:
        name = f"{self.network.blocks[-1].name}/sigmoid"
        self._append(Sigmoid(name, (self.current.name,), self._like(name)))
        blocks = tuple((block, tensor.name) for block, tensor in self.outputs.items())
        return Plan(
            self.image, tuple(self.operations), tuple(self.parameters), tuple(self.statistics), blocks
        )

    def _filters_before(self) -> int:
        """Return the number of filters of the previous block, without the channels of a skip."""
        return list(self.outputs.values())[-1].channels if self.outputs else self.current.channels

    def _join(self, index: int, name: str, skip: str) -> None:
        here, there = self.current, self.outputs[skip]
        if (here.height, here.width) != (there.height, there.width):
            raise UserError(
                f"network.blocks[{index}].skip: {skip!r} gives {there.height}x{there.width}, but the "
                f"input of {name!r} is {here.height}x{here.width}",
                f"Sizes are those for images of {self.image.height}x{self.image.width}; a skip "
                f"joins tensors of equal height and width.",
            )
        joined = Tensor(f"{name}/concat", here.height, here.width, here.channels + there.channels)
        self._append(Concat(joined.name, (here.name, there.name), joined))

    def _convolve(self, name: str, filters: int, kernel: int, stride: int) -> None:
        x = self.current
        height, rows = same_pads(x.height, kernel, stride)
        width, columns = same_pads(x.width, kernel, stride)
        shape = (kernel, kernel, x.channels, filters)
        weights = self._kernel(name, shape, fan_in=x.channels * kernel**2, gain=2.0)
        y = Tensor(f"{name}/conv", height, width, filters)
        self._append(Conv2D(y.name, (x.name,), y, weights, (kernel, kernel), stride, (rows, columns)))
        self._add_bias(name)

    def _convolve_transposed(self, name: str, filters: int, kernel: int, stride: int, *, relu: bool) -> None:
        x = self.current
        height, rows = same_crops(x.height, kernel, stride)
        width, columns = same_crops(x.width, kernel, stride)
        shape = (kernel, kernel, filters, x.channels)
        fan_in = x.channels * max(kernel / stride, 1.0) ** 2
        weights = self._kernel(name, shape, fan_in=fan_in, gain=2.0 if relu else 1.0)
        y = Tensor(f"{name}/conv_transpose", height, width, filters)
        self._append(
            ConvTranspose2D(y.name, (x.name,), y, weights, (kernel, kernel), stride, (rows, columns))
        )
        self._add_bias(name)

    def _kernel(self, name: str, shape: tuple[int, ...], fan_in: float, gain: float) -> str:
        bound = math.sqrt(3.0 * gain / fan_in)  # a uniform distribution in [-b, b) has variance b**2 / 3
        self.parameters.append(Parameter(f"{name}/kernel", shape, "kernel", Uniform(to_float32(bound))))
        return f"{name}/kernel"

    def _add_bias(self, name: str) -> None:
        channels = self.current.channels
        self.parameters.append(Parameter(f"{name}/bias", (channels,), "bias", Constant(0.0)))
        y = self._like(f"{name}/bias")
        self._append(Bias(y.name, (self.current.name,), y, bias=f"{name}/bias"))

    def _normalise(self, name: str) -> None:
        shape = (self.current.channels,)
        self.parameters.append(Parameter(f"{name}/gamma", shape, "gamma", Constant(1.0)))
        self.parameters.append(Parameter(f"{name}/beta", shape, "beta", Constant(0.0)))
        self.statistics.append(Statistic(f"{name}/moving_mean", shape, Constant(0.0)))
        self.statistics.append(Statistic(f"{name}/moving_variance", shape, Constant(1.0)))
        y = self._like(f"{name}/batch_norm")
        self._append(
            BatchNorm(
                y.name,
                (self.current.name,),
                y,
                gamma=f"{name}/gamma",
                beta=f"{name}/beta",
                moving_mean=f"{name}/moving_mean",
                moving_variance=f"{name}/moving_variance",
                momentum=to_float32(self.network.batch_norm_settings.momentum),
                epsilon=to_float32(self.network.batch_norm_settings.epsilon),
            )
        )

    def _drop(self, name: str, rate: float) -> None:
        rate = to_float32(rate)
        y = self._like(f"{name}/dropout")
        self._append(Dropout(y.name, (self.current.name,), y, rate=rate, scale=to_float32(1 / (1 - rate))))

    def _like(self, name: str) -> Tensor:
        return Tensor(name, self.current.height, self.current.width, self.current.channels)

    def _append(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.current = operation.output
