"""Each primitive operation of `core.network.plan` in TensorFlow. Arrays are (N, H, W, C)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.tf import cpu, fused_batch_norm
from backends.tf.framework import Tensor, tf
from backends.tf.im2col import Windows
from core.backend.kernel_switches import Switch
from core.network.lowering import same_pads
from core.network.plan import (
    BatchNorm,
    Bias,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Operation,
    Pads,
    Plan,
    Relu,
    unknown_operation,
)

OPERATIONS = (BatchNorm, Bias, Concat, Conv2D, ConvTranspose2D, Dropout, Relu)
"""What `forward` computes: all that may stand before the sigmoid."""

WIDE = Switch("windows are unfolded, whose pixels have enough channels", "channels", 16)
SEVERAL = Switch("one channel has kernels of its own", "channels", 2)


@dataclass(frozen=True)
class Use:
    """Where a graph runs and what for, which decides between kernels that compute the same.

    Attributes:
        on_cpu: The device.
        training: Whether gradients are taken.
        multiplies_bfloat16: Whether kernels may be used that multiply such numbers, and add in float32.
    """

    on_cpu: bool
    training: bool
    multiplies_bfloat16: bool

    @property
    def trains_on_cpu(self) -> bool:
        """Whether the kernels are chosen by hand (`backends.tf.cpu`)."""
        return self.on_cpu and self.training


Product = Callable[[Any, Tensor, Tensor, Use], Tensor]
"""One of the two convolutions, of its operation, the image and the kernel."""


def conv2d(operation: Conv2D, x: Tensor, kernel: Tensor, use: Use) -> Tensor:
    """Convolution with the plan's pads."""
    pads = _padding(operation, x)
    windows = _windows(operation, x)
    if use.trains_on_cpu and _unfolds(windows, x.shape[-1], x.dtype):
        return cpu.convolution(x, kernel, windows, pads)
    return tf.nn.conv2d(x, kernel, operation.stride, pads)


def conv_transpose2d(operation: ConvTranspose2D, x: Tensor, kernel: Tensor, use: Use) -> Tensor:
    """The gradient of the convolution whose pads are the crops; an end short of pixels is zeros."""
    out = operation.output
    shape = tf.stack([tf.shape(x)[0], out.height, out.width, out.channels])
    pads = _padding(operation, x)
    windows = _windows(operation, x)
    if use.on_cpu and not SEVERAL.reached(out.channels) and pads == "SAME":
        if use.training:
            return cpu.transposed_to_one_channel(x, kernel, windows)
        pads = _explicit(operation.crops)  # which bring Eigen's kernel; oneDNN's computes 16 channels
    if use.trains_on_cpu and _unfolds(windows, out.channels, x.dtype):
        return cpu.transposed_convolution(x, kernel, shape, windows, pads)
    return tf.nn.conv2d_transpose(x, kernel, shape, operation.stride, pads)


def in_bfloat16(product: Product) -> Product:
    """The product of precision "mixed_bfloat16". `tf.cast` rounds gradients as it rounds values.

    `core.backend.training_rules` states the rounding.

    Without kernels of bfloat16, and where they would be Eigen's, it is taken in float32, of rounded operands.
    """

    def rounded(operation: Any, x: Tensor, kernel: Tensor, use: Use) -> Tensor:
        x, kernel = tf.cast(x, tf.bfloat16), tf.cast(kernel, tf.bfloat16)
        several = SEVERAL.reached(operation.output.channels)
        by_eigen = use.on_cpu and not (several and _padding(operation, x) == "SAME")
        if by_eigen or not use.multiplies_bfloat16:
            x, kernel = tf.cast(x, tf.float32), tf.cast(kernel, tf.float32)
        return tf.cast(tf.cast(product(operation, x, kernel, use), tf.bfloat16), tf.float32)

    return rounded


def bias(_: Operation, x: Tensor, b: Tensor, use: Use, only_with_relu: bool) -> Tensor:
    """Add b to every pixel; `only_with_relu` as in `cpu.bias`."""
    if not SEVERAL.reached(x.shape[-1]):
        return x + b  # its gradient is the faster one
    if use.trains_on_cpu:
        return cpu.bias(x, b, only_with_relu=only_with_relu and x.dtype == tf.float32)
    return tf.nn.bias_add(x, b)


