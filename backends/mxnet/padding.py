"""How the plan's pads become MXNet's, which are the same at both ends of an axis.

Promises: MXNet computes `Side.made` pixels, of which the plan's are the `Side.wanted` from `Side.first`
on. To cut those out copies the activation, and takes it out of the layout that oneDNN works in.

Seen in a mirror fewer cuts are needed. SAME puts the odd pixel at the end: (0, 1) for an even length,
kernel 3, stride 2, where MXNet has to pad 2 at both ends. In the mirror it is (1, 0), and padding 1 at
both ends gives just that: the pixel that it adds behind is never reached by the stride. So `best_mirror`
turns a network round along the axes where that spares cuts. Images, masks and kernels are reversed, and
everything between computes the same sums.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from numpy.typing import NDArray

from core.network.plan import Conv2D, ConvTranspose2D, Operation, Pads, Plan


class Side(NamedTuple):
    """One axis of a convolution.

    Attributes:
        padding: MXNet's `pad`.
        adjust: Pixels that a transposed convolution adds at the end, MXNet's `adj`.
        made: Pixels that come out.
        first: The first of them that is wanted.
        wanted: How many are.
    """

    padding: int
    adjust: int
    made: int
    first: int
    wanted: int

    @property
    def is_cut(self) -> bool:
        """Whether more come out than are wanted."""
        return self.made != self.wanted


def sides(operation: Conv2D | ConvTranspose2D, size: tuple[int, int]) -> tuple[Side, Side]:
    """Height and width of a convolution of an input of this size."""
    out = operation.output
    find = _convolved if isinstance(operation, Conv2D) else _transposed
    height, width = (
        find(length, taps, operation.stride, pads, wanted)
        for length, taps, pads, wanted in zip(
            size, operation.kernel_size, _pads(operation, size), (out.height, out.width), strict=True
        )
    )
    return height, width


@dataclass(frozen=True)
class Mirror:
    """Which axes are turned round."""

    rows: bool
    columns: bool

    def plan(self, plan: Plan) -> Plan:
        """The plan as it is in the mirror."""
        size_of = sizes(plan)
        return replace(
            plan, operations=tuple(self._operation(op, size_of[op.input]) for op in plan.operations)
        )

    def pixels(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of an (N, H, W, C)."""
        rows, columns = self._steps
        return array[:, rows, columns]

    def kernel(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of a (kernel height, kernel width, ., .)."""
        return array[self._steps]

    @property
    def axes(self) -> tuple[int, ...]:
        """Those turned round of an (N, H, W, C)."""
        return tuple(axis for axis, turned in ((1, self.rows), (2, self.columns)) if turned)

    @property
    def _steps(self) -> tuple[slice, slice]:
        return slice(None, None, -1 if self.rows else 1), slice(None, None, -1 if self.columns else 1)

    def _operation(self, operation: Operation, size: tuple[int, int]) -> Operation:
        pads = tuple(
            _turned(begin_and_end, turn)
            for begin_and_end, turn in zip(_pads(operation, size), (self.rows, self.columns), strict=True)
        )
        match operation:
            case Conv2D():
                return replace(operation, pads=(pads[0], pads[1]))
            case ConvTranspose2D():
                return replace(operation, crops=(pads[0], pads[1]))
        return operation


def best_mirror(plan: Plan) -> Mirror:
    """The one that leaves the fewest elements to be cut out; none if it makes no difference."""
    candidates = [Mirror(rows, columns) for rows, columns in itertools.product((False, True), repeat=2)]
    possible = [mirror for mirror in candidates if not any(map(_begins_early, mirror.plan(plan).operations))]
    return min(possible, key=lambda mirror: sum(_cut(mirror.plan(plan))))


def sizes(plan: Plan) -> dict[str, tuple[int, int]]:
    """Height and width of every tensor, by its name."""
    tensors = (plan.input, *(operation.output for operation in plan.operations))
    return {tensor.name: (tensor.height, tensor.width) for tensor in tensors}


def _cut(plan: Plan) -> Iterator[int]:
    """Elements of each output that has to be cut out."""
    known = sizes(plan)
    for operation in plan.operations:
        if isinstance(operation, Conv2D | ConvTranspose2D):
            height, width = sides(operation, known[operation.input])
            if height.is_cut or width.is_cut:
                yield height.made * width.made * operation.output.channels


def _begins_early(operation: Operation) -> bool:
    """Whether a convolution skips its first pixels, or a transposed one adds some: neither can MXNet do."""
    match operation:
        case Conv2D():
            return min(begin for begin, _ in operation.pads) < 0
        case ConvTranspose2D():
            return min(begin for begin, _ in operation.crops) < 0
    return False


def _pads(operation: Operation, size: tuple[int, int]) -> tuple[Pads, Pads]:
    """The pads or crops of a convolution; an end that no output reaches is negative."""
    match operation:
        case ConvTranspose2D():
            return operation.crops
        case Conv2D():
            reached = (
                (wanted - 1) * operation.stride + taps - length
                for wanted, taps, length in zip(
                    (operation.output.height, operation.output.width),
                    operation.kernel_size,
                    size,
                    strict=True,
                )
            )
            (top, _), (left, _) = operation.pads
            height, width = reached
            return (top, height - top), (left, width - left)
    return (0, 0), (0, 0)


def _turned(pads: Pads, turn: bool) -> Pads:
    begin, end = pads
    return (end, begin) if turn else pads


def _convolved(length: int, taps: int, stride: int, pads: Pads, wanted: int) -> Side:
    """The smallest padding, in step with the stride, that covers all pixels which an output reaches.

    Padding p >= begin at both ends shifts the output by (p - begin) / stride pixels.
    """
    begin, _ = pads
    padding = begin
    while True:
        first = (padding - begin) // stride
        made = (length + 2 * padding - taps) // stride + 1
        if made >= first + wanted:
            return Side(padding, 0, made, first, wanted)
        padding += stride


def _transposed(length: int, taps: int, stride: int, crops: Pads, wanted: int) -> Side:
    """The largest padding, which crops both ends alike, for which MXNet can still add what is missing."""
    begin, _ = crops
    for padding in range(begin, -1, -1):
        first = begin - padding
        made = (length - 1) * stride + taps - 2 * padding
        adjust = max(first + wanted - made, 0)
        if adjust < stride:  # MXNet demands it
            return Side(padding, adjust, made + adjust, first, wanted)
    raise AssertionError(crops)  # uncropped, less than a stride is missing
