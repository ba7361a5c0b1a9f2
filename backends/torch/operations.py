"""The primitive operations of `core.network.plan` in PyTorch. Arrays are (N, C, H, W) inside.

On a GPU kernels are in `torch.channels_last`, and the results of convolutions of several channels follow
them. On the CPU (PyTorch 2.13) they are not: with it the kernel's gradient of a strided 1x1 transposed
convolution is wrong, batch norm adds pixel by pixel in float32, and the default network is no faster.

Kernels are (out, in, kh, kw) for convolutions and (in, out, kh, kw) for transposed ones: in both cases
`transpose(3, 2, 0, 1)` of the neutral layout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from backends.torch.framework import torch
from backends.torch.layers import LAYERS, per_channel
from core.backend.kernel_switches import Switch
from core.backend.outputs import Outputs
from core.base.rounding import Half, Narrow
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

Tensor = Any
"""A `torch.Tensor`; mypy skips PyTorch's own types, since they make it slow."""


Product = Callable[[Any, Tensor, Tensor], Tensor]
"""One of the two convolutions, a function of its operation, the image and the kernel."""

Products = tuple[Product, Product]
"""The convolution and the transposed one."""

SEVERAL_CHANNELS = Switch(
    "the kernel's gradient for one channel is a product of unfolded windows", "channels", 2
)
SEVERAL_PIXELS = Switch("a single pixel is its own mean", "pixels of a batch norm", 2)


