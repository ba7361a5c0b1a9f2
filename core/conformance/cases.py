"""What the suite feeds to a backend, and how its answers are compared with the judge's.

Promises: every array of a case matters: no bias, scale, running statistic or moment is 0 or 1, images
are asymmetric noise and masks irregular, so nothing that is lost goes unseen. The learning
rate changes at every step, so a scalar taken from the wrong one is seen too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import Array, Implementation, Model, Precision, ReferenceImplementation, State
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.registry import load_backend
from core.backend.state import ArrayKind, by_kind, initial_state
from core.backend.training_rules import StepScalars, TrainingRules, step_scalars
from core.experiment.configuration import Configuration, parse_configuration
from core.network.lowering import lower_blocks
from core.network.plan import Plan
from core.tolerance.budget import DRAWS, ArraysByKind, Budget, Distance, budget_floor

FLOAT64_TOLERANCE = 1e-10
"""Of every kind of array: less than `core.tolerance.budget` allows whole trajectories."""

_MASK_SEED = 11


class Nonconformity(Exception):  # noqa: N818 - not every one is the program's error
    """What a backend did that the contract does not allow; the text says what and by how much."""


@dataclass(frozen=True, eq=False)
class Case:
    """A plan with a state and a few batches of (images, masks), which change no more once it is judged."""

    plan: Plan
    rules: TrainingRules
    state: State
    batches: tuple[tuple[Array, Array], ...]
    learning_rate: float = 1e-2
    weight_decay: float = 0.0

    def scalars(self, step: int) -> StepScalars:
        """Those of update number `step`, from 1."""
        return step_scalars(self.rules.optimizer, step, self.learning_rate / step, self.weight_decay)

    def keep(self, step: int, count: int) -> dict[str, NDArray[np.uint8]]:
        """The dropout masks of a step."""
        return draw_dropout_masks(self.plan, _MASK_SEED, step, count)


def make_case(
    blocks: list[dict[str, Any]],
    height: int,
    width: int,
    *,
    batches: tuple[int, ...] = (3,),
    seed: int = 5,
    lively: bool = True,
    training: Mapping[str, Any] | None = None,
    **network: Any,
) -> Case:
    """A case for a chain of blocks, its masks as large as its output; `batches` are numbers of images."""
    configuration = parse_configuration(
        {"network": {"blocks": blocks, **network}, "training": dict(training or {})}
    )
    return case_of(configuration, height, width, batches=batches, seed=seed, lively=lively)


def case_of(
    configuration: Configuration,
    height: int,
    width: int,
    *,
    batches: tuple[int, ...] = (3,),
    seed: int = 5,
    lively: bool = True,
) -> Case:
    """The same for a whole configuration; unless `lively`, with the state that training begins with."""
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
    state: State = dict(initial_state(plan, rules, seed))
    if lively:
        state = _lively(state, rng)
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


CaseFunction: TypeAlias = Callable[[Implementation, Case, Precision], Sequence[ArraysByKind]]
"""What a backend is asked to do with a case, and what it comes to, step by step."""


def all_results(implementation: Implementation, case: Case, precision: Precision) -> list[ArraysByKind]:
    """All that `run_case` comes to, as one step."""
    return [results_by_kind(run_case(implementation, case, precision))]


def results_by_kind(results: Results) -> ArraysByKind:
    """The arrays of the results, and what else they hold as arrays."""
    return {
        **by_kind(results.state),
        "gradient": results.gradients,
        "loss": {
            "loss": np.array(results.loss),
            "training loss": np.array(results.training_loss),
            "losses of the steps": np.array(results.losses),
        },
        "prediction": {
            "predictions": results.predictions,
            "probabilities of evaluate": results.probabilities,
        },
    }


class _ReferenceAsBackend:
    """The judge in the place of an implementation, with or without moves."""

    def __init__(self, draw: int | None) -> None:
        self._draw = draw

    def compile(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> Model:
        del device
        return cast(ReferenceImplementation, load_backend("reference")[1]).compile_reference(
            plan, rules, precision, self._draw
        )


@functools.cache
def reference_results(case: Case, precision: Precision = "float64") -> Results:
    """What the reference says of a case; computed once for all backends.

    Float32 is judged in float64, of which it is an approximation. Mixed precision is not: it rounds by a
    rule, and is judged by the rule's own results.
    """
    return run_case(load_backend("reference")[1], case, precision)


@functools.cache
def reference_arrays(run: CaseFunction, case: Case, draw: int | None = None) -> Sequence[ArraysByKind]:
    """What `run` finds where the judge computes; with `draw` moved as in `core.tolerance.budget`."""
    return run(cast(Implementation, _ReferenceAsBackend(draw)), case, "float32")


def distances_from_reference(
    run: CaseFunction,
    received: Sequence[ArraysByKind],
    case: Case,
    precision: Precision,
    *,
    ties: bool = False,
) -> list[dict[ArrayKind, dict[str, Distance]]]:
    """How far each of a backend's arrays is from the judge's, and how far it may be, step by step.

    Args:
        run: What was asked of both.
        received: What came of it.
        case: What it was asked with.
        precision: Of the backend's model.
        ties: Whether results depend on equal numbers, which moves would part: only the floor is allowed.
    """
    moves = precision == "float32" and not ties
    draws = [reference_arrays(run, case, draw) for draw in range(DRAWS)] if moves else []
    budget = Budget(
        lambda kind: FLOAT64_TOLERANCE if precision == "float64" else budget_floor(kind, precision)
    )
    steps = []
    for step, (got, wanted) in enumerate(zip(received, reference_arrays(run, case), strict=True)):
        budget.advance(wanted, [draw[step] for draw in draws])
        steps.append(budget.distances(got))
    return steps


def require_agreement(
    run: CaseFunction,
    received: Sequence[ArraysByKind],
    case: Case,
    precision: Precision,
    *,
    ties: bool = False,
) -> None:
    """Raise if an array that `run` found is farther from the truth than its budget allows.

    Raises:
        Nonconformity: The text lists what is at the first such step, the largest share of its budget first.
    """
    steps = distances_from_reference(run, received, case, precision, ties=ties)
    for number, found in enumerate(steps, start=1):
        wrong = [
            (distance, _WORDS.get(kind, "{}").format(name))
            for kind, arrays in found.items()
            for name, distance in arrays.items()
            if not distance.share <= 1
        ]
        if wrong:
            wrong.sort(key=lambda pair: -pair[0].share)
            told = [f"{what} {far.value:.1e}, allowed {far.budget:.1e}" for far, what in wrong[:6]]
            where = f" at step {number}" if len(steps) > 1 else ""
            raise Nonconformity(f"relative differences{where}: {and_more(told, len(wrong))}")


_WORDS: Mapping[ArrayKind, str] = {
    "statistic": "{} after training",
    "weight": "{} after training",
    "moment": "{} after training",
    "gradient": "gradient of {}",
}


def and_more(told: Sequence[str], count: int) -> str:
    """Those that are told, and how many of the `count` are not."""
    more = f" and {count - len(told)} more" if count > len(told) else ""
    return "; ".join(told) + more
