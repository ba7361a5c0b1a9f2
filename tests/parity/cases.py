"""What the parity tests run: networks, states and batches, and how results are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.configuration import Configuration, parse_configuration
from core.contract import Implementation, Precision
from core.dropout import draw_keep_masks
from core.lowering import lower_blocks
from core.plan import Plan
from core.rules import Rules, adam_step
from core.state import initial_state

Arrays = dict[str, NDArray[Any]]
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


@dataclass(frozen=True)
class Case:
    """A plan with a state in which every number matters, and a few batches."""

    plan: Plan
    rules: Rules
    state: Arrays
    batches: tuple[tuple[NDArray[Any], NDArray[Any]], ...]
    learning_rate: float = 1e-2
    weight_decay: float = 0.0


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
    """A case for a chain of blocks; all images are asymmetric noise, all masks irregular."""
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


def _lively(state: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> Arrays:
    """Biases, scales, running statistics and moments that are not 0 or 1, so that none can be lost."""
    lively = {}
    for name, array in state.items():
        noise = rng.standard_normal(array.shape).astype(np.float32)
        positive = name.endswith("moving_variance") or name.startswith("optimizer/v")
        lively[name] = array + 0.1 * (np.abs(noise) if positive else noise)
        if name.startswith("optimizer/"):
            lively[name] *= np.float32(0.01)
    return lively


@dataclass(frozen=True)
class Results:
    """All that a model says of a case."""

    predictions: NDArray[Any]
    loss: float
    training_loss: float
    gradients: Arrays
    losses: list[float]
    state: Arrays


def run_case(implementation: Implementation, case: Case, precision: Precision) -> Results:
    """Predict, score, differentiate, then train over the batches with given dropout masks."""
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    images, masks = case.batches[0]
    keep = draw_keep_masks(case.plan, 11, 0, len(images))
    loss, probabilities = model.evaluate(images, masks)
    predictions = model.predict(images)
    assert np.array_equal(predictions, probabilities)
    training_loss, gradients = model.gradients(images, masks, keep)
    losses = []
    for step, (images, masks) in enumerate(case.batches, start=1):
        scalars = adam_step(case.rules.optimizer, step, case.learning_rate, case.weight_decay)
        keep = draw_keep_masks(case.plan, 11, step, len(images))
        losses.append(float(model.train_step(images, masks, scalars, keep)))
    return Results(predictions, float(loss), training_loss, gradients, losses, model.state())


def difference(received: NDArray[Any] | float, expected: NDArray[Any] | float) -> float:
    """Norm of the difference over the norm of what is expected."""
    a, b = np.asarray(received, np.float64), np.asarray(expected, np.float64)
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-300))


def differences(received: Results, expected: Results) -> dict[str, float]:
    """Each kind of result and each array with its relative difference."""
    assert received.gradients.keys() == expected.gradients.keys()
    assert received.state.keys() == expected.state.keys()
    found = {
        "predictions": difference(received.predictions, expected.predictions),
        "loss": difference(received.loss, expected.loss),
        "training loss": difference(received.training_loss, expected.training_loss),
        "losses": difference(np.array(received.losses), np.array(expected.losses)),
    }
    for name, array in expected.gradients.items():
        found[f"gradient of {name}"] = difference(received.gradients[name], array)
    for name, array in expected.state.items():
        found[f"{name} after training"] = difference(received.state[name], array)
    return found


def assert_agree(received: Results, expected: Results, tolerance: float) -> None:
    """Nothing differs by more than the tolerance; the message lists what does."""
    wrong = {name: value for name, value in differences(received, expected).items() if not value <= tolerance}
    assert not wrong, f"beyond {tolerance}: {wrong}"
