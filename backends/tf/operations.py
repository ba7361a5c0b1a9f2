"""The primitive operations of `core.network.plan` in TensorFlow. Arrays are (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backends.tf import cpu, fused_batch_norm
from backends.tf.framework import Tensor, tf
from backends.tf.im2col import Windows
from backends.tf.layers import LAYERS
from core.backend.kernel_switches import Switch
from core.backend.outputs import Outputs
from core.base.rounding import Half, Narrow
from core.network.padding import same_pads
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Existence,
    GroupedConv2D,
    Operation,
    Pads,
    Plan,
    Relu,
    unknown_operation,
)

OPERATIONS = (
    *(BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Existence, GroupedConv2D, Relu),
    *LAYERS,
)
"""The operations that `forward` computes: all that may stand before the sigmoid."""

ENOUGH_CHANNELS = Switch("windows with enough channels are unfolded", "channels", 16)
SEVERAL_CHANNELS = Switch("one channel has kernels of its own", "channels", 2)


@dataclass(frozen=True)
class Context:
    """The device and the purpose of a graph, which decide between kernels that compute the same.

    Attributes:
        on_cpu: Whether the device is the CPU.
        training: Whether gradients are taken.
        native: Whether kernels may be used that multiply numbers of the products' type and add in float32.
    """

    on_cpu: bool
    training: bool
    native: bool

    @property
    def trains_on_cpu(self) -> bool:
        """Whether the kernels are those of `backends.tf.cpu`."""
        return self.on_cpu and self.training


Product = Callable[[Any, Tensor, Tensor, Context], Tensor]
"""One of the two convolutions, a function of its operation, the image, the kernel and the context."""


def conv2d(operation: Conv2D, x: Tensor, kernel: Tensor, context: Context) -> Tensor:
    """Convolve with the plan's pads."""
    if isinstance(operation, GroupedConv2D):
        return _convolve_groups(operation, x, kernel, context)
    pads = _padding(operation, x)
    if context.trains_on_cpu and pads != "SAME" and min(operation.kernel_size) >= operation.stride:
        # Without pads the gradients have oneDNN's kernels, as with SAME.
        x, pads = tf.pad(x, pads), "VALID"
        operation = replace(operation, pads=((0, 0), (0, 0)))
    windows = _windows(operation, x)
    if context.trains_on_cpu and _unfolds(windows, x.shape[-1], x.dtype):
        return cpu.convolution(x, kernel, windows, pads)
    return tf.nn.conv2d(x, kernel, operation.stride, pads)


