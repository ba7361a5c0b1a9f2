"""The part of a plan that is trained, and at which rates: `training.freeze` and `training.rates`.

A name in either of them is that of a block. Where no block is called so, it stands for all blocks whose names
begin with it and "_": `encoder` for the whole encoder, `encoder_3` for its third stage.

A frozen block keeps its parameters, their moments and its running statistics:

- Its parameters have no gradient and no decay, and the norm of clipping does not count them.
- Its batch norms normalise by the running statistics in training too, and contribute no batch statistics, as
  with `trainable = False` in Keras.
- Its dropout drops in training as before, as in Keras and PyTorch: it changes nothing that is learned.
- The gradient flows through it to the blocks before it. Where nothing before it is trained, there is none.

The names and shapes of the state are the same whatever is frozen (`core.backend.state`).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from core.backend.training_rules import TrainingRules
from core.base.errors import UserError
from core.network.plan import BatchNorm, Bias, Conv2D, ConvTranspose2D, Parameter, Plan, Statistic


@dataclass(frozen=True)
class TrainedPart:
    """What an update of a plan changes.

    Attributes:
        parameters: The parameters that have gradients and are updated.
        statistics: The running statistics that batches move.
        batch_norms: The batch norms that normalise by the batch in training.
        tensors: Names of the tensors that depend on one of `parameters`: the others need no gradient.
        groups: For the name of each of `parameters`, the place of its scalars in `StepScalars.groups`.
    """

    parameters: tuple[Parameter, ...]
    statistics: tuple[Statistic, ...]
    batch_norms: tuple[BatchNorm, ...]
    tensors: frozenset[str]
    groups: Mapping[str, int]

    @functools.cached_property
    def by_batch(self) -> frozenset[str]:
        """Names of the operations in `batch_norms`."""
        return frozenset(op.name for op in self.batch_norms)


def trained_part(plan: Plan, rules: TrainingRules) -> TrainedPart:
    """Return the part of a plan that is trained by some rules.

    Raises:
        UserError: A name stands for no block, a block has two rates or is frozen and has one, or nothing is
            left to train.
    """
    frozen, rated = divide_blocks(rules.frozen, [name for name, _ in rules.rates], dict(plan.blocks))
    parameters = tuple(array for array in plan.parameters if _block(array.name) not in frozen)
    if not parameters:
        raise UserError("training.freeze: every block with weights is frozen; there is nothing to train")
    tensors: set[str] = set()
    for op in plan.operations:
        has_weights = isinstance(op, Conv2D | ConvTranspose2D | Bias | BatchNorm)
        if (has_weights and _block(op.name) not in frozen) or tensors.intersection(op.inputs):
            tensors.add(op.output.name)
    return TrainedPart(
        parameters,
        tuple(array for array in plan.statistics if _block(array.name) not in frozen),
        tuple(op for op in plan.batch_norms if _block(op.name) not in frozen),
        frozenset(tensors),
        {array.name: rated.get(_block(array.name), 0) for array in parameters},
    )


def divide_blocks(
    frozen: Sequence[str], rated: Sequence[str], blocks: Collection[str]
) -> tuple[frozenset[str], dict[str, int]]:
    """Return the frozen blocks, and for each block with a rate of its own the place of its name, from 1.

    Args:
        frozen: The names in `training.freeze`.
        rated: The names in `training.rates`.
        blocks: The names of all blocks.

    Raises:
        UserError: As for `trained_part`.
    """
    still = frozenset(block for name in frozen for block in _meant(name, blocks, "training.freeze"))
    places: dict[str, int] = {}
    for place, name in enumerate(rated, start=1):
        for block in _meant(name, blocks, "training.rates"):
            if block in still:
                raise UserError(f"training.rates.{name}: the block {block!r} is frozen (training.freeze)")
            if block in places:
                other = rated[places[block] - 1]
                raise UserError(f"training.rates: the block {block!r} is meant by {other!r} and by {name!r}")
            places[block] = place
    return still, places


def _meant(name: str, blocks: Collection[str], key: str) -> list[str]:
    """Return the blocks that a name stands for."""
    if found := [name] if name in blocks else [block for block in blocks if block.startswith(f"{name}_")]:
        return found
    starts = [block.rsplit("_", count)[0] for block in blocks for count in (1, 2)]
    close = difflib.get_close_matches(name, [*blocks, *starts], n=1)
    more = f" and {len(blocks) - 8} more" if len(blocks) > 8 else ""
    guess = f"; did you mean {close[0]!r}?" if close else f"; blocks: {', '.join([*blocks][:8])}{more}"
    raise UserError(f"{key}: no block is called {name!r}, and none begins with {name + '_'!r}{guess}")


def _block(name: str) -> str:
    """Return the block that an operation or an array belongs to, by its name."""
    return name.split("/")[0]
