"""The table of a network that `run.py` prints before training, and the work that an image takes."""

from __future__ import annotations

from dataclasses import dataclass

from core.network.plan import AveragePool2D, Conv2D, ConvTranspose2D, MaxPool2D, Operation, Plan


@dataclass(frozen=True)
class BlockSummary:
    """A row of the table: one block.

    Args:
        name: The block's name.
        operations: Its primitive operations, abbreviated.
        output: Shape of its result, without the batch axis.
        parameters: Number of elements of its trained arrays.
    """

    name: str
    operations: str
    output: str
    parameters: int


def summarise_plan(plan: Plan) -> list[BlockSummary]:
    """Return a row for each block, in order."""
    rows = []
    for name, last in plan.blocks:
        own = [op for op in plan.operations if op.name.split("/")[0] == name]
        output = next(op.output for op in own if op.output.name == last)
        parameters = sum(array.size for array in plan.parameters if array.name.split("/")[0] == name)
        rows.append(BlockSummary(name, ", ".join(map(_short, own)), str(output), parameters))
    return rows


def multiply_adds(plan: Plan) -> int:
    """Return how many products of two numbers the convolutions add up to predict one image.

    Every element of a kernel meets every pixel of the result once, or of the input if the convolution is
    transposed. Products with padding and with pixels that are cropped count too. An update takes about three
    times as many: the gradients of the input and of the kernel need as many each.
    """
    sizes = {parameter.name: parameter.size for parameter in plan.parameters}
    values = {plan.input.name: plan.input} | {op.output.name: op.output for op in plan.operations}
    total = 0
    for op in plan.operations:
        if isinstance(op, Conv2D | ConvTranspose2D):
            pixels = op.output if isinstance(op, Conv2D) else values[op.input]
            total += pixels.height * pixels.width * sizes[op.kernel]
    return total


def _short(operation: Operation) -> str:
    kind = operation.name.split("/")[-1].replace("_", " ")
    if isinstance(operation, Conv2D | ConvTranspose2D | MaxPool2D | AveragePool2D):
        return f"{kind} {operation.kernel_size[0]}x{operation.kernel_size[1]}/{operation.stride}"
    return kind
