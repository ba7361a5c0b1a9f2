"""The plan of a network: a flat list of primitive operations, which backends compile.

A plan contains everything that a backend needs, as explicit numbers. Pads and crops are pixels at each side
("SAME" is already resolved), every tensor has a name and a shape, and every scalar is already rounded to
float32. The operations are in topological order: inputs come before their use. Nothing here computes.

Shapes are (height, width, channels). Every array has a batch axis before them, which is omitted here.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from core.base.errors import UserError

Pads: TypeAlias = tuple[int, int]
"""Pixels at (begin, end) of one axis, where begin is the top or the left."""


@dataclass(frozen=True)
class Tensor:
    """Name and shape of one value of the plan, without the batch axis."""

    name: str
    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"


@dataclass(frozen=True)
class Constant:
    """Initial values: every element is `value`."""

    value: float


@dataclass(frozen=True)
class Uniform:
    """Initial values: uniform in [-bound, bound)."""

    bound: float


@dataclass(frozen=True)
class Parameter:
    """An array that the optimiser updates with its gradient."""

    name: str
    shape: tuple[int, ...]
    role: Literal["kernel", "bias", "gamma", "beta"]
    initial: Constant | Uniform

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Statistic:
    """A running average over batches, of shape (channels,)."""

    name: str
    shape: tuple[int, ...]
    initial: Constant

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operation:
    """A primitive operation: its name, the names of its inputs, and the shape of its result."""

    name: str
    inputs: tuple[str, ...]
    output: Tensor

    @property
    def input(self) -> str:
        """The first input's name; only `Concat`, `Add` and `Multiply` have more than this one."""
        return self.inputs[0]


@dataclass(frozen=True)
class Conv2D(Operation):
    """Cross-correlation, which every framework calls convolution.

    With x zero-padded by `pads`:
    y[i, j, o] = sum over a, b, c of x[i*stride + a, j*stride + b, c] * kernel[a, b, c, o].
    `kernel` names a parameter of shape (kernel height, kernel width, channels in, channels out).
    """

    kernel: str
    kernel_size: tuple[int, int]
    stride: int
    pads: tuple[Pads, Pads]


@dataclass(frozen=True)
class GroupedConv2D(Conv2D):
    """`Conv2D` with groups or a dilation, an operation of its own: a backend without it refuses it.

    Tap (a, b) meets x[i*stride + a*dilation, j*stride + b*dilation]. The channels in and out are cut into
    `groups` consecutive parts of equal size, and part k of the result is the convolution of part k of x. The
    kernel's shape is (kernel height, kernel width, channels in / groups, channels out): its last axis runs
    over the parts in order.
    """

    groups: int
    dilation: int


@dataclass(frozen=True)
class ConvTranspose2D(Operation):
    """The adjoint of `Conv2D` with the same stride; the pads of that convolution are the `crops` here.

    Every input pixel adds x[i, j] * kernel to the output at i*stride, j*stride. Then `crops` pixels are
    removed at each side. A negative end crop appends that many rows (columns) of zeros.
    `kernel` names a parameter of shape (kernel height, kernel width, channels out, channels in).
    """

    kernel: str
    kernel_size: tuple[int, int]
    stride: int
    crops: tuple[Pads, Pads]


@dataclass(frozen=True)
class Bias(Operation):
    """Add the parameter `bias` of shape (channels,) to every pixel."""

    bias: str


@dataclass(frozen=True)
class Relu(Operation):
    """max(x, 0), with gradient 0 at x = 0."""


@dataclass(frozen=True)
class BatchNorm(Operation):
    """Normalise each channel over batch, height and width (Ioffe and Szegedy, 2015).

    Training: y = gamma * (x - mean) / sqrt(variance + epsilon) + beta with the batch's mean and its
    *biased* variance, and running = momentum * running + (1 - momentum) * batch for both.
    Prediction: the running mean and variance replace the batch's.
    """

    gamma: str
    beta: str
    moving_mean: str
    moving_variance: str
    momentum: float
    epsilon: float


@dataclass(frozen=True)
class Dropout(Operation):
    """Inverted dropout (Srivastava et al., 2014): in training y = x * keep * scale, else y = x.

    `keep` is drawn independently for each element: 0 with probability `rate`, else 1. `scale` is
    1 / (1 - rate), rounded to float32.
    """

    rate: float
    scale: float


@dataclass(frozen=True)
class Concat(Operation):
    """Concatenate the inputs along the channels, in the given order."""


@dataclass(frozen=True)
class Activation(Operation):
    """A function of each element; `Relu` is an operation of its own.

    relu6         min(max(x, 0), 6); gradient 0 at x = 0 and at x = 6
    leaky_relu    x where x > 0, else slope * x; gradient `slope` at x = 0
    elu           x where x > 0, else exp(x) - 1; gradient 1 at x = 0
    silu          x / (1 + exp(-x))
    sigmoid       1 / (1 + exp(-x))

    `slope` counts for leaky_relu alone.
    """

    function: Literal["relu6", "leaky_relu", "elu", "silu", "sigmoid"]
    slope: float = 0.0


