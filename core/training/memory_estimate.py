"""How much memory training a plan takes: an estimate from shapes alone, which imports no framework.

Provides `estimate_training`. It counts the arrays that every framework needs for one update:

    state           parameters, running statistics and the optimiser's moments
    gradients       one number a parameter
    batch           images (float32) and masks (uint8) of this update and of those that are read ahead
    activations     what the forward pass keeps for the backward pass: the input of every convolution and of
                    every batch normalisation, the output of every ReLU, the mask of every dropout, the logits
    transient       what lives only for a moment, where the sum is largest: gradients of activations, results
                    that nobody keeps, and one convolution's input and output in a kernel's own layout

The last two come from a walk through the plan, forwards and backwards, in which an array is freed after its
last use (reverse-mode differentiation without recomputation: Griewank and Walther, Evaluating Derivatives,
2008, chapter 4). What PyTorch's allocator hands out at most in a step is 0.92 to 1.01 of it; a process takes
more, see `PROCESS_FACTOR`. `tests/backends/test_memory.py` measures both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from core.backend.contract import Precision, array_type
from core.backend.state import state_shapes
from core.backend.training_rules import TrainingRules
from core.network.plan import BatchNorm, Bias, Conv2D, ConvTranspose2D, Dropout, Operation, Plan, Relu

BATCHES = 3
"""In memory at a time: the one that is trained on and, as in `data.batches.loader`, two read ahead."""

PROCESS_FACTOR, PROCESS_BYTES = 1.5, 80_000_000
"""A process on a CPU takes about this many times the arrays, this many bytes, and its framework's import.

Fitted to peaks of resident memory with TensorFlow and PyTorch: on top come oneDNN's buffers and freed memory
that the allocator keeps."""

_CONVOLUTIONS = (Conv2D, ConvTranspose2D)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what takes them; see the module."""

    state: int
    gradients: int
    batch: int
    activations: int
    transient: int

    @property
    def arrays(self) -> int:
        """All of it."""
        return self.state + self.gradients + self.batch + self.activations + self.transient

    @property
    def process(self) -> int:
        """What a process on a CPU takes for it, about, its framework's own memory left out."""
        return round(PROCESS_FACTOR * self.arrays) + PROCESS_BYTES


def estimate_training(
    plan: Plan, rules: TrainingRules, batch_size: int, precision: Precision
) -> MemoryEstimate:
    """The memory of one update with `batch_size` images."""
    item = 8 if array_type(precision) == "float64" else 4
    walk = _Walk(plan, batch_size, item)
    kept, most = walk.through()
    pixels = batch_size * plan.input.height * plan.input.width
    return MemoryEstimate(
        state=item * sum(map(math.prod, state_shapes(plan, rules).values())),
        gradients=item * sum(parameter.size for parameter in plan.parameters),
        batch=BATCHES * pixels * (4 * plan.input.channels + 1),
        activations=kept,
        transient=most - kept,
    )


@dataclass
class _Walk:
    """One update's activations and their gradients: which are alive, and their bytes together."""

    plan: Plan
    batch: int
    item: int
    alive: set[str] = field(default_factory=set)
    masks: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        self._operations = self.plan.operations[:-1]  # the loss is computed from the logits
        self._same: dict[str, str] = {}  # a bias is added in place
        image = self.plan.input
        self._bytes = {image.name: self._size(image.height * image.width * image.channels)}
        for op in self._operations:
            if isinstance(op, Bias):
                self._same[op.output.name] = self._name(op.input)
            out = op.output
            self._bytes[out.name] = self._size(out.height * out.width * out.channels)

    def through(self) -> tuple[int, int]:
        """Bytes that the forward pass keeps, and the most that live at any moment of the update."""
        self._forward()
        kept = self._held()
        self._backward()
        return kept, self.most

    def _forward(self) -> None:
        kept = {name for op in self._operations for name in self._kept_by(op)} | {
            self._name(self.plan.logits)
        }
        last = {self._name(name): index for index, op in enumerate(self._operations) for name in op.inputs}
        self.alive = {self.plan.input.name}
        for index, op in enumerate(self._operations):
            self.alive.add(self._name(op.output.name))
            self.masks += self._mask(op)
            self.most = max(self.most, self._held() + self._workspace(op))
            self.alive -= {name for name in self._inputs(op) if last[name] == index and name not in kept}

    def _backward(self) -> None:
        first: dict[str, int] = {}
        for index, op in enumerate(self._operations):
            for name in self._kept_by(op):
                first.setdefault(name, index)
        gradients = {self._name(self.plan.logits)}
        for index in reversed(range(len(self._operations))):
            op = self._operations[index]
            if isinstance(op, Bias):
                continue
            wanted = [name for name in self._inputs(op) if name != self.plan.input.name]
            summands = self._sum(name for name in wanted if name in gradients)  # of a tensor with two readers
            gradients.update(wanted)
            held = self._held() + self._sum(gradients) + summands + self._workspace(op)
            self.most = max(self.most, held)
            result = self._name(op.output.name)
            gradients.discard(result)
            self.masks -= self._mask(op)
            done = {name for name in (*self._kept_by(op), result) if first.get(name, index) >= index}
            self.alive -= done

    def _kept_by(self, op: Operation) -> list[str]:
        """What the gradient of an operation is computed from, beside the gradient of its result."""
        if isinstance(op, (*_CONVOLUTIONS, BatchNorm)):
            return [self._name(op.input)]
        return [self._name(op.output.name)] if isinstance(op, Relu) else []

    def _inputs(self, op: Operation) -> list[str]:
        return [self._name(name) for name in op.inputs]

    def _mask(self, op: Operation) -> int:
        """Bytes of a dropout's mask, one an element."""
        return self._bytes[op.output.name] // self.item if isinstance(op, Dropout) else 0

    def _workspace(self, op: Operation) -> int:
        """Bytes of a convolution's input and output in a kernel's own layout."""
        return self._sum((self._name(op.input), op.output.name)) if isinstance(op, _CONVOLUTIONS) else 0

    def _held(self) -> int:
        return self._sum(self.alive) + self.masks

    def _sum(self, names: Iterable[str]) -> int:
        return sum(self._bytes[name] for name in names)

    def _size(self, elements: int) -> int:
        return self.batch * self.item * elements

    def _name(self, name: str) -> str:
        """The tensor whose memory a result has."""
        return self._same.get(name, name)
