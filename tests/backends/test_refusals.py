"""Tests that a backend refuses an operation that it lacks, by a `UserError` when it compiles the plan.

It must not take the operation for another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from selected import PREDICTORS

from core.backend.contract import Implementation, Precision
from core.backend.process import BackendProcess
from core.base.errors import UserError
from core.base.precisions import PRECISIONS
from core.conformance.cases import Case, make_case
from core.network.plan import Conv2D, Operation, Plan, Relu, Sigmoid

NAMES = [*PREDICTORS, "reference"]


@dataclass(frozen=True)
class UnknownOperation(Operation):
    """An operation that no backend has."""


@dataclass(frozen=True)
class DilatedConv2D(Conv2D):
    """An operation that a backend could take for a plain convolution."""

    dilation: int = 2


@dataclass(frozen=True)
class Softmax(Operation):
    """An operation that a backend could take for the sigmoid."""


def _unknown(op: Operation) -> Operation:
    return UnknownOperation(op.name, op.inputs, op.output)


def _dilated(op: Operation) -> Operation:
    assert isinstance(op, Conv2D)
    return DilatedConv2D(**{field.name: getattr(op, field.name) for field in fields(op)})


def _early_sigmoid(op: Operation) -> Operation:
    return Sigmoid(op.name, op.inputs, op.output)


def _softmax(op: Operation) -> Operation:
    return Softmax(op.name, op.inputs, op.output)


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest) -> Iterator[BackendProcess]:
    with BackendProcess(request.param) as process:
        yield process


def plain() -> Case:
    blocks: list[dict[str, Any]] = [
        {"name": "down", "kind": "conv", "filters": 3},
        {"name": "mask", "kind": "output"},
    ]
    return make_case(blocks, 8, 10)


def changed(plan: Plan, kind: type[Operation], change: Callable[[Operation], Operation]) -> Plan:
    """Return the plan with its only operation of a kind replaced."""
    assert sum(isinstance(op, kind) for op in plan.operations) == 1
    return replace(
        plan, operations=tuple(change(op) if isinstance(op, kind) else op for op in plan.operations)
    )


def refusal(implementation: Implementation, case: Case, precision: Precision) -> tuple[str, str | None]:
    """Return the message of the refusal to compile a plan, and its hint."""
    try:
        implementation.compile(case.plan, case.rules, "cpu", precision)
    except UserError as refused:
        return refused.message, refused.hint
    return "compiled", None


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        (Relu, _unknown, "UnknownOperation at 'down/relu'"),
        (Relu, _early_sigmoid, "Sigmoid at 'down/relu'"),
        (Conv2D, _dilated, "DilatedConv2D at 'down/conv'"),
        (Sigmoid, _softmax, "Softmax at 'mask/sigmoid'"),
        (Sigmoid, _unknown, "UnknownOperation at 'mask/sigmoid'"),
    ],
)
def test_an_unknown_operation_is_refused_when_the_plan_is_compiled(
    backend: BackendProcess,
    kind: type[Operation],
    change: Callable[[Operation], Operation],
    named: str,
    precision: Precision,
) -> None:
    case = plain()
    strange = replace(case, plan=changed(case.plan, kind, change))
    message, hint = backend.call(refusal, strange, precision)
    assert message == f"{backend.name} has no operation {named}"
    assert hint == "Use another backend (-f NAME), or a network without this operation."


def test_the_plan_as_it_was_is_taken(backend: BackendProcess) -> None:
    assert backend.call(refusal, plain(), "float32") == ("compiled", None)
