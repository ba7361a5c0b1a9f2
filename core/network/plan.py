"""The plan: what a specification means, as a flat list of primitive operations.

Promises: a plan says everything a backend needs, in explicit numbers. Paddings and crops are counted
in pixels at each side, so no backend meets the word "SAME"; every tensor has a name and a shape;
every scalar is already rounded to float32. Operations stand in an order in which each one's inputs
are ready. Nothing here computes anything.

Shapes are (height, width, channels); the batch axis comes first in every array and is left out here.
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
    """The shape of one value of the plan, the batch axis left out."""

    name: str
    height: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}x{self.channels}"


@dataclass(frozen=True)
class Constant:
    """Initially every element is `value`."""

    value: float


@dataclass(frozen=True)
class Uniform:
    """Initially uniform in [-bound, bound)."""

    bound: float


@dataclass(frozen=True)
class Parameter:
    """An array that training changes by its gradient."""

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
    """An array that training changes by averaging over batches: shape (channels,)."""

    name: str
    shape: tuple[int, ...]
    initial: Constant

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Operation:
    """What all primitive operations have: a name, the names of the inputs, the shape of the result."""

    name: str
    inputs: tuple[str, ...]
    output: Tensor

    @property
    def input(self) -> str:
        """The first input's name; the only one of every operation but `Concat`."""
        return self.inputs[0]


@dataclass(frozen=True)
class Conv2D(Operation):
    """Cross-correlation, as every framework means by convolution.

    With x zero-padded by `pads`:
    y[i, j, o] = sum over a, b, c of x[i*stride + a, j*stride + b, c] * kernel[a, b, c, o].
    `kernel` names a parameter of shape (kernel height, kernel width, channels in, channels out).
    """

    kernel: str
    kernel_size: tuple[int, int]
    stride: int
    pads: tuple[Pads, Pads]


@dataclass(frozen=True)
class ConvTranspose2D(Operation):
    """The adjoint of `Conv2D` with the same stride, its pads being the `crops` here.

    Every input pixel adds x[i, j] * kernel to the output at i*stride, j*stride; then `crops` pixels
    are cut off at each side. A negative end crop appends that many rows (columns) of zeros.
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
    Prediction: the running mean and variance take the batch's place.
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

    `keep` is 0 with probability `rate`, drawn for each element on its own, else 1; `scale` is
    1 / (1 - rate) rounded to float32.
    """

    rate: float
    scale: float


@dataclass(frozen=True)
class Concat(Operation):
    """Join the inputs along the channels, in the order given."""


@dataclass(frozen=True)
class Sigmoid(Operation):
    """1 / (1 + exp(-x)); stands only at the end, after the logits."""


@dataclass(frozen=True)
class Plan:
    """A network, ready to be compiled.

    Args:
        input: The images; its name is the input of the first operation.
        operations: In an order in which inputs are ready. The last is the `Sigmoid`, whose
            input are the logits that training works on.
        parameters: In the order of their first use.
        statistics: Running mean and variance of every batch normalisation.
        blocks: For each block of the specification its name and the name of its last operation.
    """

    input: Tensor
    operations: tuple[Operation, ...]
    parameters: tuple[Parameter, ...]
    statistics: tuple[Statistic, ...]
    blocks: tuple[tuple[str, str], ...] = field(default=())

    @property
    def arrays(self) -> tuple[Parameter | Statistic, ...]:
        """All that a prediction depends on: parameters, then statistics."""
        return (*self.parameters, *self.statistics)

    @property
    def output(self) -> Operation:
        """The last operation: logits to probabilities."""
        return self.operations[-1]

    @property
    def logits(self) -> str:
        """Name of the tensor that the loss is computed from."""
        return self.output.input

    @property
    def dropouts(self) -> tuple[Dropout, ...]:
        """The operations that need a random mask in training."""
        return tuple(op for op in self.operations if isinstance(op, Dropout))

    @property
    def batch_norms(self) -> tuple[BatchNorm, ...]:
        """The operations that move running statistics in training."""
        return tuple(op for op in self.operations if isinstance(op, BatchNorm))


def require_operations(plan: Plan, known: Collection[type[Operation]], backend: str) -> None:
    """Refuse a plan that a backend cannot compute, before anything is computed.

    Args:
        plan: What is to be compiled.
        known: The operations that the backend has besides the `Sigmoid` at the end. A subclass of one is
            another operation.
        backend: Its name, for the message.

    Raises:
        UserError: The plan has another operation, a `Sigmoid` before the end, or something else there.
    """
    *before, last = plan.operations
    unknown = [op for op in before if type(op) not in known]
    if type(last) is not Sigmoid:
        unknown.append(last)
    if unknown:
        raise unknown_operation(unknown[0], backend)


def unknown_operation(operation: Operation, backend: str) -> UserError:
    """What a backend raises for an operation that it does not have where it stands in a plan."""
    return UserError(
        f"{backend} has no operation {type(operation).__name__} at {operation.name!r}",
        "Use another backend (-f NAME), or a network without this operation.",
    )
