"""Checks of what `core.backend.contract.Model` requires besides the numbers: state, refusals, determinism."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from core.backend.contract import Array, Implementation, Model, Precision, State
from core.backend.state import by_kind
from core.backend.training_rules import LossScaleRule, OptimizerRule, StepScalars
from core.base.byte_images import as_numbers
from core.base.errors import UserError
from core.conformance.cases import (
    FLOAT64_TOLERANCE,
    Case,
    Nonconformity,
    in_precision,
    make_case,
    with_loss_scale,
)
from core.conformance.suite import BackendCaller, Check
from core.tolerance.budget import ArraysByKind, Budget, largest_share


class _Check(Protocol):
    """A check that can be made in any precision."""

    def __call__(self, backend: BackendCaller, precision: Precision = ...) -> None: ...


BLOCKS: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 6},
    {"name": "mask", "kind": "output"},
]


def behaviour_checks() -> list[Check]:
    """Return the checks in float32, and those that could depend on the precision in mixed precision too."""
    checks: list[tuple[str, str, Callable[[BackendCaller], None]]] = [
        ("devices", "the CPU comes first", _cpu_first),
        ("state", "comes back bit for bit", _round_trip),
        ("state", "a copy once taken does not move", _state_is_a_copy),
        ("state", "differentiate, evaluate and predict change nothing", _pure),
        ("state", "an update of size 0 moves running statistics and no weight", _size_0),
        ("state", "what does not fit is refused by name", _refusals),
        ("state", "arrays given are left as they are, and views are read right", _inputs),
        ("images as bytes", "give the bits of their numbers", partial(_bytes, compute=_predicted)),
        ("images as bytes", "give the same training, too", partial(_bytes, compute=_trained_once)),
        ("optimiser", "an unknown one is refused by name", _unknown_optimizer),
        ("determinism", "training twice gives the same bits", _twice),
        ("determinism", "interrupted and restored gives the same bits", _restored),
        ("dropout, masks drawn", "keyed by seed and step", _keyed_dropout),
        ("dropout, masks drawn", "keep the expected share", _share_kept),
        ("export", "writes something", _export),
    ]
    first: tuple[Precision, ...] = ("mixed_bfloat16",)
    both: tuple[Precision, ...] = (*first, "mixed_float16")  # one has more arrays
    mixed: list[tuple[str, str, _Check, tuple[Precision, ...]]] = [
        ("state", "comes back bit for bit", _round_trip, both),
        ("determinism", "training twice gives the same bits", _twice, first),
        ("determinism", "interrupted and restored gives the same bits", _restored, first),
        ("export", "writes something", _export, first),
    ]
    return [
        *(Check(subject, name, "float32", run) for subject, name, run in checks),
        Check("halves of a step", "differentiate and update do what train_step does", "float64", _in_halves),
        *(
            Check(subject, name, precision, partial(run, precision=precision))
            for subject, name, run, precisions in mixed
            for precision in precisions
        ),
    ]


def _compiled(implementation: Implementation, case: Case, precision: Precision = "float32") -> Model:
    model = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    return model


def _require_equal(received: State, expected: State, what: str) -> None:
    if list(received) != list(expected):
        raise Nonconformity(f"{what}: the arrays are {list(received)}, expected {list(expected)}")
    for name, array in expected.items():
        if received[name].dtype != array.dtype or not np.array_equal(received[name], array):
            raise Nonconformity(f"{what}: {name} differs")


def _devices(implementation: Implementation) -> list[str]:
    return implementation.list_devices()


def _cpu_first(backend: BackendCaller) -> None:
    if (devices := backend.call(_devices))[:1] != ["cpu"]:
        raise Nonconformity(f"list_devices() gave {devices}")


def _taken(implementation: Implementation, case: Case, precision: Precision) -> State:
    return _compiled(implementation, case, precision).state()


def _round_trip(backend: BackendCaller, precision: Precision = "float32") -> None:
    case = in_precision(make_case(BLOCKS, 8, 12), precision)
    _require_equal(backend.call(_taken, case, precision), case.state, "state after load_state")


def _around_step(implementation: Implementation, case: Case) -> tuple[State, State]:
    model = _compiled(implementation, case)
    taken = model.state()
    kept = {name: array.copy() for name, array in taken.items()}
    model.train_step(*case.batches[0], case.scalars(1))
    model.state()
    return taken, kept


def _state_is_a_copy(backend: BackendCaller) -> None:
    taken, kept = backend.call(_around_step, make_case(BLOCKS, 8, 12))
    _require_equal(taken, kept, "a state taken before a step")


def _around_questions(implementation: Implementation, case: Case) -> tuple[State, State]:
    model = _compiled(implementation, case)
    before = model.state()
    model.differentiate(*case.batches[0])
    model.evaluate(*case.batches[0])
    model.predict(case.batches[0][0])
    return before, model.state()


def _pure(backend: BackendCaller) -> None:
    before, after = backend.call(_around_questions, make_case(BLOCKS, 8, 12))
    _require_equal(after, before, "state after differentiate, evaluate and predict")


def _after_size_0(implementation: Implementation, case: Case) -> State:
    model = _compiled(implementation, case)
    model.train_step(*case.batches[0], StepScalars(1, step_size=0.0))
    return model.state()


def _size_0(backend: BackendCaller) -> None:
    """Check steps of size 0, with which `core.training.weight_averaging` recomputes the statistics."""
    case = make_case(BLOCKS, 8, 12)
    after = backend.call(_after_size_0, case)
    for parameter in case.plan.parameters:
        if not np.array_equal(after[parameter.name], case.state[parameter.name]):
            raise Nonconformity(f"an update of size 0 changed {parameter.name}")
    for statistic in case.plan.statistics:
        if np.array_equal(after[statistic.name], case.state[statistic.name]):
            raise Nonconformity(f"an update of size 0 left {statistic.name} as it was")


def _refusal(implementation: Implementation, case: Case, state: State) -> str | None:
    """Return the message of the refusal, or None if the state was accepted."""
    try:
        _compiled(implementation, case).load_state(state)
    except UserError as refusal:
        return str(refusal)
    return None


def _refusals(backend: BackendCaller) -> None:
    case = make_case(BLOCKS, 8, 12)
    missing = {name: array for name, array in case.state.items() if name != "down/gamma"}
    extra = case.state | {"down/delta": np.zeros(6, np.float32)}
    turned = case.state | {"down/kernel": case.state["down/kernel"].transpose(3, 2, 0, 1)}
    for name, state in (("down/gamma", missing), ("down/delta", extra), ("down/kernel", turned)):
        message = backend.call(_refusal, case, state)
        if message is None or name not in message:
            raise Nonconformity(f"a state wrong in {name} gave {message!r}, expected a UserError naming it")


@dataclass(frozen=True)
class UnknownOptimizerRule:
    """The rule of an optimiser that no backend implements."""

    slots: tuple[str, ...] = ("m", "v")


def _unknown_optimizer(backend: BackendCaller) -> None:
    case = make_case(BLOCKS, 8, 12)
    backend.call(_trained, case, "float32")  # a backend that does not train refuses here
    strange = replace(case, rules=replace(case.rules, optimizer=cast(OptimizerRule, UnknownOptimizerRule())))
    message = backend.call(_refusal, strange, case.state)
    if message is None or "UnknownOptimizerRule" not in message:
        raise Nonconformity(f"an unknown optimiser gave {message!r}, expected a UserError with its name")


def _read(implementation: Implementation, case: Case) -> tuple[bool, list[Array]]:
    """Return whether the given arrays are unchanged, and predictions for three layouts of the images."""
    model = _compiled(implementation, case)
    images, masks = case.batches[0]
    state = {name: array.copy() for name, array in case.state.items()}
    kept_images, kept_masks = images.copy(), masks.copy()
    model.load_state(state)
    model.train_step(images, masks, case.scalars(1))
    model.differentiate(images, masks)
    untouched = np.array_equal(images, kept_images) and np.array_equal(masks, kept_masks)
    untouched &= all(np.array_equal(array, case.state[name]) for name, array in state.items())
    model.load_state({name: np.asfortranarray(array) for name, array in state.items()})
    reversed_twice = np.ascontiguousarray(images[:, ::-1])[:, ::-1]
    read_only = images.copy()
    read_only.flags.writeable = False
    return untouched, [model.predict(x) for x in (images, reversed_twice, read_only)]


def _inputs(backend: BackendCaller) -> None:
    untouched, (plain, view, read_only) = backend.call(_read, make_case(BLOCKS, 8, 12))
    if not untouched:
        raise Nonconformity("train_step, gradients or load_state changed an array it was given")
    if not (np.array_equal(plain, view) and np.array_equal(plain, read_only)):
        raise Nonconformity("a view or a read-only array is predicted otherwise than its copy")


def _predicted(implementation: Implementation, case: Case, images: Array) -> State:
    model = _compiled(implementation, case)
    loss, probabilities = model.evaluate(images, case.batches[0][1])
    return {"loss": np.array(float(loss)), "evaluated": probabilities, "predicted": model.predict(images)}


def _trained_once(implementation: Implementation, case: Case, images: Array) -> State:
    model, (_, masks) = _compiled(implementation, case), case.batches[0]
    gradients = model.differentiate(images, masks).gradients
    model.train_step(images, masks, case.scalars(1))
    return {**{f"gradient of {name}": array for name, array in gradients.items()}, **model.state()}


def _bytes(backend: BackendCaller, compute: Callable[[Implementation, Case, Array], State]) -> None:
    case = make_case(BLOCKS, 8, 12)
    shape = case.batches[0][0].shape
    all_bytes = np.arange(math.prod(shape)).astype(np.uint8)
    images = np.random.default_rng(7).permutation(all_bytes).reshape(shape)
    numbers = backend.call(compute, case, as_numbers(images))
    reversed_twice = np.ascontiguousarray(images[:, ::-1])[:, ::-1]
    for what, given in (("bytes", images), ("a view of bytes", reversed_twice)):
        _require_equal(backend.call(compute, case, given), numbers, what)


def _trained(implementation: Implementation, case: Case, precision: Precision) -> State:
    model = _compiled(implementation, case, precision)
    for step, batch in enumerate(case.batches, start=1):
        model.train_step(*batch, case.scalars(step))
    return model.state()


def _trained_in_parts(implementation: Implementation, case: Case, precision: Precision) -> State:
    """Train each step with a new model that gets only the state after the previous step."""
    state = case.state
    for step, batch in enumerate(case.batches, start=1):
        model = implementation.compile(case.plan, case.rules, "cpu", precision)
        model.load_state(state)
        model.train_step(*batch, case.scalars(step))
        state = model.state()
    return state


def _twice(backend: BackendCaller, precision: Precision = "float32") -> None:
    # The images are large enough for several threads; the backend's own generator draws the dropout masks.
    case = make_case(BLOCKS, 96, 128, batches=(4, 4, 3, 4), dropout=0.3)
    first, second = (backend.call(_trained, case, precision) for _ in range(2))
    _require_equal(second, first, "trained a second time")


def _restored(backend: BackendCaller, precision: Precision = "float32") -> None:
    for name in ("adam", "sgd"):
        training = {"optimizer": {"name": name, "weight_decay": 0.1}}
        case = make_case(BLOCKS, 24, 32, batches=(4, 3, 4), dropout=0.3, training=training)
        case = in_precision(case, precision)
        parts = backend.call(_trained_in_parts, case, precision)
        _require_equal(parts, backend.call(_trained, case, precision), f"trained in parts by {name}")


def _both_ways(
    implementation: Implementation, case: Case, precision: Precision
) -> tuple[Sequence[ArraysByKind], Sequence[ArraysByKind]]:
    """Return loss and arrays of each step: of `train_step`, and of `differentiate` and `update`."""
    whole, parted = _compiled(implementation, case, precision), _compiled(implementation, case, precision)
    of_whole: list[ArraysByKind] = []
    of_parted: list[ArraysByKind] = []
    for step, (images, masks) in enumerate(case.batches, start=1):
        loss = float(whole.train_step(images, masks, case.scalars(step)))
        found = parted.differentiate(images, masks, draw=step)
        parted.update(found.gradients, found.statistics, case.scalars(step))
        of_whole.append({**by_kind(whole.state()), "loss": {"loss": np.array(loss)}})
        of_parted.append({**by_kind(parted.state()), "loss": {"loss": np.array(found.loss)}})
    return of_whole, of_parted


def _in_halves(backend: BackendCaller) -> None:
    """Check both in float64; a framework that computes a step in one graph may round differently."""
    for name, more in (("adam", {}), ("sgd", {"freeze": ["down"], "rates": {"mask": 0.5}, "ema": {}})):
        training = {"optimizer": {"name": name, "weight_decay": 0.1}, "clip_norm": 0.05, **more}
        case = make_case(BLOCKS, 16, 24, batches=(3, 2), dropout=0.3, training=training)
        if name == "sgd":  # what is scaled in one half is divided in the same half
            case = with_loss_scale(case, LossScaleRule(growth_interval=1))
        whole, parted = backend.call(_both_ways, case, "float64")
        budget = Budget(lambda _: FLOAT64_TOLERANCE)
        for step, (expected, received) in enumerate(zip(whole, parted, strict=True), start=1):
            budget.advance(expected)
            for kind, found in budget.distances(received).items():
                array, distance = largest_share(found)
                if not distance.share <= 1:
                    raise Nonconformity(
                        f"{name}, step {step}: {kind} of {array} is {distance.value:.1e} from train_step's"
                    )


def _dropped(implementation: Implementation, case: Case, steps: list[int]) -> list[Array]:
    """Return, for each of `steps`, the output's kernel after one large step from the same state."""
    model = _compiled(implementation, case)
    results = []
    for step in steps:
        model.load_state(case.state)
        model.train_step(*case.batches[0], StepScalars(step, step_size=1.0))
        results.append(model.state()["mask/kernel"])
    return results