def conv2d(operation: Conv2D, x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve. PyTorch's padding is symmetric, so additional pads at one side are added before."""
    padding, (rows, columns) = _symmetric(operation.pads)
    padded = _padded(x, rows, columns)
    dilation, groups = 1, 1
    if isinstance(operation, GroupedConv2D):
        dilation, groups = operation.dilation, operation.groups
    return torch.nn.functional.conv2d(padded, kernel, None, operation.stride, padding, dilation, groups)


def conv_transpose2d(operation: ConvTranspose2D, x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve transposed. PyTorch's crops are symmetric, so additional crops at one side are cut after."""
    trains_on_cpu = torch.is_grad_enabled() and x.device.type == "cpu"
    one_channel = trains_on_cpu and not SEVERAL_CHANNELS.reached(operation.output.channels)
    if one_channel and x.dtype != torch.bfloat16:
        return _TransposedToOneChannel.apply(x, kernel, operation)
    return _transposed(operation, x, kernel)


class _TransposedToOneChannel(torch.autograd.Function):  # type: ignore[misc] # mypy skips PyTorch's types
    """Transposed convolution to one channel, whose kernel's gradient is a product of unfolded windows.

    oneDNN's kernel adds one by one what nearly cancels: over a batch of radiographs it is off by 1e-4.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, kernel: Tensor, operation: ConvTranspose2D) -> Tensor:
        context.save_for_backward(x, kernel)
        context.operation = operation
        return _transposed(operation, x, kernel)

    @staticmethod
    def backward(context: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        (x, kernel), operation = context.saved_tensors, context.operation
        uncropped = _padded(dy, *operation.crops)  # so that it has every tap of every window
        dx = torch.nn.functional.conv2d(uncropped, kernel, None, operation.stride)
        windows = torch.nn.functional.unfold(uncropped, operation.kernel_size, stride=operation.stride)
        products = torch.bmm(windows, x.flatten(2).transpose(1, 2))  # (N, taps, channels in)
        return dx, products.sum(dim=0).t().reshape(kernel.shape), None


def _transposed(operation: ConvTranspose2D, x: Tensor, kernel: Tensor) -> Tensor:
    padding, ((top, bottom), (left, right)) = _symmetric(operation.crops)
    y = torch.nn.functional.conv_transpose2d(x, kernel, None, operation.stride, padding)
    return _padded(y, (-top, -bottom), (-left, -right))


def products(narrow: Narrow | None, multiplies: bool) -> Products:
    """Return the products in the precision of their operands, or rounded.

    `core.backend.training_rules` states the rounding.

    Args:
        narrow: The type that operands are rounded to; None for no rounding.
        multiplies: Whether the device's kernels multiply this type (see `devices`). Otherwise the product of
            the rounded operands is taken in float32.
    """
    if narrow is None or (narrow == "tf32" and multiplies):  # then the kernels round
        return conv2d, conv_transpose2d
    if narrow == "tf32":
        return _in_tf32(conv2d), _in_tf32(conv_transpose2d)
    return _in_half(conv2d, narrow, multiplies), _in_half(conv_transpose2d, narrow, multiplies)


def bias(_: Operation, x: Tensor, b: Tensor) -> Tensor:
    """Add b to every pixel."""
    return x + per_channel(b)


def relu(_: Operation, x: Tensor) -> Tensor:
    """Replace negative numbers by 0."""
    return torch.relu(x)


def batch_norm(
    operation: BatchNorm,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised input, and the mean and biased variance that normalised it."""
    count = x.numel() // x.shape[1]
    if training and not SEVERAL_PIXELS.reached(count):
        # PyTorch refuses a single pixel. It is its own mean, so the normalised input is 0.
        y = (x - x) * per_channel(gamma) + per_channel(beta)
        return y, x.detach().flatten(), torch.zeros_like(variance)
    if training:  # with momentum 1 the "running" arrays become the batch's
        mean, variance = torch.zeros_like(mean), torch.zeros_like(variance)
    momentum = 1.0 if training else 0.0
    y = torch.nn.functional.batch_norm(x, mean, variance, gamma, beta, training, momentum, operation.epsilon)
    # PyTorch's running average uses the Bessel-corrected variance.
    return y, mean, variance * ((count - 1) / count) if training else variance


def dropout(operation: Dropout, x: Tensor, keep: Tensor) -> Tensor:
    """Scale the elements to keep (1) up, and set the others (0) to 0."""
    return x * keep.to(x.dtype) * operation.scale


def concat(_: Concat, xs: Sequence[Tensor]) -> Tensor:
    """Join along the channels."""
    return torch.cat(list(xs), dim=1)


def sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def probabilities(logits: Outputs) -> Outputs:
    """Return 1 / (1 + exp(-x)) of the logits of both heads."""
    return logits.mapped(sigmoid)


def forward(
    plan: Plan,
    images: Tensor,
    arrays: Mapping[str, Tensor],
    keep: Mapping[str, Tensor] | None,
    by_batch: Collection[str],
    products: Products,
) -> tuple[Outputs, dict[str, Tensor]]:
    """Return the logits, and the statistics that normalised by the running ones' names.

    These are the batch's for the batch norms in `by_batch`. In training there is `keep`.
    """
    values = {plan.input.name: images}
    statistics: dict[str, Tensor] = {}
    convolve, transpose = products
    last_readers = {name: op.name for op in plan.operations for name in op.inputs}
    for op in plan.forward:
        x = values[op.input]
        match op:
            case Conv2D():
                y = convolve(op, x, arrays[op.kernel])
            case ConvTranspose2D():
                y = transpose(op, x, arrays[op.kernel])
            case Bias():
                y = bias(op, x, arrays[op.bias])
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
                    training=op.name in by_batch,
                )
            case Dropout():
                y = x if keep is None else dropout(op, x, keep[op.name])
            case Concat():
                y = concat(op, [values[name] for name in op.inputs])
            case _ if type(op) in LAYERS:
                y = LAYERS[type(op)](op, *(values[name] for name in op.inputs))
            case _:
                raise unknown_operation(op, "torch")
        values[op.output.name] = y
        for name in set(op.inputs):
            if last_readers[name] == op.name:  # autograd keeps what it needs of it
                del values[name]
    return Outputs.of(plan, values), statistics


def _in_half(product: Product, half: Half, multiplies: bool) -> Product:
    dtype = getattr(torch, half)

    def rounded(operation: Any, x: Tensor, kernel: Tensor) -> Tensor:
        x, kernel = x.to(dtype), kernel.to(dtype)  # gradients are rounded as values are
        if not multiplies:
            x, kernel = x.to(torch.float32), kernel.to(torch.float32)
        return product(operation, x, kernel).to(dtype).to(torch.float32)

    return rounded


def _in_tf32(product: Product) -> Product:
    def rounded(operation: Any, x: Tensor, kernel: Tensor) -> Tensor:
        y = product(operation, _Tf32.apply(x, True), _Tf32.apply(kernel, True))
        return _Tf32.apply(y, False)

    return rounded


class _Tf32(torch.autograd.Function):  # type: ignore[misc] # as Prediction
    """Rounding to TF32, as float32: of the values or of their gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, of_values: bool) -> Tensor:
        ctx.of_values = of_values
        return _to_tf32(x) if of_values else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return dy if ctx.of_values else _to_tf32(dy), None


def _to_tf32(x: Tensor) -> Tensor:
    """Round to nearest, ties to even, in the bits, of which the last 13 become 0."""
    bits = x.view(torch.int32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return torch.where(x.isnan(), x, rounded.view(torch.float32))


def _symmetric(sides: tuple[Pads, Pads]) -> tuple[tuple[int, int], tuple[Pads, Pads]]:
    """Return the pads that both sides of height and width have, and what is left at each side."""
    (top, bottom), (left, right) = sides
    y, x = max(min(top, bottom), 0), max(min(left, right), 0)
    return (y, x), ((top - y, bottom - y), (left - x, right - x))


def _padded(x: Tensor, rows: Pads, columns: Pads) -> Tensor:
    """Add zeros at each side; a negative number cuts pixels off."""
    return torch.nn.functional.pad(x, (*columns, *rows)) if any((*rows, *columns)) else x
