"""Checks of predictions, which a backend that does not train must pass too."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from core.backend.contract import Array, Implementation, Precision, State
from core.backend.registry import load_backend
from core.backend.state import prediction_state, state_shapes
from core.backend.training_rules import prediction_rules
from core.conformance.cases import (
    Case,
    Nonconformity,
    case_of,
    make_case,
    predicted_with_existence,
    require_agreement,
)
from core.conformance.existence import SUBJECT as EXISTENCE
from core.conformance.existence import existence_case
from core.conformance.layers import every_operation
from core.conformance.mixed import BFLOAT16, FLOAT16, Rounding
from core.conformance.suite import BackendCaller, Check
from core.experiment.configuration import load_configuration
from core.tolerance.budget import ArraysByKind
from core.tolerance.differences import difference

SUBJECT = "prediction"


def prediction_checks() -> list[Check]:
    """Return the checks; there are few, because `number_checks` has every part by itself."""
    extreme = _extreme()
    cases = [
        ("kernels 1 to 7, strides 1 to 3, one after another", _every_geometry()),
        ("skips, batch norm and dropout", _network()),
        ("every loss", _losses()),
        ("operations of networks from the literature", every_operation()),
    ]
    precisions: tuple[Precision, ...] = ("float64", "float32")
    checks = [_agreement(SUBJECT, name, case, precision) for precision in precisions for name, case in cases]
    head = existence_case()
    return [
        *checks,
        *(_agreement(EXISTENCE, "predictions and their loss", head, precision) for precision in precisions),
        *(
            Check(subject, name, rounding.precision, partial(run, rounding=rounding))
            for rounding in (BFLOAT16, FLOAT16)
            for subject, name, run in (
                (EXISTENCE, "predictions", _existence_when_rounded),
                (SUBJECT, rounding.subject, _products_when_rounded),
            )
        ),
        Check(SUBJECT, "logits of 10,000", "float32", lambda backend: _require_extremes(backend, extreme)),
        Check(SUBJECT, "each image by itself, in any batch", "float32", _each_by_itself),
        Check(SUBJECT, "predict and evaluate change nothing", "float32", _pure),
        Check(SUBJECT, "the same without the optimiser's arrays", "float32", _without_moments),
        Check(SUBJECT, "a state loaded later is the one that counts", "float32", _reloaded),
    ]


def _every_geometry() -> Case:
    """Return a case that reduces and enlarges in turn, to keep the size; batch norm keeps values near 1."""
    blocks: list[dict[str, Any]] = []
    for kernel in (1, 2, 3, 4, 5, 7):
        for stride in (1, 2, 3):
            block = {"filters": 3 + stride, "kernel": kernel, "stride": stride}
            blocks.append({"name": f"down{kernel}{stride}", "kind": "conv", **block})
            blocks.append({"name": f"up{kernel}{stride}", "kind": "transpose", **block})
    return make_case([*blocks, {"name": "mask", "kind": "output", "kernel": 2}], 7, 10)


def _network() -> Case:
    widths = [f"network.blocks.{index}.filters={3 + index}" for index in (0, 1, 2, 4, 5)]
    dropout = ["network.dropout=0.4", "network.batch_norm=true"]
    return case_of(load_configuration(Path("fcn_skip"), [*widths, *dropout]), 16, 24)


def _losses() -> Case:
    """Return a case with every loss, pixels of equal error, and one image without positive pixels."""
    loss = {"bce": 0.3, "dice": 1.7, "focal": 2.5, "tversky": 0.6, "lovasz": 1.2}
    case = make_case(
        [{"name": "mask", "kind": "output", "kernel": 1, "stride": 1}], 19, 23, training={"loss": loss}
    )
    images, masks = case.batches[0]
    images[...] = np.round(8 * images) / 8
    masks[1] = 0
    return case


def _extreme() -> Case:
    """Return a case with logits of 10,000 on the left of each image and -10,000 on the right."""
    case = make_case([{"name": "mask", "kind": "output", "kernel": 1, "stride": 1}], 5, 8)
    case.batches[0][0][:, :, :3], case.batches[0][0][:, :, 3:] = 1, 0
    case.state["mask/kernel"][...], case.state["mask/bias"][...] = 2e4, -1e4
    return case


Outputs = tuple[Array, Array, Array]
"""Probabilities of predict, and probabilities and loss of evaluate."""


def _outputs(implementation: Implementation, case: Case, precision: Precision) -> Outputs:
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    loss, probabilities = model.evaluate(*case.batches[0])
    return model.predict(case.batches[0][0]), probabilities, np.array(float(loss))


def _by_kind(implementation: Implementation, case: Case, precision: Precision) -> list[ArraysByKind]:
    predictions, probabilities, loss = _outputs(implementation, case, precision)
    found = {"predictions": predictions, "probabilities of evaluate": probabilities}
    found |= _with_existence(implementation, case, precision)
    return [{"prediction": found, "loss": {"loss": loss}}]


def _with_existence(implementation: Implementation, case: Case, precision: Precision) -> State:
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    return predicted_with_existence(model, case)


def _agreement(subject: str, name: str, case: Case, precision: Precision) -> Check:
    def run(backend: BackendCaller) -> None:
        require_agreement(_by_kind, backend.call(_by_kind, case, precision), case, precision)

    return Check(subject, name, precision, run)


def _existence_when_rounded(backend: BackendCaller, rounding: Rounding) -> None:
    case, precision = existence_case(), rounding.precision
    received = backend.call(_with_existence, case, precision)
    for name, expected in _with_existence(load_backend("reference")[1], case, precision).items():
        if not (found := difference(received[name], expected)) <= rounding.largest:
            raise Nonconformity(f"{name}: relative difference {found:.1e}, allowed {rounding.largest:g}")


def _products_when_rounded(backend: BackendCaller, rounding: Rounding) -> None:
    """Most probabilities equal the reference's except for float32's rounding; few elements flip (`mixed`)."""
    down = {"name": "down", "kind": "conv", "filters": 3}
    case = make_case([down, {"name": "mask", "kind": "output"}], 24, 32, batch_norm=False)
    expected, _, loss = _outputs(load_backend("reference")[1], case, rounding.precision)
    received, of_evaluate, found = backend.call(_outputs, case, rounding.precision)
    allowed = rounding.largest
    for what, got in (("predictions", received), ("probabilities of evaluate", of_evaluate)):
        if got.shape != expected.shape or not difference(got, expected) <= allowed:
            raise Nonconformity(f"{what}: relative difference beyond {allowed:g}")
        if not (typical := float(np.median(np.abs(got - expected)))) <= 1e-6:
            raise Nonconformity(f"{what}: the median of the differences is {typical:.1e}, allowed 1e-6")
    if not difference(found, loss) <= allowed:
        raise Nonconformity(f"the loss is {found}, the reference's {loss}")


def _require_extremes(backend: BackendCaller, case: Case) -> None:
    predictions, _, loss = backend.call(_outputs, case, "float32")
    sides = predictions[:, :, :3], predictions[:, :, 3:]
    if not (np.abs(sides[0] - 1) < 1e-6).all() or not (np.abs(sides[1]) < 1e-6).all():
        raise Nonconformity("logits of 10,000 and -10,000 do not give probabilities of 1 and 0")
    if not np.isfinite(loss):
        raise Nonconformity(f"logits of 10,000 and -10,000 give a loss of {loss}")


def _in_batches(implementation: Implementation, case: Case, sizes: list[int]) -> list[Array]:
    """Return predictions of one batch, then of batches of these sizes from a view with reversed rows."""
    model = implementation.compile(case.plan, case.rules, "cpu", "float32")
    model.load_state(case.state)
    images = case.batches[0][0]
    backwards = np.ascontiguousarray(images[:, ::-1])[:, ::-1]
    backwards.flags.writeable = False
    parts = np.split(backwards, np.cumsum(sizes)[:-1])
    return [model.predict(images), np.concatenate([model.predict(part) for part in parts])]


def _each_by_itself(backend: BackendCaller) -> None:
    case = make_case([{"name": "mask", "kind": "output"}], 9, 12, batches=(7,))
    together, apart = backend.call(_in_batches, case, [1, 4, 2])
    if not (found := difference(apart, together)) <= 1e-6:
        raise Nonconformity(f"images predicted in other batches, from a view, differ by {found:.1e}")


def _around(implementation: Implementation, case: Case) -> tuple[State, State, bool]:
    model = implementation.compile(case.plan, case.rules, "cpu", "float32")
    model.load_state(case.state)
    images, masks = (array.copy() for array in case.batches[0])
    before = model.state()
    model.evaluate(images, masks)
    model.predict(images)
    untouched = all(map(np.array_equal, (images, masks), case.batches[0]))
    return before, model.state(), untouched


def _pure(backend: BackendCaller) -> None:
    before, after, untouched = backend.call(_around, _network())
    changed = [name for name, array in before.items() if not np.array_equal(array, after[name])]
    if changed or not untouched:
        raise Nonconformity(f"predict or evaluate changed {', '.join(changed) or 'an array it was given'}")


def _without_moments(backend: BackendCaller) -> None:
    case = _network()
    alone = replace(case, rules=prediction_rules(case.rules), state=prediction_state(case.state))
    state, *_ = backend.call(_around, alone)
    if set(state) != set(state_shapes(alone.plan, alone.rules)):
        raise Nonconformity(f"a model that only predicts has the arrays {', '.join(sorted(state))}")
    outputs = (backend.call(_outputs, each, "float32") for each in (alone, case))
    for got, wanted in zip(*outputs, strict=True):
        if not np.array_equal(got, wanted):
            raise Nonconformity("a model that only predicts has other outputs than one that trains")


def _before_and_after(implementation: Implementation, first: Case, second: Case) -> Outputs:
    model = implementation.compile(first.plan, first.rules, "cpu", "float32")
    model.load_state(first.state)
    model.evaluate(*first.batches[0])
    model.predict(first.batches[0][0])
    model.load_state(second.state)
    loss, probabilities = model.evaluate(*first.batches[0])
    return model.predict(first.batches[0][0]), probabilities, np.array(float(loss))


def _reloaded(backend: BackendCaller) -> None:
    first = _network()
    second = replace(first, state={name: array * np.float32(0.7) for name, array in first.state.items()})
    again = backend.call(_before_and_after, first, second)
    for got, wanted in zip(again, backend.call(_outputs, second, "float32"), strict=True):
        if not difference(got, wanted) <= 1e-6:
            raise Nonconformity("after a second load_state the model does not predict by the new state")