def _keyed_dropout(backend: BackendCaller) -> None:
    case = make_case(BLOCKS, 8, 12, dropout=0.5)
    first, second, first_again = backend.call(_dropped, case, [1, 2, 1])
    if not np.array_equal(first, first_again):
        raise Nonconformity("the same step drew different masks")
    if np.array_equal(first, second):
        raise Nonconformity("two steps drew the same masks")
    other_seed = make_case(BLOCKS, 8, 12, dropout=0.5, training={"seed": 1})
    if np.array_equal(first, backend.call(_dropped, other_seed, [1])[0]):
        raise Nonconformity("two seeds drew the same masks")


def _sums(implementation: Implementation, case: Case) -> tuple[float, float]:
    """Return sums of the activations with the backend's own dropout masks and with masks of ones.

    At logits 0 and with empty ground truth, each tap's gradient is half the sum of its inputs.
    """
    model = _compiled(implementation, case)
    images, masks = case.batches[0]
    ones = {"down/dropout": np.ones((16, 20, 28, 6), np.uint8)}
    drawn = model.differentiate(images, np.zeros_like(masks)).gradients
    kept = model.differentiate(images, np.zeros_like(masks), keep=ones).gradients
    return float(drawn["mask/kernel"].sum()), float(kept["mask/kernel"].sum())


def _share_kept(backend: BackendCaller) -> None:
    training = {"loss": {"bce": 1, "dice": 0}}
    case = make_case(BLOCKS, 40, 56, batches=(16,), batch_norm=False, dropout=0.25, training=training)
    for name in case.state:
        if name.startswith("mask/"):
            case.state[name][...] = 0.0
    drawn, all_kept = backend.call(_sums, case)
    # Masks of ones still scale by 1/0.75, so the ratio is the share kept; its standard deviation is 0.002.
    if abs(drawn / all_kept - 0.75) > 0.01:
        raise Nonconformity(f"at rate 0.25 the share kept is {drawn / all_kept:.3f}")


def _exported(implementation: Implementation, case: Case, folder: Path, precision: Precision) -> list[str]:
    _compiled(implementation, case, precision).export(folder, {"purpose": "conformance"})
    return [path.name for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def _export(backend: BackendCaller, precision: Precision = "float32") -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not backend.call(_exported, make_case(BLOCKS, 8, 12), Path(folder) / "export", precision):
            raise Nonconformity("export left no file that holds anything")
