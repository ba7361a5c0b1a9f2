"""Conversion of the plan's pads to MXNet's, which are the same at both ends of an axis.

MXNet computes `AxisPadding.made` pixels. The plan's are the `wanted` ones from `first` on. To cut these out
copies the activation and takes it out of oneDNN's layout.

Fewer cuts are needed if the network computes flipped images. SAME puts the odd pixel at the end: (0, 1) for
an even length, kernel 3, stride 2, where MXNet has to pad 2 at both ends and to cut. Flipped, the pads are
(1, 0). Padding 1 at both ends gives the same result, since the stride never reaches the pixel at the end. So
`best_flip` chooses the axes along which a flip saves cuts. Images, masks and kernels are reversed, and all
operations compute the same sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from core.network.plan import (
    AveragePool2D,
    Conv2D,
    ConvTranspose2D,
    GroupedConv2D,
    MaxPool2D,
    Operation,
    Pads,
    Plan,
)


class AxisPadding(NamedTuple):
    """The padding of a convolution along one axis.

    Attributes:
        padding: MXNet's `pad`.
        adjust: Pixels that a transposed convolution adds at the end, MXNet's `adj`.
        made: Number of pixels that MXNet computes.
        first: Index of the first of them that belongs to the plan's output.
        wanted: Number of pixels of the plan's output.
    """

    padding: int
    adjust: int
    made: int
    first: int
    wanted: int

    @property
    def is_cut(self) -> bool:
        """Whether MXNet computes more pixels than are wanted."""
        return self.made != self.wanted


def axis_paddings(
    operation: Conv2D | ConvTranspose2D, size: tuple[int, int]
) -> tuple[AxisPadding, AxisPadding]:
    """Return the paddings along height and width for an input of this size."""
    out = operation.output
    find = _of_convolution if isinstance(operation, Conv2D) else _of_transposed_convolution
    height, width = (
        find(length, taps, operation.stride, pads, wanted)
        for length, taps, pads, wanted in zip(
            size, _reach(operation), _pads(operation, size), (out.height, out.width), strict=True
        )
    )
    return height, width


@dataclass(frozen=True)
class Flip:
    """Whether a network computes images with the order of rows, or of columns, reversed."""

    rows: bool
    columns: bool

    def plan(self, plan: Plan) -> Plan:
        """Return the plan for flipped images and kernels."""
        size_of = sizes(plan)
        return replace(plan, operations=tuple(self._flipped(op, size_of[op.input]) for op in plan.operations))

    def pixels(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a flipped view of images, (N, H, W, C)."""
        rows, columns = self._steps
        return array[:, rows, columns]

    def kernel(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a flipped view of a kernel, (kernel height, kernel width, ., .)."""
        return array[self._steps]

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of an (N, H, W, C) that are reversed."""
        return tuple(axis for axis, reverse in ((1, self.rows), (2, self.columns)) if reverse)

    @property
    def _steps(self) -> tuple[slice, slice]:
        return slice(None, None, -1 if self.rows else 1), slice(None, None, -1 if self.columns else 1)

    def _flipped(self, operation: Operation, size: tuple[int, int]) -> Operation:
        pads = tuple(
            (end, begin) if reverse else (begin, end)
            for (begin, end), reverse in zip(_pads(operation, size), (self.rows, self.columns), strict=True)
        )
        match operation:
            case Conv2D():
                return replace(operation, pads=(pads[0], pads[1]))
            case ConvTranspose2D():
                return replace(operation, crops=(pads[0], pads[1]))
        return operation


def best_flip(plan: Plan) -> Flip:
    """Return the flip that leaves the fewest elements to be cut out; no flip if it makes no difference.

    A network with pools is not flipped: which of several equal numbers is the first depends on the order.
    """
    if any(isinstance(operation, MaxPool2D | AveragePool2D) for operation in plan.operations):
        return Flip(rows=False, columns=False)
    candidates = [Flip(rows, columns) for rows, columns in itertools.product((False, True), repeat=2)]
    possible = [flip for flip in candidates if not any(map(_begins_early, flip.plan(plan).operations))]
    return min(possible, key=lambda flip: sum(_sizes_of_cut_outputs(flip.plan(plan))))


def sizes(plan: Plan) -> dict[str, tuple[int, int]]:
    """Return height and width of every tensor, by its name."""
    tensors = (plan.input, *(operation.output for operation in plan.operations))
    return {tensor.name: (tensor.height, tensor.width) for tensor in tensors}


def _sizes_of_cut_outputs(plan: Plan) -> Iterator[int]:
    """Yield the number of elements of each output that has to be cut."""
    known = sizes(plan)
    for operation in plan.operations:
        if isinstance(operation, Conv2D | ConvTranspose2D):
            height, width = axis_paddings(operation, known[operation.input])
            if height.is_cut or width.is_cut:
                yield height.made * width.made * operation.output.channels


def _begins_early(operation: Operation) -> bool:
    """Whether a convolution skips its first pixels, or a transposed one adds some: MXNet can do neither."""
    match operation:
        case Conv2D():
            return min(begin for begin, _ in operation.pads) < 0
        case ConvTranspose2D():
            return min(begin for begin, _ in operation.crops) < 0
    return False


def _reach(operation: Conv2D | ConvTranspose2D) -> tuple[int, int]:
    """Return from the first tap of a kernel to the last, both included, down and across."""
    dilation = operation.dilation if isinstance(operation, GroupedConv2D) else 1
    height, width = ((taps - 1) * dilation + 1 for taps in operation.kernel_size)
    return height, width


def _pads(operation: Operation, size: tuple[int, int]) -> tuple[Pads, Pads]:
    """Return the pads or crops of a convolution; the pad at an end that no output reaches is negative."""
    match operation:
        case ConvTranspose2D():
            return operation.crops
        case Conv2D():
            reached = (
                (wanted - 1) * operation.stride + taps - length
                for wanted, taps, length in zip(
                    (operation.output.height, operation.output.width),
                    _reach(operation),
                    size,
                    strict=True,
                )
            )
            (top, _), (left, _) = operation.pads
            height, width = reached
            return (top, height - top), (left, width - left)
    return (0, 0), (0, 0)


def _of_convolution(length: int, taps: int, stride: int, pads: Pads, wanted: int) -> AxisPadding:
    """Return the smallest padding that covers all pixels which an output reaches.

    Padding p at both ends shifts the output by (p - begin) / stride pixels. So p - begin must be a multiple
    of the stride, and not negative.
    """
    begin, _ = pads
    padding = begin
    while True:
        first = (padding - begin) // stride
        made = (length + 2 * padding - taps) // stride + 1
        if made >= first + wanted:
            return AxisPadding(padding, 0, made, first, wanted)
        padding += stride


def _of_transposed_convolution(length: int, taps: int, stride: int, crops: Pads, wanted: int) -> AxisPadding:
    """Return the largest padding for which MXNet can still add the pixels that are missing at the end.

    The padding of a transposed convolution crops both ends.
    """
    begin, _ = crops
    for padding in range(begin, -1, -1):
        first = begin - padding
        made = (length - 1) * stride + taps - 2 * padding
        adjust = max(first + wanted - made, 0)
        if adjust < stride:  # MXNet requires it
            return AxisPadding(padding, adjust, made + adjust, first, wanted)
    raise AssertionError(crops)  # without a crop, fewer pixels than the stride are missing