@dataclass(frozen=True)
class Add(Operation):
    """The sum of two inputs of the same shape."""


@dataclass(frozen=True)
class Multiply(Operation):
    """The first input, (h, w, c), with each channel multiplied by the second's number, (1, 1, c)."""


@dataclass(frozen=True)
class Affine(Operation):
    """x * scale + shift, with one number for each channel; nothing of it is trained."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]


@dataclass(frozen=True)
class _Pool(Operation):
    """A number for each window and channel; windows lie as those of `Conv2D`.

    `pads` are smaller than the kernel, so every window has a pixel of the image. They may be larger at the
    end than a window needs.
    """

    kernel_size: tuple[int, int]
    stride: int
    pads: tuple[Pads, Pads]


@dataclass(frozen=True)
class MaxPool2D(_Pool):
    """The largest number of a window; pads are minus infinity.

    The gradient goes to the largest pixel. Where several are equal, it goes to the first in row order.
    """


@dataclass(frozen=True)
class AveragePool2D(_Pool):
    """The mean of a window's pixels; pads do not count."""


@dataclass(frozen=True)
class GlobalMean(Operation):
    """The mean of each channel over height and width: (h, w, c) -> (1, 1, c)."""


@dataclass(frozen=True)
class Upsample(Operation):
    """Every axis `factor` times as long: (h, w, c) -> (h * factor, w * factor, c).

    nearest     y[i] = x[i // factor]
    bilinear    y[i] = x interpolated linearly at (i + 1/2) / factor - 1/2, where x's border repeats: pixel
                centres lie at halves
    """

    factor: int
    method: Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Existence(Operation):
    """1 / (1 + exp(-x)) of a number for each image, (1, 1, 1): the probability that its mask is not empty.

    A plan has it at most once, right before the `Sigmoid`. Its input is the logit of the existence head,
    which has a part of the loss (`core.backend.training_rules`). It is an operation of its own so that a
    backend without the head refuses the plan.
    """


@dataclass(frozen=True)
class Sigmoid(Operation):
    """1 / (1 + exp(-x)); it occurs only at the end, after the logits."""


@dataclass(frozen=True)
class Plan:
    """A network that can be compiled.

    Args:
        input: The images; its name is the input of the first operation.
        operations: The operations in topological order. The last is the `Sigmoid`, whose input are the
            logits that training works on. The one before it is the `Existence`, if the network has the head.
        parameters: The trained arrays in the order of their first use.
        statistics: Running mean and variance of every batch normalisation.
        blocks: The name of each block of the specification, with the name of its last operation.
    """

    input: Tensor
    operations: tuple[Operation, ...]
    parameters: tuple[Parameter, ...]
    statistics: tuple[Statistic, ...]
    blocks: tuple[tuple[str, str], ...] = field(default=())

    @property
    def arrays(self) -> tuple[Parameter | Statistic, ...]:
        """All arrays that a prediction depends on: parameters, then statistics."""
        return (*self.parameters, *self.statistics)

    @property
    def output(self) -> Operation:
        """The last operation, which computes probabilities from logits."""
        return self.operations[-1]

    @property
    def logits(self) -> str:
        """The name of the tensor that the loss is computed from."""
        return self.output.input

    @property
    def existence(self) -> Existence | None:
        """The operation that computes the probability of the existence head; None without the head."""
        return next((op for op in self.operations if isinstance(op, Existence)), None)

    @property
    def existence_logit(self) -> str | None:
        """The name of the tensor, (1, 1, 1), that the existence head's loss is computed from."""
        return None if self.existence is None else self.existence.input

    @property
    def forward(self) -> tuple[Operation, ...]:
        """The operations up to all logits: without the `Sigmoid` and the `Existence`."""
        return tuple(op for op in self.operations if not isinstance(op, Sigmoid | Existence))

    @property
    def dropouts(self) -> tuple[Dropout, ...]:
        """The operations that need a random mask in training."""
        return tuple(op for op in self.operations if isinstance(op, Dropout))

    @property
    def batch_norms(self) -> tuple[BatchNorm, ...]:
        """The operations that update running statistics in training."""
        return tuple(op for op in self.operations if isinstance(op, BatchNorm))


def require_operations(plan: Plan, known: Collection[type[Operation]], backend: str) -> None:
    """Raise if a plan has an operation that the backend does not implement.

    Args:
        plan: The plan to compile.
        known: The types of operation that the backend has, besides the `Sigmoid` at the end. A subclass
            counts as another operation.
        backend: Name of the backend, for the message.

    Raises:
        UserError: The plan has another operation, a `Sigmoid` before the end, or another one at the end.
    """
    *before, last = plan.operations
    unknown = [op for op in before if type(op) not in known]
    if type(last) is not Sigmoid:
        unknown.append(last)
    if unknown:
        raise unknown_operation(unknown[0], backend)


def unknown_operation(operation: Operation, backend: str) -> UserError:
    """Return the error for an operation that the backend does not have, or not at this place of a plan."""
    return UserError(
        f"{backend} has no operation {type(operation).__name__} at {operation.name!r}",
        "Use another backend (-f NAME), or a network without this operation.",
    )