def _convolve_groups(operation: GroupedConv2D, x: Tensor, kernel: Tensor, context: Context) -> Tensor:
    """Convolve with groups or a dilation, for which TensorFlow has no gradient on the CPU.

    It is one product for each group, of the kernel and the pixels of all taps. For groups of one channel
    TensorFlow has kernels. With explicit pads its fused kernel of depthwise convolution, bias and ReLU ends
    the process (2.21), so pads are added before.
    """
    stride, dilation, groups = operation.stride, operation.dilation, operation.groups
    (rows, columns), filters = operation.kernel_size, operation.output.channels
    if groups == x.shape[-1] and dilation == 1:  # each channel alone
        kernel = tf.reshape(kernel, [rows, columns, groups, filters // groups])
        pads = _padding(operation, x)
        if pads != "SAME":
            x, pads = tf.pad(x, pads), "VALID"
            operation = replace(operation, pads=((0, 0), (0, 0)))
        if context.trains_on_cpu:
            return cpu.depthwise_convolution(x, kernel, _windows(operation, x), pads)
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], pads)
    height, width = operation.output.height, operation.output.width
    padded = tf.pad(x, _explicit(operation.pads))
    down, right = ((length - 1) * stride + 1 for length in (height, width))
    taps = [
        padded[:, top : top + down : stride, left : left + right : stride]
        for top in range(0, rows * dilation, dilation)
        for left in range(0, columns * dilation, dilation)
    ]
    met = tf.reshape(tf.stack(taps, axis=3), [-1, height, width, len(taps), groups, x.shape[-1] // groups])
    parted = tf.reshape(kernel, [len(taps), x.shape[-1] // groups, groups, filters // groups])
    return tf.reshape(tf.einsum("nhwtgi,tigo->nhwgo", met, parted), [-1, height, width, filters])


def conv_transpose2d(operation: ConvTranspose2D, x: Tensor, kernel: Tensor, context: Context) -> Tensor:
    """Compute the input's gradient of the convolution whose pads are the crops.

    Pixels that are missing at an end are zeros.
    """
    out = operation.output
    shape = tf.stack([tf.shape(x)[0], out.height, out.width, out.channels])
    pads = _padding(operation, x)
    windows = _windows(operation, x)
    if context.on_cpu and not SEVERAL_CHANNELS.reached(out.channels) and pads == "SAME":
        if context.training:
            return cpu.transposed_to_one_channel(x, kernel, windows)
        pads = _explicit(operation.crops)  # choose Eigen's kernel; oneDNN's always computes 16 channels
    if context.trains_on_cpu and _unfolds(windows, out.channels, x.dtype):
        return cpu.transposed_convolution(x, kernel, shape, windows, pads)
    return tf.nn.conv2d_transpose(x, kernel, shape, operation.stride, pads)


def in_half(product: Product, half: Half) -> Product:
    """Return the product rounded to 16 bits. `tf.cast` rounds gradients as it rounds values.

    `core.backend.training_rules` states the rounding.

    If there are no kernels of this type, or they are Eigen's, the product of the rounded operands is taken in
    float32.
    """
    dtype = tf.as_dtype(half)

    def rounded(operation: Any, x: Tensor, kernel: Tensor, context: Context) -> Tensor:
        x, kernel = tf.cast(x, dtype), tf.cast(kernel, dtype)
        several = SEVERAL_CHANNELS.reached(operation.output.channels)
        plain = not isinstance(operation, GroupedConv2D)
        by_eigen = context.on_cpu and not (plain and several and _padding(operation, x) == "SAME")
        if by_eigen or not context.native:
            x, kernel = tf.cast(x, tf.float32), tf.cast(kernel, tf.float32)
        return tf.cast(tf.cast(product(operation, x, kernel, context), dtype), tf.float32)

    return rounded


def in_tf32(product: Product) -> Product:
    """Return the product with operands rounded to TF32, as a GPU's kernels do by themselves."""

    def rounded(operation: Any, x: Tensor, kernel: Tensor, context: Context) -> Tensor:
        if context.native:
            return product(operation, x, kernel, context)
        y = product(operation, _to_tf32(x, True), _to_tf32(kernel, True), context)
        return _to_tf32(y, False)

    return rounded


def _to_tf32(x: Tensor, values: bool) -> Tensor:
    """Round to TF32 in the bits, ties to even: the values, or their gradient alone."""

    def rounded(x: Tensor) -> Tensor:
        bits = tf.bitcast(x, tf.int32)
        odd = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 13), 1)
        short = tf.bitcast(tf.bitwise.bitwise_and(bits + 0xFFF + odd, ~0x1FFF), tf.float32)
        return tf.where(tf.math.is_nan(x), x, short)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def apply(x: Tensor) -> Any:
        if values:
            return rounded(x), lambda dy: dy
        return tf.identity(x), rounded

    return apply(x)


def bias(_: Operation, x: Tensor, b: Tensor, context: Context, only_with_relu: bool) -> Tensor:
    """Add b to every pixel; `only_with_relu` as in `cpu.bias`."""
    if not SEVERAL_CHANNELS.reached(x.shape[-1]):
        return x + b  # its gradient is faster than that of `bias_add`
    if context.trains_on_cpu:
        return cpu.bias(x, b, only_with_relu=only_with_relu and x.dtype == tf.float32)
    return tf.nn.bias_add(x, b)


def relu(_: Operation, x: Tensor) -> Tensor:
    """Replace negative numbers by 0."""
    return tf.nn.relu(x)


def batch_norm(
    operation: BatchNorm,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    context: Context,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised input, and the mean and biased variance that normalised it."""
    epsilon = operation.epsilon
    if x.dtype == tf.float64:  # the fused kernel has no float64
        if training:
            mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon), mean, variance
    if not training:
        return fused_batch_norm.normalize(x, gamma, beta, mean, variance, epsilon), mean, variance
    by_batch = cpu.batch_norm if context.on_cpu else fused_batch_norm.normalize_by_batch
    return by_batch(x, gamma, beta, epsilon)


def dropout(operation: Dropout, x: Tensor, keep: Tensor) -> Tensor:
    """Scale the elements to keep (1) up, and set the others (0) to 0."""
    return x * tf.cast(keep, x.dtype) * tf.constant(operation.scale, x.dtype)


def concat(_: Concat, xs: Sequence[Tensor]) -> Tensor:
    """Join along the channels; one image repeated to several channels is copied twice as fast by `tile`."""
    first, *others = xs
    if all(x is first for x in others):
        return tf.tile(first, [1, 1, 1, len(xs)])
    return tf.concat(xs, axis=-1)


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return tf.sigmoid(x)


def probabilities(logits: Outputs) -> Outputs:
    """Return 1 / (1 + exp(-x)) of the logits of both heads."""
    return logits.mapped(sigmoid)


def forward(
    plan: Plan,
    images: Tensor,
    arrays: Mapping[str, Tensor],
    keep: Mapping[str, Tensor] | None,
    by_batch: Collection[str],
    context: Context,
    narrow: Narrow | None,
) -> tuple[Outputs, dict[str, Tensor]]:
    """Return the logits, and the statistics that normalised by the running ones' names.

    These are the batch's for the batch norms in `by_batch`. In training there is `keep`.
    """
    values = {plan.input.name: images}
    statistics: dict[str, Tensor] = {}
    convolve: Product = conv2d
    transpose: Product = conv_transpose2d
    if narrow == "tf32":
        convolve, transpose = in_tf32(conv2d), in_tf32(conv_transpose2d)
    elif narrow is not None:
        convolve, transpose = in_half(conv2d, narrow), in_half(conv_transpose2d, narrow)
    rectified = {op.input for op in plan.operations if isinstance(op, Relu)}
    transposed = {op.output.name for op in plan.operations if isinstance(op, ConvTranspose2D)}
    for op in plan.forward:
        x = values[op.input]
        match op:
            case Conv2D():
                y = convolve(op, x, arrays[op.kernel], context)
            case ConvTranspose2D():
                y = transpose(op, x, arrays[op.kernel], context)
            case Bias():
                only_with_relu = op.output.name in rectified and (
                    narrow is not None or op.input in transposed
                )
                y = bias(op, x, arrays[op.bias], context, only_with_relu)
            case Relu():
                y = relu(op, x)
            case BatchNorm():
                y, statistics[op.moving_mean], statistics[op.moving_variance] = batch_norm(
                    op,
                    x,
                    arrays[op.gamma],
                    arrays[op.beta],
                    arrays[op.moving_mean],
                    arrays[op.moving_variance],
                    context,
                    training=op.name in by_batch,
                )
            case Dropout():
                y = x if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                y = concat(op, [values[name] for name in op.inputs])
            case _ if type(op) in LAYERS:
                y = LAYERS[type(op)](op, *(values[name] for name in op.inputs))
            case _:
                raise unknown_operation(op, "tf")
        values[op.output.name] = y
    return Outputs.of(plan, values), statistics


def _unfolds(windows: Windows, channels: int, dtype: Any) -> bool:
    """Return whether unfolding is the fastest way to the kernel's gradient for an image of these channels.

    In bfloat16 it never is: oneDNN's kernel uses the processor's own products.
    """
    return dtype != tf.bfloat16 and (
        windows.are_pixels or (windows.stride > 1 and ENOUGH_CHANNELS.reached(channels))
    )


def _padding(operation: Conv2D | ConvTranspose2D, x: Tensor) -> cpu.Padding:
    """Return the pads or crops as TensorFlow's padding argument.

    It is "SAME" if they are what TensorFlow calls so, since TensorFlow then chooses oneDNN's faster kernels
    of the gradients. For a kernel smaller than the stride they are explicit: there oneDNN's kernels sometimes
    end the process by a segmentation fault (TensorFlow 2.21).
    """
    windows = _windows(operation, x)
    explicit = _explicit(windows.pads)
    sides = zip(windows.image, windows.taps, strict=True)
    counts, same = zip(*(same_pads(length, taps, windows.stride) for length, taps in sides), strict=True)
    is_same = (counts, _explicit(same)) == (windows.count, explicit)
    return "SAME" if is_same and min(windows.taps) >= windows.stride else explicit


def _windows(operation: Conv2D | ConvTranspose2D, x: Tensor) -> Windows:
    """Return the windows of the convolution, or of the one whose adjoint the transposed convolution is."""
    given, made = tuple(x.shape[1:3]), (operation.output.height, operation.output.width)
    taps, stride = operation.kernel_size, operation.stride
    if isinstance(operation, Conv2D):
        return Windows(given, made, taps, stride, operation.pads)
    return Windows(made, given, taps, stride, operation.crops)


def _explicit(pads: Sequence[Pads]) -> list[list[int]]:
    """Return the pads of all four axes. Zeros that a transposed convolution appends are not crops."""
    return [[0, 0], *([begin, max(end, 0)] for begin, end in pads), [0, 0]]
