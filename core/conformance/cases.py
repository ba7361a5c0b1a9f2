"""What the suite feeds to a backend, and how its answers are compared with the judge's.

Promises: every array of a case matters: no bias, scale, running statistic or moment is 0 or 1, images
are asymmetric noise and masks irregular, so nothing that is lost goes unseen. The learning
rate changes at every step, so a scalar taken from the wrong one is seen too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.comparison import difference, differences
from core.configuration import Configuration, parse_configuration
from core.contract import Array, Implementation, Precision, State
from core.dropout import draw_keep_masks
from core.lowering import lower_blocks
from core.plan import Plan
from core.registry import load_backend
from core.rules import Rules, StepScalars, step_scalars
from core.state import initial_state

TOLERANCE: Mapping[Precision, float] = {"float64": 1e-10, "float32": 1e-4, "mixed_bfloat16": 2.0**-5}
"""Largest relative difference (norm-wise) from the judge; `core.conformance.mixed` derives its own."""

_MASK_SEED = 11


class Nonconformity(Exception):  # noqa: N818 - not every one is the program's error
    """What a backend did that the contract does not allow; the text says what and by how much."""


@dataclass(frozen=True, eq=False)
class Case:
    """A plan with a state and a few batches of (images, masks), which change no more once it is judged."""

    plan: Plan
    rules: Rules
    state: State
    batches: tuple[tuple[Array, Array], ...]
    learning_rate: float = 1e-2
    weight_decay: float = 0.0

    def scalars(self, step: int) -> StepScalars:
        """Those of update number `step`, from 1."""
        return step_scalars(self.rules.optimizer, step, self.learning_rate / step, self.weight_decay)

    def keep(self, step: int, count: int) -> dict[str, NDArray[np.uint8]]:
        """The dropout masks of a step."""
        return draw_keep_masks(self.plan, _MASK_SEED, step, count)


def make_case(
    blocks: list[dict[str, Any]],
    height: int,
    width: int,
    *,
    batches: tuple[int, ...] = (3,),
    seed: int = 5,
    training: Mapping[str, Any] | None = None,
    **network: Any,
) -> Case:
    """A case for a chain of blocks, its masks as large as its output; `batches` are numbers of images."""
    configuration = parse_configuration(
        {"network": {"blocks": blocks, **network}, "training": dict(training or {})}
    )
    return case_of(configuration, height, width, batches=batches, seed=seed)


def case_of(
    configuration: Configuration, height: int, width: int, *, batches: tuple[int, ...] = (3,), seed: int = 5
) -> Case:
    """The same for a whole configuration."""
    plan, rules = lower_blocks(configuration.network, height, width), configuration.training.rules()
    out = plan.output.output
    rng = np.random.default_rng(seed)
    drawn = tuple(
        (
            rng.random((count, height, width, 1), dtype=np.float32),
            (rng.random((count, out.height, out.width, 1)) < 0.3).astype(np.uint8),
        )
        for count in batches
    )
    optimizer = configuration.training.optimizer
    state = _lively(initial_state(plan, rules, seed), rng)
    return Case(plan, rules, state, drawn, optimizer.learning_rate, optimizer.weight_decay)


def _lively(state: Mapping[str, Array], rng: np.random.Generator) -> State:
    lively = {}
    for name, array in state.items():
        noise = rng.standard_normal(array.shape).astype(np.float32)
        positive = name.endswith("moving_variance") or name.startswith("optimizer/v/")
        lively[name] = array + 0.1 * (np.abs(noise) if positive else noise)
        if name.startswith("optimizer/"):
            lively[name] *= np.float32(0.01)
    return lively


@dataclass(frozen=True)
class Results:
    """All that a model says of a case."""

    predictions: Array
    probabilities: Array
    loss: float
    training_loss: float
    gradients: State
    losses: list[float]
    state: State


def run_case(implementation: Implementation, case: Case, precision: Precision) -> Results:
    """Predict, score, differentiate, then train over the batches with given dropout masks."""
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    images, masks = case.batches[0]
    loss, probabilities = model.evaluate(images, masks)
    predictions = model.predict(images)
    training_loss, gradients = model.gradients(images, masks, case.keep(0, len(images)))
    losses = [
        float(model.train_step(images, masks, case.scalars(step), case.keep(step, len(images))))
        for step, (images, masks) in enumerate(case.batches, start=1)
    ]
    return Results(
        predictions, probabilities, float(loss), float(training_loss), gradients, losses, model.state()
    )


@functools.cache
def judge(case: Case, precision: Precision = "float64") -> Results:
    """What the reference says of a case; computed once for all backends.

    Float32 is judged in float64, of which it is an approximation. Mixed precision is not: it rounds by a
    rule, and is judged by the rule's own results.
    """
    _, reference = load_backend("reference")
    return run_case(reference, case, precision)


def all_differences(received: Results, expected: Results) -> dict[str, float]:
    """Each kind of result and each array with its relative difference."""
    found = {
        "predictions": difference(received.predictions, expected.predictions),
        "probabilities of evaluate": difference(received.probabilities, expected.probabilities),
        "loss": difference(received.loss, expected.loss),
        "training loss": difference(received.training_loss, expected.training_loss),
        "losses of the steps": difference(np.array(received.losses), np.array(expected.losses)),
    }
    gradients = differences(received.gradients, expected.gradients, share=1e-3)
    found |= {f"gradient of {name}": value for name, value in gradients.items()}
    arrays = differences(received.state, expected.state)
    return found | {f"{name} after training": value for name, value in arrays.items()}


def require_agreement(received: Results, expected: Results, tolerance: float) -> None:
    """Nothing may differ by more than the tolerance.

    Raises:
        Nonconformity: The text lists what does, the largest difference first.
    """
    wrong = {
        name: value for name, value in all_differences(received, expected).items() if not value <= tolerance
    }
    if wrong:
        raise Nonconformity(f"relative differences beyond {tolerance:g}: {listed(wrong)}")


def listed(wrong: Mapping[str, float]) -> str:
    """The largest six, largest first, and how many more there are."""
    worst = sorted(wrong.items(), key=lambda item: -item[1])
    more = f" and {len(worst) - 6} more" if len(worst) > 6 else ""
    return ", ".join(f"{name} {value:.1e}" for name, value in worst[:6]) + more
