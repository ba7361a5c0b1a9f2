"""The budget of float32 allows sums in any order, and does not allow sums of many pixels one by one.

The tested backends are the reference in float32 with other sums. Pictures have black and saturated areas.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutants import Mutant

from backends.reference import operations
from backends.reference.model import ReferenceModel
from backends.reference.operations import Floats
from core.conformance.cases import Case, case_of, distances_from_reference
from core.conformance.training import Setting, case_of_setting, fill_with_radiographs, train
from core.experiment.configuration import load_configuration
from core.tolerance.budget import Distance, largest_share

pytestmark = pytest.mark.turns(7)

Sum = Callable[[Floats], Floats]
"""Sums an array (pixels, C) in float32 over the pixels."""


def pairwise(x: Floats) -> Floats:
    total: Floats = np.ascontiguousarray(x.T).sum(axis=1)
    return total


def shuffled(x: Floats) -> Floats:
    return pairwise(x[np.random.default_rng(7).permutation(len(x))])


def in_blocks(x: Floats) -> Floats:
    """Add as a matrix product does: a few hundred numbers one by one, then these sums one by one."""
    return one_by_one(np.stack([one_by_one(block) for block in np.array_split(x, max(len(x) // 384, 1))]))


def one_by_one(x: Floats) -> Floats:
    total: Floats = np.cumsum(x, axis=0, dtype=np.float32)[-1]
    return total


def with_sums(monkeypatch: pytest.MonkeyPatch, add: Sum, where: str) -> None:
    """Replace the reference's sums over pixels in "statistics", "gradients" or "kernels"."""
    plain = operations._moments, operations._total, np.tensordot

    def moments(x: Floats) -> tuple[Floats, Floats]:
        if x.dtype == np.float64:
            return plain[0](x)
        pixels = x.reshape(-1, x.shape[-1])
        mean = add(pixels) / np.float32(len(pixels))
        return mean, add(np.square(pixels - mean)) / np.float32(len(pixels))

    def total(x: Floats) -> Floats:
        return plain[1](x) if x.dtype == np.float64 else add(x.reshape(-1, x.shape[-1]))

    def tensordot(a: Any, b: Any, axes: Any) -> Any:
        if a.dtype == np.float64:
            return plain[2](a, b, axes)
        a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
        return np.stack([add(a[:, [channel]] * b) for channel in range(a.shape[1])])

    if where == "statistics":
        monkeypatch.setattr(operations, "_moments", moments)
    elif where == "gradients":
        monkeypatch.setattr(operations, "_total", total)
    else:
        monkeypatch.setattr(operations.np, "tensordot", tensordot)


def worst(case: Case) -> tuple[str, Distance]:
    (step,) = distances_from_reference(train, Mutant().call(train, case, "float32"), case, "float32")
    return largest_share(
        {f"{kind} of {name}": far for kind, found in step.items() for name, far in found.items()}
    )


CASES = {
    "demo": case_of_setting(Setting("demo", 128, (16,))),  # 65,536 pixels in the largest batch norms
    "noise": case_of_setting(Setting("demo", 128, (3,), "noise", fresh=False)),
    "fcn": case_of_setting(Setting("fcn", 192, (2,))),
}


def narrow() -> Case:
    """Return a case of the default network with 4 filters per block: 1,179,648 pixels in the output."""
    widths = [f"network.blocks.{index}.filters=4" for index in (0, 1, 2, 4, 5)]
    case = case_of(load_configuration(Path("fcn"), widths), 384, 384, batches=(8,), seed=1)
    for images, masks in case.batches:
        fill_with_radiographs(np.random.default_rng(1), images, masks)
    return case


MANY = narrow()


@pytest.mark.parametrize("where", ["statistics", "gradients"])
@pytest.mark.parametrize("add", [pairwise, shuffled, in_blocks])
@pytest.mark.parametrize("name", list(CASES))
def test_honest_sums_are_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, name: str, add: Sum, where: str
) -> None:
    with_sums(monkeypatch, add, where)
    what, distance = worst(CASES[name])
    assert distance.share <= 1, (what, distance)


@pytest.mark.parametrize("add", [pairwise, in_blocks])
def test_honest_products_are_within_the_budget(monkeypatch: pytest.MonkeyPatch, add: Sum) -> None:
    with_sums(monkeypatch, add, "kernels")
    what, distance = worst(CASES["noise"])
    assert distance.share <= 1, (what, distance)


@pytest.mark.parametrize(
    ("where", "case"), [("statistics", "demo"), ("gradients", "many"), ("kernels", "many")]
)
def test_sums_one_by_one_over_many_pixels_are_not(
    monkeypatch: pytest.MonkeyPatch, where: str, case: str, record_property: Callable[[str, object], None]
) -> None:
    with_sums(monkeypatch, one_by_one, where)
    what, distance = worst(CASES.get(case, MANY))
    record_property("mutant", f"float32: {where} added one by one: {what} {distance.value:.1e}")
    assert distance.share > 1.5, (what, distance)


@pytest.mark.parametrize("losses", ["{bce: 1, dice: 1}", "{bce: 0, focal: 1, tversky: 1, lovasz: 1}"])
def test_a_float32_reference_computes_in_float32(losses: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy 1 converts a float32 scalar to float64 when it is divided by an integer above 2**16."""
    configuration = load_configuration(Path("demo"), [f"training.loss={losses}", "network.dropout=0.1"])
    case = case_of(configuration, 96, 96, batches=(8,))
    types = set()
    plain = ReferenceModel._backward

    def noted(self: ReferenceModel, op: Any, values: Any, dy: Floats, *given: Any) -> list[Floats]:
        found = plain(self, op, values, dy, *given)
        types.update(array.dtype.name for array in (*found, *values.values(), dy))
        return found

    monkeypatch.setattr(ReferenceModel, "_backward", noted)
    train(Mutant(), case, "float32")  # type: ignore[arg-type]
    assert types == {"float32"}
