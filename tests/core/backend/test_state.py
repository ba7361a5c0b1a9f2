"""The arrays of a model: names, initial values, and refusal of arrays that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.backend.state import LOSS_SCALE_ARRAYS, by_kind, check_state, initial_state, state_shapes
from core.backend.training_rules import TrainingRules
from core.base.errors import UserError
from core.experiment.configuration import load_configuration, parse_configuration
from core.network.lowering import lower
from core.network.plan import Parameter, Plan, Uniform


def made(*overrides: str) -> tuple[Plan, TrainingRules]:
    configuration = load_configuration(Path("configs/fcn.yaml"), overrides)
    return lower(configuration.network, 32, 48), configuration.training.rules()


def test_the_same_seed_gives_the_same_bits_and_another_other_ones() -> None:
    plan, rules = made()
    first, again, other = (
        initial_state(plan, rules, 3),
        initial_state(plan, rules, 3),
        initial_state(plan, rules, 4),
    )
    assert list(first) == list(state_shapes(plan, rules))
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[name])
        assert np.array_equal(array, other[name]) == (not name.endswith("/kernel") or "optimizer" in name)


def test_first_values_are_those_of_their_role() -> None:
    plan, rules = made()
    state = initial_state(plan, rules, 0)
    ones = ("gamma", "moving_variance")
    for array in plan.arrays:
        if isinstance(array, Parameter) and isinstance(array.initial, Uniform):
            bound = array.initial.bound
            assert abs(state[array.name]).max() <= bound
            if array.size > 1000:
                assert state[array.name].std() == pytest.approx(bound / 3**0.5, rel=0.05)
                assert abs(state[array.name].mean()) < 5 * bound / array.size**0.5
        else:
            assert (state[array.name] == float(array.name.split("/")[1] in ones)).all()
    for slot in ("m", "v"):
        for parameter in plan.parameters:
            moment = state[f"optimizer/{slot}/{parameter.name}"]
            assert moment.shape == parameter.shape
            assert not moment.any()


def test_a_loss_scale_has_three_numbers_of_its_own() -> None:
    plan, rules = made("training.precision=mixed_float16", "training.loss_scale.initial=1024")
    state = initial_state(plan, rules, 0)
    assert [state[name].tolist() for name in LOSS_SCALE_ARRAYS] == [[1024.0], [0.0], [0.0]]
    assert set(LOSS_SCALE_ARRAYS) < set(by_kind(state)["moment"])
    plain = initial_state(*made(), 0)
    assert [*plain, *LOSS_SCALE_ARRAYS] == list(state)
    with pytest.raises(UserError, match="missing loss_scale/good_steps, loss_scale/scale"):
        check_state(plain, state_shapes(plan, rules))


def test_a_block_more_changes_no_other_blocks_weights() -> None:
    plan, rules = made()
    settings = load_configuration(Path("configs/fcn.yaml")).model_dump(mode="json")
    settings["network"]["blocks"].insert(4, {"name": "more", "kind": "pointwise", "filters": 128})
    longer = lower(parse_configuration(settings).network, 32, 48)
    before, after = initial_state(plan, rules, 1), initial_state(longer, rules, 1)
    assert after.keys() - before.keys() >= {"more/kernel", "more/bias"}
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "there.safetensors: missing mask/bias"),
        ("several missing", "there.safetensors: missing .*, .*, .* and 40 more"),
        ("extra", "there.safetensors: unknown mask/delta; the network has no such array"),
        ("transposed", r"there.safetensors: mask/kernel has shape \(1, 32, 3, 3\), expected \(3, 3, 1, 32\)"),
        ("integers", "there.safetensors: mask/kernel has type int32, expected a float"),
    ],
)
def test_what_does_not_fit_is_named(change: str, message: str) -> None:
    plan, rules = made()
    state: dict[str, np.ndarray] = dict(initial_state(plan, rules, 0))
    if change == "missing":
        del state["mask/bias"]
    elif change == "several missing":
        state = dict(list(state.items())[: len(state) - 43])
    elif change == "extra":
        state["mask/delta"] = np.zeros(1, np.float32)
    elif change == "transposed":
        state["mask/kernel"] = state["mask/kernel"].transpose(2, 3, 0, 1)
    else:
        state["mask/kernel"] = state["mask/kernel"].astype(np.int32)
    with pytest.raises(UserError, match=message):
        check_state(state, state_shapes(plan, rules), "there.safetensors")
