"""Which blocks the names of `training.freeze` and `training.rates` stand for, and what is trained then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from core.backend.state import averaged_state, initial_state, state_shapes
from core.backend.trained_part import divide_blocks, trained_part
from core.base.errors import UserError
from core.experiment.configuration import Configuration, parse_configuration
from core.network.lowering import lower

BLOCKS: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 2},
    {"name": "down_2", "kind": "conv", "filters": 3},
    {"name": "up", "kind": "transpose", "filters": 2},
    {"name": "mask", "kind": "output", "skip": "down"},
]


def configured(
    training: Mapping[str, Any], blocks: Sequence[Mapping[str, Any]] = BLOCKS, **network: Any
) -> Configuration:
    return parse_configuration({"network": {"blocks": list(blocks), **network}, "training": dict(training)})


def unet(training: Mapping[str, Any]) -> Configuration:
    mask = {"name": "mask", "kind": "output", "stride": 1}
    literature = {"encoder": {"kind": "resnet18"}, "decoder": {"filters": [4] * 5}, "existence": {}}
    return configured(training, [mask], **literature)


def test_a_name_is_a_block_or_the_beginning_of_the_names_of_some() -> None:
    blocks = ["encoder_stem", "encoder_1_1", "encoder_1_2", "encoder_2_1", "down", "down_2", "mask"]
    frozen, places = divide_blocks(["encoder_1", "down"], ["mask", "encoder_2"], blocks)
    assert frozen == {"encoder_1_1", "encoder_1_2", "down"}  # a block is called so: not down_2
    assert places == {"mask": 1, "encoder_2_1": 2}
    everything, _ = divide_blocks(["encoder"], [], blocks)
    assert everything == set(blocks[:4])


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"freeze": ["dwon"]}, "training.freeze: no block is called 'dwon', and none begins with 'dwon_'; "),
        ({"freeze": ["dwon"]}, "did you mean 'down'?"),
        ({"freeze": ["x"]}, "; blocks: down, down_2, up, mask"),
        ({"rates": {"masks": 2}}, "training.rates: no block is called 'masks'"),
        ({"freeze": ["down"], "rates": {"down": 2}}, "training.rates.down: the block 'down' is frozen"),
        ({"freeze": "down"}, "training.freeze: "),
        ({"rates": {"up": 0}}, "training.rates.up: "),
        ({"ema": {"decay": 0.9}, "average_best": 2}, "training.ema and training.average_best=2 both average"),
    ],
)
def test_what_cannot_be_meant_is_refused(training: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        configured(training)
    assert message in str(caught.value)


def test_the_blocks_of_encoder_decoder_and_head_have_names_too() -> None:
    with pytest.raises(UserError, match="did you mean 'encoder'"):
        unet({"freeze": ["encodr"]})
    with pytest.raises(UserError, match="'encoder_3_1' is meant by 'encoder' and by 'encoder_3'"):
        unet({"rates": {"encoder": 0.1, "encoder_3": 0.2}})
    found = unet({"freeze": ["encoder", "existence"], "rates": {"decoder_5a": 2.0}})
    plan = lower(found.network, 64, 96)
    trained = trained_part(plan, found.training.rules())
    assert {name.split("/")[0] for name in trained.groups} == {
        *(f"decoder_{level}{part}" for level in range(1, 6) for part in "ab"),
        "mask",
    }
    assert trained.groups["decoder_5a/kernel"] == 1 != trained.groups["decoder_5b/kernel"]
    assert not any(name.startswith("encoder") for name in trained.by_batch | trained.tensors)
    assert plan.existence_logit not in trained.tensors
    with pytest.raises(UserError, match="nothing to train"):
        trained_part(plan, unet({"freeze": ["encoder", "existence", "decoder", "mask"]}).training.rules())


def test_only_what_depends_on_a_trained_block_needs_a_gradient() -> None:
    found = configured({"freeze": ["down", "up"]})
    plan = lower(found.network, 16, 24)
    trained = trained_part(plan, found.training.rules())
    assert {parameter.name.split("/")[0] for parameter in trained.parameters} == {"down_2", "mask"}
    assert {statistic.name for statistic in trained.statistics} == {
        "down_2/moving_mean",
        "down_2/moving_variance",
    }
    blocks = {name.split("/")[0] for name in trained.tensors}
    assert blocks == {"down_2", "up", "mask"}  # the gradient flows through `up`
    assert all(op.output.name in trained.tensors for op in plan.operations if op.name.startswith("up/"))


def test_the_arrays_are_the_same_whatever_is_frozen_and_an_average_begins_as_its_array() -> None:
    plain, frozen = configured({}), configured({"freeze": ["down"], "rates": {"mask": 0.5}})
    plan = lower(plain.network, 16, 24)
    shapes = state_shapes(plan, plain.training.rules())
    assert list(shapes.items()) == list(state_shapes(plan, frozen.training.rules()).items())
    rules = configured({"ema": {}}).training.rules()
    given = {"down/kernel": np.full((3, 3, 1, 2), 7, np.float32)}
    state = initial_state(plan, rules, 1, given)
    averages = [f"optimizer/average/{array.name}" for array in plan.arrays]
    assert list(state) == list(state_shapes(plan, rules)) == [*shapes, *averages]
    for array in plan.arrays:
        np.testing.assert_array_equal(state[f"optimizer/average/{array.name}"], state[array.name])
    assert (state["optimizer/average/down/kernel"] == 7).all()
    state["optimizer/average/mask/bias"][...] = 3.0
    averaged = averaged_state(state)
    assert (averaged["mask/bias"] == 3.0).all()
    assert (state["mask/bias"] == 0.0).all()
