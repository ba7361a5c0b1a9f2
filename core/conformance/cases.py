"""The inputs of the suite's checks, and the comparison of a backend's results with the reference's.

An error in any array of a case changes the results: no bias, scale, running statistic or moment is 0 or 1,
images are asymmetric noise, and masks are irregular. The learning rate changes at every step, so that a
scalar of the wrong step changes the results too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from core.backend.contract import (
    Array,
    ExistenceModel,
    Implementation,
    Model,
    Precision,
    ReferenceImplementation,
    State,
)
from core.backend.dropout_masks import draw_dropout_masks
from core.backend.registry import load_backend
from core.backend.state import ArrayKind, by_kind, initial_state
from core.backend.training_rules import LossScaleRule, StepScalars, TrainingRules, step_scalars
from core.experiment.configuration import Configuration, parse_configuration
from core.network.lowering import lower_blocks
from core.network.plan import Plan
from core.tolerance.budget import DRAWS, ArraysByKind, Budget, Distance, budget_floor

FLOAT64_TOLERANCE = 1e-10
"""The tolerance of every kind of array; smaller than `core.tolerance.budget` allows for whole runs."""

_MASK_SEED = 11


class Nonconformity(Exception):  # noqa: N818 - it reports on a backend and is not an error of the program
    """A backend violates the contract; the message says how, and by how much."""


@dataclass(frozen=True, eq=False)
class Case:
    """A plan with a state and batches of (images, masks); they must not change after the reference's use."""

    plan: Plan
    rules: TrainingRules
    state: State
    batches: tuple[tuple[Array, Array], ...]
    learning_rate: float = 1e-2
    weight_decay: float = 0.0

    def scalars(self, step: int) -> StepScalars:
        """Return the scalars of update number `step`, from 1."""
        return step_scalars(self.rules, step, self.learning_rate / step, self.weight_decay)

    def keep(self, step: int, count: int) -> dict[str, NDArray[np.uint8]]:
        """Return the dropout masks of a step for `count` images."""
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
    """Return a case for a chain of blocks, whose masks have the output's size.

    `batches` has the number of images of each batch; `lively` is explained at `case_of`.
    """
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
    """Return a case for a whole configuration.

    With `lively`, no array of the state is constant: noise is added to weights, statistics and moments.
    Otherwise it is the state before the first step.
    """
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


def in_precision(case: Case, precision: Precision) -> Case:
    """Return the case with the loss scale that training in a precision has, or the case itself."""
    return with_loss_scale(case, LossScaleRule()) if precision == "mixed_float16" else case


def with_loss_scale(case: Case, rule: LossScaleRule) -> Case:
    """Return the case with a loss scale, at its beginning."""
    rules = replace(case.rules, loss_scale=rule)
    return replace(case, rules=rules, state={**initial_state(case.plan, rules, 0), **case.state})


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
    """All results of a model for a case; `both` is empty without the existence head."""

    predictions: Array
    probabilities: Array
    loss: float
    training_loss: float
    gradients: State
    losses: list[float]
    state: State
    both: Mapping[str, Array]


def run_case(implementation: Implementation, case: Case, precision: Precision) -> Results:
    """Predict, evaluate, compute gradients, then train on all batches with given dropout masks."""
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    images, masks = case.batches[0]
    loss, probabilities = model.evaluate(images, masks)
    predictions = model.predict(images)
    both = predicted_with_existence(model, case)
    derivatives = model.differentiate(images, masks, case.keep(0, len(images)))
    losses = [
        float(model.train_step(images, masks, case.scalars(step), case.keep(step, len(images))))
        for step, (images, masks) in enumerate(case.batches, start=1)
    ]
    return Results(
        predictions,
        probabilities,
        float(loss),
        float(derivatives.loss),
        derivatives.gradients,
        losses,
        model.state(),
        both,
    )


def predicted_with_existence(model: Model, case: Case) -> dict[str, Array]:
    """Return what `predict_with_existence` gives for the first batch, by name; nothing without the head."""
    if case.plan.existence is None:
        return {}
    masks, existence = cast(ExistenceModel, model).predict_with_existence(case.batches[0][0])
    if existence.shape != (len(masks),):
        raise Nonconformity(f"the existence probabilities have shape {existence.shape}, not {(len(masks),)}")
    return {"probabilities with existence": masks, "existence": existence}


CaseFunction: TypeAlias = Callable[[Implementation, Case, Precision], Sequence[ArraysByKind]]
"""A function that computes a case with a backend; returns the arrays of each step."""


def all_results(implementation: Implementation, case: Case, precision: Precision) -> list[ArraysByKind]:
    """Return the results of `run_case`, as one step."""
    return [results_by_kind(run_case(implementation, case, precision))]


def results_by_kind(results: Results) -> ArraysByKind:
    """Return all results as arrays, by kind and name."""
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
            **results.both,
        },
    }


class _ReferenceAsBackend:
    """The float64 reference with the interface of a backend; `draw` perturbs it, None does not."""

    def __init__(self, draw: int | None) -> None:
        self._draw = draw

    def compile(self, plan: Plan, rules: TrainingRules, device: str, precision: Precision) -> Model:
        del device
        return cast(ReferenceImplementation, load_backend("reference")[1]).compile_reference(
            plan, rules, precision, self._draw
        )


@functools.cache
def reference_results(case: Case, precision: Precision = "float64") -> Results:
    """Return the reference's results for a case; they are computed once for all backends.

    Float32 approximates float64, so its reference is in float64. Mixed precision rounds by a rule, so its
    reference rounds by the same rule.
    """
    return run_case(load_backend("reference")[1], case, precision)


@functools.cache
def reference_arrays(run: CaseFunction, case: Case, draw: int | None = None) -> Sequence[ArraysByKind]:
    """Return what `run` computes with the float64 reference; `draw` perturbs it (`core.tolerance.budget`)."""
    return run(cast(Implementation, _ReferenceAsBackend(draw)), case, "float32")


def distances_from_reference(
    run: CaseFunction,
    received: Sequence[ArraysByKind],
    case: Case,
    precision: Precision,
    *,
    ties: bool = False,
) -> list[dict[ArrayKind, dict[str, Distance]]]:
    """Return the distance of each of a backend's arrays from the reference, and its budget, step by step.

    Args:
        run: The function that computed the arrays.
        received: What it returned for the backend.
        case: The case that it computed.
        precision: Precision of the backend's model.
        ties: Whether results depend on equal numbers. Perturbations would make them unequal, so the budget is
            only the floor.
    """
    perturbs = precision == "float32" and not ties
    draws = [reference_arrays(run, case, draw) for draw in range(DRAWS)] if perturbs else []
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
    """Raise if an array is farther from the reference than its budget allows.

    Raises:
        Nonconformity: The message lists the arrays of the first such step, by their share of the budget.
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
    """Join the items of `told`, and say how many of the `count` items are not among them."""
    more = f" and {count - len(told)} more" if count > len(told) else ""
    return "; ".join(told) + more
