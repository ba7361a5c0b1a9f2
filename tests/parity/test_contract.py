"""What `core.contract.Model` promises beside the numbers: state, determinism, dropout, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Arrays, Case, make_case
from numpy.typing import NDArray
from remote import Remote

from core.contract import Implementation, Model
from core.errors import UserError
from core.rules import StepScalars, adam_step

BLOCKS: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 6},
    {"name": "mask", "kind": "output"},
]


def compiled(implementation: Implementation, case: Case) -> Model:
    model = implementation.compile(case.plan, case.rules, "cpu", "float32")
    model.load_state(case.state)
    return model


def round_trip(implementation: Implementation, case: Case) -> Arrays:
    return compiled(implementation, case).state()


def test_state_comes_back_bit_for_bit(remote: Remote) -> None:
    case = make_case(BLOCKS, 8, 12)
    state = remote.call(round_trip, case)
    assert list(state) == list(case.state)
    for name, array in case.state.items():
        assert state[name].dtype == np.float32
        np.testing.assert_array_equal(state[name], array, err_msg=name)


def state_around_gradients(implementation: Implementation, case: Case) -> tuple[Arrays, Arrays]:
    model = compiled(implementation, case)
    before = model.state()
    model.gradients(*case.batches[0])
    model.evaluate(*case.batches[0])
    model.predict(case.batches[0][0])
    return before, model.state()


def test_gradients_evaluate_and_predict_change_nothing(remote: Remote) -> None:
    before, after = remote.call(state_around_gradients, make_case(BLOCKS, 8, 12))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


def state_is_a_copy(implementation: Implementation, case: Case) -> tuple[Arrays, Arrays]:
    model = compiled(implementation, case)
    taken = model.state()
    kept = {name: array.copy() for name, array in taken.items()}
    model.train_step(*case.batches[0], adam_step(case.rules.optimizer, 1, 0.1))
    model.state()
    return taken, kept


def test_a_state_once_taken_does_not_move_with_training(remote: Remote) -> None:
    taken, kept = remote.call(state_is_a_copy, make_case(BLOCKS, 8, 12))
    for name, array in kept.items():
        np.testing.assert_array_equal(taken[name], array, err_msg=name)


def trained(implementation: Implementation, case: Case) -> tuple[list[float], Arrays]:
    model = compiled(implementation, case)
    losses = [
        float(model.train_step(*batch, adam_step(case.rules.optimizer, step, 1e-2)))
        for step, batch in enumerate(case.batches, start=1)
    ]
    return losses, model.state()


def test_training_twice_gives_the_same_bits(remote: Remote) -> None:
    # Large enough for several threads; dropout drawn by the backend's own generator.
    case = make_case(BLOCKS, 96, 128, batches=(4, 4, 3, 4), dropout=0.3)
    losses, state = remote.call(trained, case)
    again, state_again = remote.call(trained, case)
    assert losses == again
    for name, array in state.items():
        np.testing.assert_array_equal(state_again[name], array, err_msg=name)


def load(implementation: Implementation, case: Case, state: Arrays) -> None:
    compiled(implementation, case).load_state(state)


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_a_state_that_does_not_fit_is_refused_by_name(remote: Remote, change: str) -> None:
    case = make_case(BLOCKS, 8, 12)
    state = dict(case.state)
    if change == "missing":
        del state["down/gamma"]
    elif change == "extra":
        state["down/delta"] = np.zeros(6, np.float32)
    else:
        state["down/kernel"] = state["down/kernel"].transpose(3, 2, 0, 1)
    with pytest.raises(UserError, match={"extra": "down/delta"}.get(change, "down/(gamma|kernel)")):
        remote.call(load, case, state)


def dropped(implementation: Implementation, case: Case, steps: list[int]) -> list[NDArray[Any]]:
    """The output's kernel after one large step from the same state at each of `steps`."""
    model = compiled(implementation, case)
    results = []
    for step in steps:
        model.load_state(case.state)
        model.train_step(*case.batches[0], StepScalars(step, size=1.0))
        results.append(model.state()["mask/kernel"])
    return results


def test_own_dropout_masks_are_keyed_by_the_step(remote: Remote) -> None:
    case = make_case(BLOCKS, 8, 12, dropout=0.5)
    first, second, first_again = remote.call(dropped, case, [1, 2, 1])
    np.testing.assert_array_equal(first, first_again)
    assert not np.array_equal(first, second)


def summed_activations(implementation: Implementation, case: Case) -> tuple[float, float]:
    """Sum of the activations with the backend's own masks and with masks of ones.

    At logits 0 and empty truth each tap's gradient is the sum of the activations it meets, halved.
    """
    model = compiled(implementation, case)
    images, masks = case.batches[0]
    ones = {"down/dropout": np.ones((16, 20, 28, 6), np.uint8)}
    _, drawn = model.gradients(images, np.zeros_like(masks))
    _, kept = model.gradients(images, np.zeros_like(masks), keep=ones)
    return float(drawn["mask/kernel"].sum()), float(kept["mask/kernel"].sum())


def test_own_dropout_keeps_the_expected_share(remote: Remote) -> None:
    training = {"loss": {"bce": 1, "dice": 0}}
    case = make_case(BLOCKS, 40, 56, batches=(16,), batch_norm=False, dropout=0.25, training=training)
    for name in case.state:
        if name.startswith("mask/"):
            case.state[name][...] = 0.0
    drawn, all_kept = remote.call(summed_activations, case)
    # Masks of ones still scale by 1/0.75, so the ratio is the share kept; its deviation is 0.002.
    assert drawn / all_kept == pytest.approx(0.75, abs=0.01)


def devices(implementation: Implementation) -> list[str]:
    return implementation.list_devices()


def test_the_cpu_is_listed_first(remote: Remote) -> None:
    assert remote.call(devices)[0] == "cpu"