def relu(_: Operation, x: Tensor) -> Tensor:
    """Negative numbers become 0."""
    return tf.nn.relu(x)


def batch_norm(
    operation: BatchNorm,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    use: Use,
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised input, and the mean and biased variance that normalised it."""
    epsilon = operation.epsilon
    if x.dtype == tf.float64:  # the fused kernel has no float64
        if use.training:
            mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon), mean, variance
    if not use.training:
        return fused_batch_norm.by_known(x, gamma, beta, mean, variance, epsilon), mean, variance
    by_own = cpu.batch_norm if use.on_cpu else fused_batch_norm.by_own
    return by_own(x, gamma, beta, epsilon)


def dropout(operation: Dropout, x: Tensor, keep: Tensor) -> Tensor:
    """Elements to keep, scaled up; the others 0."""
    return x * tf.cast(keep, x.dtype) * tf.constant(operation.scale, x.dtype)


def concat(_: Concat, xs: Sequence[Tensor]) -> Tensor:
    """Join along the channels."""
    return tf.concat(xs, axis=-1)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return tf.sigmoid(x)


def forward(
    plan: Plan,
    images: Tensor,
    arrays: Mapping[str, Tensor],
    keep: Mapping[str, Tensor] | None,
    use: Use,
    mixed: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits and, in training, the batch's statistics by the running ones' names."""
    values = {plan.input.name: images}
    statistics: dict[str, Tensor] = {}
    convolve: Product = conv2d
    transpose: Product = conv_transpose2d
    if mixed:
        convolve, transpose = in_bfloat16(conv2d), in_bfloat16(conv_transpose2d)
    rectified = {op.input for op in plan.operations if isinstance(op, Relu)}
    transposed = {op.output.name for op in plan.operations if isinstance(op, ConvTranspose2D)}
    for op in plan.operations[:-1]:
        x = values[op.input]
        match op:
            case Conv2D():
                y = convolve(op, x, arrays[op.kernel], use)
            case ConvTranspose2D():
                y = transpose(op, x, arrays[op.kernel], use)
            case Bias():
                only_with_relu = op.output.name in rectified and (mixed or op.input in transposed)
                y = bias(op, x, arrays[op.bias], use, only_with_relu)
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
                    use,
                )
            case Dropout():
                y = x if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                y = concat(op, [values[name] for name in op.inputs])
            case _:
                raise unknown_operation(op, "tf")
        values[op.output.name] = y
    return values[plan.logits], statistics


def _unfolds(windows: Windows, channels: int, dtype: Any) -> bool:
    """Whether the kernel's gradient is sooner a product of unfolded windows, of an image of so many channels.

    That of bfloat16 is a kernel of oneDNN that uses the processor's own products.
    """
    return dtype != tf.bfloat16 and (windows.are_pixels or (windows.stride > 1 and WIDE.reached(channels)))


def _padding(operation: Conv2D | ConvTranspose2D, x: Tensor) -> cpu.Padding:
    """The pads or crops in TensorFlow's words.

    Where they are what it calls SAME they are called so: oneDNN's kernels of the gradients are chosen then,
    which take up to a third less time. But not for a kernel smaller than the stride: over one, they end
    the process now and then by a segmentation fault (TensorFlow 2.21).
    """
    windows = _windows(operation, x)
    explicit = _explicit(windows.pads)
    sides = zip(windows.image, windows.taps, strict=True)
    counts, same = zip(*(same_pads(length, taps, windows.stride) for length, taps in sides), strict=True)
    is_same = (counts, _explicit(same)) == (windows.count, explicit)
    return "SAME" if is_same and min(windows.taps) >= windows.stride else explicit


def _windows(operation: Conv2D | ConvTranspose2D, x: Tensor) -> Windows:
    """Those of the convolution, or of the one whose adjoint this is."""
    given, made = tuple(x.shape[1:3]), (operation.output.height, operation.output.width)
    taps, stride = operation.kernel_size, operation.stride
    if isinstance(operation, Conv2D):
        return Windows(given, made, taps, stride, operation.pads)
    return Windows(made, given, taps, stride, operation.crops)


def _explicit(pads: Sequence[Pads]) -> list[list[int]]:
    """The pads of all four axes; zeros that a transposed convolution appends are no crops."""
    return [[0, 0], *([begin, max(end, 0)] for begin, end in pads), [0, 0]]
