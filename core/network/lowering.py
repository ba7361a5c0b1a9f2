"""Lower blocks to primitive operations; only this module resolves skips, sources and defaults.

`lower` returns the plan of a network for images of one size, or raises a `UserError` that names the key whose
shapes do not match. Padding follows `core.network.padding`.

Initial kernels are uniform with variance 2/fan_in before a ReLU (He et al., 2015) and 1/fan_in before
the output. The fan-in of a transposed convolution counts the taps that contribute to one output pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from core.base.errors import UserError
from core.base.rounding import to_float32
from core.network.encoders import blocks_of, stages_of
from core.network.padding import pads_of, same_crops
from core.network.plan import (
    Activation,
    Add,
    Affine,
    AveragePool2D,
    BatchNorm,
    Bias,
    Concat,
    Constant,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Existence,
    GlobalMean,
    GroupedConv2D,
    MaxPool2D,
    Multiply,
    Operation,
    Parameter,
    Plan,
    Relu,
    Sigmoid,
    Statistic,
    Tensor,
    Uniform,
    Upsample,
)
from core.network.specification import (
    EXISTENCE,
    ActivationName,
    Block,
    ConvBlock,
    ExistenceHead,
    Network,
    OutputBlock,
    Padding,
    PointwiseBlock,
    PoolBlock,
    ResidualBlock,
    TransposeBlock,
    UpsampleBlock,
)

_LEAKY_SLOPE = 0.01
_INPUT = "_input"  # no block can be called so


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
    builder.prepare_input()
    if network.encoder is not None:
        for block in blocks_of(network.encoder, network.decoder):
            builder.add_block(f"network: the encoder's block {block.name!r}", block)
    for index, block in enumerate(network.blocks):
        builder.add_block(f"network.blocks[{index}]", block)
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
    where: str = "network"

    def __post_init__(self) -> None:
        self.current = self.image

    def prepare_input(self) -> None:
        """Copy the image to every channel that the first block expects, and bring it to their scale."""
        settings = self.network.input
        if settings.channels is not None and settings.channels != self.image.channels:
            if self.image.channels != 1:
                raise UserError(
                    f"network.input.channels: {settings.channels}, but images have {self.image.channels}",
                    "Images of one channel are copied to several; others are taken as they are.",
                )
            y = Tensor(f"{_INPUT}/concat", self.image.height, self.image.width, settings.channels)
            self._append(Concat(y.name, (self.image.name,) * settings.channels, y))
        channels = self.current.channels
        mean, std = (
            numbers * channels if len(numbers) == 1 else numbers for numbers in (settings.mean, settings.std)
        )
        if any(mean) or any(number != 1.0 for number in std):
            scale = tuple(to_float32(1.0 / s) for s in std)
            shift = tuple(to_float32(-m / s) for m, s in zip(mean, std, strict=True))
            name = f"{_INPUT}/affine"
            self._append(Affine(name, (self.current.name,), self._like(name), scale=scale, shift=shift))

    def add_block(self, where: str, block: Block) -> None:
        """Append the operations of a block; `where` names it in messages."""
        self.where = where
        if block.source is not None:
            self.current = self.outputs[block.source]
        if block.skip is not None:
            self._join(block.name, block.skip)
        match block:
            case OutputBlock(transposed=True):
                self._convolve_transposed(block.name, 1, block.kernel, block.stride, gain=1.0)
                self._add_bias(block.name)
            case OutputBlock():
                self._convolve(block.name, 1, block.kernel, 1, "same", gain=1.0)
                self._add_bias(block.name)
            case ResidualBlock():
                self._add_residual(block)
            case PoolBlock():
                self._pool(block)
            case UpsampleBlock():
                self._upsample(block)
            case _:
                self._add_hidden(block)
        self.outputs[block.name] = self.current

    def _add_hidden(self, block: ConvBlock | PointwiseBlock | TransposeBlock) -> None:
        name, network = block.name, self.network
        activation = network.activation if block.activation is None else block.activation
        gain = 1.0 if activation == "none" else 2.0
        if isinstance(block, ConvBlock):
            padding = block.padding or network.padding
            self._convolve(
                name, block.filters, block.kernel, block.stride, padding, gain, block.groups, block.dilation
            )
        elif isinstance(block, PointwiseBlock):
            filters = block.filters or self._filters_before()
            self._convolve(name, filters, 1, 1, "same", gain, block.groups)
        else:
            self._convolve_transposed(name, block.filters, block.kernel, block.stride, gain)
        if network.bias if block.bias is None else block.bias:
            self._add_bias(name)
        normalises = network.batch_norm if block.batch_norm is None else block.batch_norm
        order = network.order if block.order is None else block.order
        if normalises and order == "norm_activation":
            self._normalise(name)
        self._activate(name, activation)
        if normalises and order == "activation_norm":
            self._normalise(name)
        rate = network.dropout if block.dropout is None else block.dropout
        if rate > 0:
            self._drop(name, rate)

    def _add_residual(self, block: ResidualBlock) -> None:
        """The convolutions of a residual block, its shortcut, their sum and what follows it."""
        name, x = block.name, self.current
        inverted = block.form == "inverted"
        if block.form == "basic":
            self._unit(block, "conv1", block.filters, block.kernel, block.stride)
            self._unit(block, "conv2", block.filters, block.kernel, activation="none")
        elif inverted:
            width = block.width or 6 * x.channels
            if width != x.channels:
                self._unit(block, "conv1", width, 1)
            self._unit(block, "conv2", width, block.kernel, block.stride, groups=width)
            self._squeeze(block)
            self._unit(block, "conv3", block.filters, 1, activation="none")
        else:
            width = block.width or max(block.filters // 4, 1)
            first, middle = (block.stride, 1) if block.stride_at == "first" else (1, block.stride)
            self._unit(block, "conv1", width, 1, first)
            self._unit(block, "conv2", width, block.kernel, middle, groups=block.groups)
            self._unit(block, "conv3", block.filters, 1, activation="none")
        if not inverted:
            self._squeeze(block)
        y = self.current
        if (y.height, y.width, y.channels) != (x.height, x.width, x.channels):
            if inverted:
                return
            self.current = x
            self._unit(block, "shortcut", block.filters, 1, block.stride, activation="none")
            x = self.current
            if (x.height, x.width) != (y.height, y.width):
                raise UserError(
                    f"{self.where}: its convolutions give {y.height}x{y.width}, "
                    f"its shortcut {x.height}x{x.width}",
                    "Use padding same or symmetric, and an odd kernel.",
                )
        added = Tensor(f"{name}/add", y.height, y.width, y.channels)
        self._append(Add(added.name, (y.name, x.name), added))
        if not inverted:
            self._activate(name, block.activation)

    def _unit(
        self,
        block: ResidualBlock,
        part: str,
        filters: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: ActivationName | None = None,
    ) -> None:
        """Convolution, batch norm and activation of a residual block; the block's own activation if None."""
        name = f"{block.name}/{part}"
        activation = block.activation if activation is None else activation
        padding = block.padding or self.network.padding
        self._convolve(name, filters, kernel, stride, padding, 1.0 if activation == "none" else 2.0, groups)
        if block.bias:
            self._add_bias(name)
        self._normalise(name)
        self._activate(name, activation)

    def _squeeze(self, block: ResidualBlock) -> None:
        """Squeeze-and-excitation, if the block has one."""
        if block.squeeze is None:
            return
        x, name = self.current, f"{block.name}/squeeze"
        mean = Tensor(f"{name}/mean", 1, 1, x.channels)
        self._append(GlobalMean(mean.name, (x.name,), mean))
        self._convolve(f"{name}/dense1", block.squeeze, 1, 1, "same", gain=2.0)
        self._add_bias(f"{name}/dense1")
        self._activate(f"{name}/dense1", "relu")
        self._convolve(f"{name}/dense2", x.channels, 1, 1, "same", gain=1.0)
        self._add_bias(f"{name}/dense2")
        gate = self._like(f"{name}/dense2/sigmoid")
        self._append(Activation(gate.name, (self.current.name,), gate, function="sigmoid"))
        scaled = Tensor(f"{name}/multiply", x.height, x.width, x.channels)
        self._append(Multiply(scaled.name, (x.name, gate.name), scaled))

    def _pool(self, block: PoolBlock) -> None:
        x = self.current
        height, rows = pads_of(block.padding, x.height, block.kernel, block.stride)
        width, columns = pads_of(block.padding, x.width, block.kernel, block.stride)
        self._check_size(height, width, block.kernel)
        y = Tensor(f"{block.name}/{block.mode}_pool", height, width, x.channels)
        kind = MaxPool2D if block.mode == "max" else AveragePool2D
        kernel = (block.kernel, block.kernel)
        self._append(kind(y.name, (x.name,), y, kernel, block.stride, (rows, columns)))

    def _upsample(self, block: UpsampleBlock) -> None:
        x = self.current
        y = Tensor(f"{block.name}/upsample", x.height * block.factor, x.width * block.factor, x.channels)
        self._append(Upsample(y.name, (x.name,), y, factor=block.factor, method=block.method))

    def _activate(self, name: str, activation: ActivationName) -> None:
        if activation == "none":
            return
        y = self._like(f"{name}/{activation}")
        if activation == "relu":
            self._append(Relu(y.name, (self.current.name,), y))
            return
        slope = to_float32(_LEAKY_SLOPE) if activation == "leaky_relu" else 0.0
        self._append(Activation(y.name, (self.current.name,), y, function=activation, slope=slope))

    def _check_size(self, height: int, width: int, kernel: int) -> None:
        if height < 1 or width < 1:
            raise UserError(
                f"{self.where}: a kernel of {kernel}x{kernel} does not fit into its input of "
                f"{self.current.height}x{self.current.width}",
                "Use a smaller kernel, padding same, or larger images.",
            )

    def _add_existence(self, head: ExistenceHead) -> None:
        """The existence head: global mean, dropout if asked, a 1x1 convolution to one filter, its bias."""
        x = self.outputs[head.source or self._smallest()]
        self.where = "network.existence"
        mean = Tensor(f"{EXISTENCE}/mean", 1, 1, x.channels)
        self._append(GlobalMean(mean.name, (x.name,), mean))
        if head.dropout > 0:
            self._drop(EXISTENCE, head.dropout)
        self._convolve(EXISTENCE, 1, 1, 1, "same", gain=1.0)
        self._add_bias(EXISTENCE)
        y = self._like(f"{EXISTENCE}/sigmoid")
        self._append(Existence(y.name, (self.current.name,), y))
        self.outputs[EXISTENCE] = y

    def _smallest(self) -> str:
        """The encoder's last block, or the first of the hidden blocks whose outputs are the smallest."""
        if self.network.encoder is not None:
            return stages_of(self.network.encoder)[-1]
        hidden = list(self.outputs)[:-1]
        return min(hidden, key=lambda name: self.outputs[name].height * self.outputs[name].width)

    def finish(self) -> Plan:
        if self.network.existence is not None:
            logits = self.current
            self._add_existence(self.network.existence)
            self.current = logits
        name = f"{self.network.blocks[-1].name}/sigmoid"
        self._append(Sigmoid(name, (self.current.name,), self._like(name)))
        self._check_all_is_read()
        blocks = tuple((block, tensor.name) for block, tensor in self.outputs.items())
        return Plan(
            self.image, tuple(self.operations), tuple(self.parameters), tuple(self.statistics), blocks
        )

    def _check_all_is_read(self) -> None:
        """Refuse a block that changes nothing: nothing reads it, so it could not be trained."""
        read = {name for op in self.operations for name in op.inputs}
        for op in self.operations[:-1]:
            if op.output.name not in read and not isinstance(op, Existence):
                name = op.name.split("/")[0]
                raise UserError(
                    f"network: no block reads the output of {name!r}",
                    f"Name it as the `skip` or `source` of a later block, or leave {name!r} out.",
                )

    def _filters_before(self) -> int:
        """Return the number of filters of the previous block, without the channels of a skip."""
        return list(self.outputs.values())[-1].channels if self.outputs else self.current.channels

    def _join(self, name: str, skip: str) -> None:
        here, there = self.current, self.outputs[skip]
        if (here.height, here.width) != (there.height, there.width):
            raise UserError(
                f"{self.where}.skip: {skip!r} gives {there.height}x{there.width}, but the "
                f"input of {name!r} is {here.height}x{here.width}",
                f"Sizes are those for images of {self.image.height}x{self.image.width}; a skip "
                f"joins tensors of equal height and width.",
            )
        joined = Tensor(f"{name}/concat", here.height, here.width, here.channels + there.channels)
        self._append(Concat(joined.name, (here.name, there.name), joined))

    def _convolve(
        self,
        name: str,
        filters: int,
        kernel: int,
        stride: int,
        padding: Padding,
        gain: float,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        x = self.current
        if x.channels % groups or filters % groups:
            raise UserError(
                f"{self.where}: {groups} groups do not divide {x.channels} channels in and {filters} out",
                "Both must be multiples of the number of groups.",
            )
        height, rows = pads_of(padding, x.height, kernel, stride, dilation)
        width, columns = pads_of(padding, x.width, kernel, stride, dilation)
        self._check_size(height, width, kernel)
        channels = x.channels // groups
        weights = self._kernel(name, (kernel, kernel, channels, filters), channels * kernel**2, gain)
        y = Tensor(f"{name}/conv", height, width, filters)
        pads, taps = (rows, columns), (kernel, kernel)
        if groups == dilation == 1:
            self._append(Conv2D(y.name, (x.name,), y, weights, taps, stride, pads))
        else:
            parts = groups, dilation
            self._append(GroupedConv2D(y.name, (x.name,), y, weights, taps, stride, pads, *parts))

    def _convolve_transposed(self, name: str, filters: int, kernel: int, stride: int, gain: float) -> None:
        x = self.current
        height, rows = same_crops(x.height, kernel, stride)
        width, columns = same_crops(x.width, kernel, stride)
        fan_in = x.channels * max(kernel / stride, 1.0) ** 2
        weights = self._kernel(name, (kernel, kernel, filters, x.channels), fan_in, gain)
        y = Tensor(f"{name}/conv_transpose", height, width, filters)
        self._append(
            ConvTranspose2D(y.name, (x.name,), y, weights, (kernel, kernel), stride, (rows, columns))
        )

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
