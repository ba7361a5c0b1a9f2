"""Estimate of the memory that training a plan takes, from shapes alone and without importing a framework.

`estimate_training` counts the arrays that every framework needs for one update:

    state           parameters, running statistics, the optimiser's moments and moving averages
    gradients       one number for each trained parameter; of a batch in shards, the sums of several
    batch           images (float32) and masks (uint8) of this update and of the batches read ahead
    activations     the arrays that the forward pass keeps for the backward pass: the input of every
                    convolution and batch normalisation, the output of every ReLU, dropout masks, the logits
    transient       short-lived arrays, at the moment when memory is largest: gradients of activations, other
                    results, and one convolution's input and output in the layout of a kernel; or, with a
                    loss scale, the state before an update that may be skipped

The last two come from a walk through the plan, forwards and backwards, in which an array is freed after its
last use (reverse-mode differentiation without recomputation: Griewank and Walther, Evaluating Derivatives,
2008, chapter 4). Blocks before the first trained one keep nothing, and the walk backwards ends there. The
peak of PyTorch's allocator in a step is 0.92 to 1.01 times the estimate. A process takes more: see
`PROCESS_FACTOR`. `tests/backends/test_memory.py` measures both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from core.backend.contract import Precision, array_type
from core.backend.state import state_shapes
from core.backend.trained_part import trained_part
from core.backend.training_rules import TrainingRules
from core.network.plan import (
    Activation,
    BatchNorm,
    Bias,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    MaxPool2D,
    Multiply,
    Operation,
    Plan,
    Relu,
)

BATCHES = 3
"""Batches in memory at a time: the one that is trained on and two read ahead, as in `data.batches.loader`."""

PROCESS_FACTOR, PROCESS_BYTES = 1.5, 80_000_000
"""Memory of a process on a CPU: this factor times the arrays, plus these bytes, plus the imported framework.

Both were fitted to peaks of resident memory with TensorFlow and PyTorch. They cover oneDNN's buffers and
freed memory that the allocator keeps."""

_CONVOLUTIONS = (Conv2D, ConvTranspose2D)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by kind of array: see the module."""

    state: int
    gradients: int
    batch: int
    activations: int
    transient: int

    @property
    def arrays(self) -> int:
        """Bytes of all arrays."""
        return self.state + self.gradients + self.batch + self.activations + self.transient

    @property
    def process(self) -> int:
        """Approximate bytes of a process on a CPU, without the memory of the imported framework."""
        return round(PROCESS_FACTOR * self.arrays) + PROCESS_BYTES


def estimate_training(
    plan: Plan, rules: TrainingRules, batch_size: int, precision: Precision, shards: int = 1
) -> MemoryEstimate:
    """Estimate the memory of one update with `batch_size` images, which one worker computes.

    Of a batch in shards (`core.distribution.shards`), one shard is computed at a time, and the sums on the
    way to the root of the tree are kept: at most one on each level, and the newest shard's.
    """
    item = 8 if array_type(precision) == "float64" else 4
    sums = 1 if shards == 1 else 2 + (shards - 1).bit_length()
    trained = trained_part(plan, rules)
    walk = _Walk(plan, trained.tensors, -(-batch_size // shards), item)
    kept, most = walk.run()
    state = item * sum(map(math.prod, state_shapes(plan, rules).values()))
    if rules.loss_scale is not None:  # an update that may be skipped keeps the old state until its end
        most = max(most, state)
    pixels = batch_size * plan.input.height * plan.input.width
    return MemoryEstimate(
        state=state,
        gradients=item * sums * sum(parameter.size for parameter in trained.parameters),
        batch=BATCHES * pixels * (4 * plan.input.channels + 1),
        activations=kept,
        transient=most - kept,
    )


@dataclass
class _Walk:
    """A walk through one update that tracks which activations and gradients are alive, and their bytes."""

    plan: Plan
    trained: frozenset[str]
    batch: int
    item: int
    alive: set[str] = field(default_factory=set)
    masks: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        self._operations = self.plan.forward  # the loss is computed from the logits
        self._logits = [name for name in (self.plan.logits, self.plan.existence_logit) if name is not None]
        self._same: dict[str, str] = {}  # a bias is added in place
        image = self.plan.input
        self._bytes = {image.name: self._size(image.height * image.width * image.channels)}
        for op in self._operations:
            if isinstance(op, Bias):
                self._same[op.output.name] = self._name(op.input)
            out = op.output
            self._bytes[out.name] = self._size(out.height * out.width * out.channels)

    def run(self) -> tuple[int, int]:
        """Return the bytes kept by the forward pass, and the largest number of bytes alive at any moment."""
        self._forward()
        kept = self._held()
        self._backward()
        return kept, self.most

    def _forward(self) -> None:
        kept = {name for op in self._operations for name in self._kept_by(op)}
        kept |= {self._name(name) for name in self._logits}
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
        gradients = {self._name(name) for name in self._logits}
        for index in reversed(range(len(self._operations))):
            op = self._operations[index]
            if isinstance(op, Bias) or op.output.name not in self.trained:
                continue
            wanted = [name for name in self._inputs(op) if name != self.plan.input.name]
            # Two operations may read a tensor: both gradients exist before they are added.
            summands = self._sum(name for name in wanted if name in gradients)
            gradients.update(wanted)
            held = self._held() + self._sum(gradients) + summands + self._workspace(op)
            self.most = max(self.most, held)
            result = self._name(op.output.name)
            gradients.discard(result)
            self.masks -= self._mask(op)
            done = {name for name in (*self._kept_by(op), result) if first.get(name, index) >= index}
            self.alive -= done

    def _kept_by(self, op: Operation) -> list[str]:
        """Return the tensors that an operation's gradient needs, besides the gradient of its result."""
        if op.output.name not in self.trained:
            return []
        if isinstance(op, (*_CONVOLUTIONS, BatchNorm, Activation, MaxPool2D, Multiply)):
            return self._inputs(op)
        return [self._name(op.output.name)] if isinstance(op, Relu) else []

    def _inputs(self, op: Operation) -> list[str]:
        return [self._name(name) for name in op.inputs]

    def _mask(self, op: Operation) -> int:
        """Return the bytes of a dropout mask, one for each element; 0 for other operations."""
        return self._bytes[op.output.name] // self.item if isinstance(op, Dropout) else 0

    def _workspace(self, op: Operation) -> int:
        """Return the bytes of a convolution's input and output in a kernel's layout; else 0."""
        return self._sum((self._name(op.input), op.output.name)) if isinstance(op, _CONVOLUTIONS) else 0

    def _held(self) -> int:
        return self._sum(self.alive) + self.masks

    def _sum(self, names: Iterable[str]) -> int:
        return sum(self._bytes[name] for name in names)

    def _size(self, elements: int) -> int:
        return self.batch * self.item * elements

    def _name(self, name: str) -> str:
        """Return the name of the tensor whose memory a result uses."""
        return self._same.get(name, name)
