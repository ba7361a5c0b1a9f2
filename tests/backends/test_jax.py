"""Tests of what JAX could do unnoticed: compute in float64, or read and write memory that is not its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selected import BACKENDS

from core.backend.contract import Implementation, Precision
from core.backend.process import BackendProcess
from core.conformance.cases import Case, make_case

pytestmark = pytest.mark.skipif("jax" not in BACKENDS, reason="jax is deselected by PNEUMOSEG_BACKENDS")

EVERYTHING = {
    "loss": {"bce": 1, "dice": 1, "focal": 1, "tversky": 1, "lovasz": 1},
    "optimizer": {"weight_decay": 0.1},
    "rates": {"down": 0.5},
    "ema": {"decay": 0.9},
    "clip_norm": 0.5,
}
BLOCKS: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 5},
    {"name": "mask", "kind": "output"},
]


@pytest.fixture(scope="module")
def jax() -> Iterator[BackendProcess]:
    with BackendProcess("jax") as process:
        yield process


def types_of_floats(implementation: Implementation, case: Case, precision: Precision) -> set[str]:
    """Return the types of all intermediate results of a training step with dropout, and of a prediction."""
    import jax

    model: Any = implementation.compile(case.plan, case.rules, "cpu", precision)
    images, masks = case.batches[0]
    drawn, scalars = model._drawn_masks(len(images), 1), model._scalars(case.scalars(1))
    given = (model._arrays, model._floats(images), model._bytes(masks), scalars, drawn)
    found: set[str] = set()

    def has_equations(parameter: Any) -> bool:
        return hasattr(parameter, "eqns")

    def collect(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            found.update(str(out.aval.dtype) for out in equation.outvars if "float" in str(out.aval.dtype))
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=has_equations):
                if has_equations(inner):
                    collect(inner)

    collect(jax.make_jaxpr(model._pure_update)(*given).jaxpr)
    collect(jax.make_jaxpr(model._pure_infer)(*given[:2]).jaxpr)
    collect(jax.make_jaxpr(model._pure_draw, static_argnums=0)(3, np.uint32(1)).jaxpr)
    return found


@pytest.mark.parametrize(
    ("precision", "types"),
    [
        ("float32", {"float32"}),
        ("mixed_bfloat16", {"float32"}),  # on the CPU the rounded operands are
        ("mixed_float16", {"float32", "float16"}),  # float16 between two casts, which round
        ("float64", {"float64", "float32"}),  # the dropout masks are drawn in float32
    ],
)
def test_no_number_is_promoted(jax: BackendProcess, precision: Precision, types: set[str]) -> None:
    case = make_case(BLOCKS, 8, 10, dropout=0.3, training=EVERYTHING)
    assert jax.call(types_of_floats, case, precision) == types


def losses(implementation: Implementation, case: Case, reuse: bool) -> tuple[list[float], NDArray[Any]]:
    """Return the losses of some steps, and a kernel after them; `reuse` overwrites batches after use."""
    model = implementation.compile(case.plan, case.rules, "cpu", "float32")
    model.load_state(case.state)
    found = []
    for step, (images, masks) in enumerate(case.batches, start=1):
        given, truth = images.copy(), masks.copy()
        found.append(model.train_step(given, truth, case.scalars(step)))
        if reuse:
            given[...], truth[...] = np.nan, 1
    return [float(loss) for loss in found], model.state()["down/kernel"]


def test_a_batch_may_be_overwritten_while_the_step_is_under_way(jax: BackendProcess) -> None:
    # Large enough for a step to take longer than the overwriting, and for shared memory (64-byte aligned).
    case = make_case(BLOCKS, 256, 320, batches=(8, 8, 8))
    (kept, kernel), (overwritten, same) = (jax.call(losses, case, reuse) for reuse in (False, True))
    assert kept == overwritten
    np.testing.assert_array_equal(kernel, same)
    assert np.isfinite(kept).all()
    assert len(set(kept)) == 3
