"""The existence head: which block it reads, its operations, its refusals, and the reference's gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.reference.model import compile_reference
from core.base.errors import UserError
from core.conformance.cases import Case, make_case
from core.experiment.configuration import as_yaml, parse_configuration
from core.network.lowering import lower_blocks
from core.network.plan import Existence, Plan, Sigmoid, require_operations
from core.network.specification import Network
from core.network.summary import summarise_plan

MASK: dict[str, Any] = {"name": "mask", "kind": "output"}
BLOCKS: list[dict[str, Any]] = [
    {"name": "wide", "kind": "conv", "filters": 4, "stride": 1},
    {"name": "down", "kind": "conv", "filters": 5},
    {"name": "deep", "kind": "pointwise", "filters": 3},
    MASK,
]


def plan_of(**head: Any) -> Plan:
    network = Network.model_validate({"blocks": BLOCKS, "existence": head})
    return lower_blocks(network, 8, 12)


def test_the_head_stands_before_the_sigmoid_and_the_rest_is_as_without_it() -> None:
    plan, without = plan_of(), lower_blocks(Network.model_validate({"blocks": BLOCKS}), 8, 12)
    head = plan.operations[-5:-1]
    assert [(op.name, str(op.output)) for op in head] == [
        ("existence/mean", "1x1x5"),
        ("existence/conv", "1x1x1"),
        ("existence/bias", "1x1x1"),
        ("existence/sigmoid", "1x1x1"),
    ]
    assert (*plan.operations[:-5], plan.operations[-1]) == without.operations
    assert plan.parameters[:-2] == without.parameters
    assert [array.name for array in plan.parameters[-2:]] == ["existence/kernel", "existence/bias"]
    assert (plan.logits, plan.existence_logit) == (without.logits, "existence/bias")
    assert without.existence is None
    assert without.forward == without.operations[:-1]
    assert not any(isinstance(op, Existence | Sigmoid) for op in plan.forward)
    assert summarise_plan(plan)[-1].parameters == 6


@pytest.mark.parametrize(
    ("head", "source"),
    [
        ({}, "down/batch_norm"),
        ({"source": "deep"}, "deep/batch_norm"),
        ({"source": "wide"}, "wide/batch_norm"),
    ],
)
def test_the_block_that_it_reads(head: dict[str, Any], source: str) -> None:
    (mean,) = (op for op in plan_of(**head).operations if op.name == "existence/mean")
    assert mean.inputs == (source,)


def test_of_an_encoder_it_reads_the_last_block() -> None:
    content = {"encoder": {"kind": "resnet18"}, "decoder": {}, "blocks": [MASK], "existence": {}}
    plan = lower_blocks(Network.model_validate(content), 64, 64)
    (mean,) = (op for op in plan.operations if op.name == "existence/mean")
    assert mean.inputs == ("encoder_4_2/relu",)
    assert mean.output.channels == 512


def test_its_dropout_is_its_own() -> None:
    (dropout,) = plan_of(dropout=0.25).dropouts
    assert (dropout.name, dropout.rate, str(dropout.output)) == ("existence/dropout", 0.25, "1x1x5")


def test_a_block_that_only_the_head_reads_is_trained() -> None:
    branch = {"name": "branch", "kind": "conv", "filters": 2, "source": "wide"}
    after = {"name": "after", "kind": "pointwise", "source": "down"}
    blocks = [*BLOCKS[:2], branch, after, MASK]
    network = Network.model_validate({"blocks": blocks, "existence": {"source": "branch"}})
    assert "branch/kernel" in [array.name for array in lower_blocks(network, 8, 12).parameters]
    with pytest.raises(UserError, match="no block reads the output of 'branch'"):
        lower_blocks(Network.model_validate({"blocks": blocks}), 8, 12)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"network": {"blocks": BLOCKS, "existence": {"source": "deeep"}}}, "did you mean 'deep'"),
        (
            {"network": {"blocks": BLOCKS, "existence": {"source": "mask"}}},
            "no block before the output block",
        ),
        ({"network": {"blocks": [MASK], "existence": {}}}, "there is no block before 'mask' to read"),
        (
            {"network": {"blocks": [{**BLOCKS[1], "name": "existence"}, MASK], "existence": {}}},
            "a block is called 'existence' too",
        ),
        (
            {"network": {"blocks": BLOCKS}, "training": {"loss": {"existence": 0.5}}},
            "training.loss.existence: the network has no existence head",
        ),
        (
            {"network": {"blocks": BLOCKS, "existence": {}}, "training": {"loss": {"existence": 0}}},
            "training.loss.existence: Input should be greater than 0",
        ),
    ],
)
def test_what_cannot_be_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse_configuration(content)


def test_a_block_may_be_called_existence_where_there_is_no_head() -> None:
    parse_configuration({"network": {"blocks": [{**BLOCKS[1], "name": "existence"}, MASK]}})


def test_the_weight_is_1_unless_given_and_a_configuration_is_written_as_it_is_read() -> None:
    content: dict[str, Any] = {"network": {"blocks": BLOCKS, "existence": {}}}
    found = parse_configuration(content)
    assert found.training.rules().loss.existence == 1.0
    assert "existence: null" in as_yaml(found)
    weighted = parse_configuration(content, ["training.loss.existence=0.25"])
    assert weighted.training.rules().loss.existence == 0.25


def test_a_backend_without_the_head_refuses_the_plan() -> None:
    plan = plan_of()
    known = {type(op) for op in plan.operations} - {Existence}
    with pytest.raises(UserError, match="other has no operation Existence at 'existence/sigmoid'"):
        require_operations(plan, known, "other")


def case() -> Case:
    smooth = [block | {"activation": "silu"} for block in BLOCKS[:3]]
    training = {"loss": {"bce": 0.5, "dice": 0.25, "existence": 3.0}}
    made = make_case([*smooth, MASK], 8, 12, training=training, existence={"source": "down", "dropout": 0.4})
    made.batches[0][1][1] = 0
    return made


def test_the_references_gradients_are_its_differences() -> None:
    given = case()
    model = compile_reference(given.plan, given.rules, "float64")
    images, masks = given.batches[0]
    state = {name: array.astype(np.float64) for name, array in given.state.items()}
    keep = given.keep(0, len(images))

    def loss(name: str, index: tuple[int, ...], by: float) -> float:
        moved = state[name].copy()
        moved[index] += by
        model.load_state({**state, name: moved})
        return model.differentiate(images, masks, keep).loss

    model.load_state(state)
    gradients = model.differentiate(images, masks, keep).gradients
    for parameter in given.plan.parameters:
        array = gradients[parameter.name]
        index = np.unravel_index(int(np.abs(array).argmax()), array.shape)
        there, back = (loss(parameter.name, index, by) for by in (1e-5, -1e-5))
        assert array[index] == pytest.approx((there - back) / 2e-5, rel=1e-6), parameter.name


def test_the_references_existence_is_of_the_mean_of_the_block() -> None:
    given = case()
    model = compile_reference(given.plan, given.rules, "float64")
    model.load_state(given.state)
    images, masks = given.batches[0]
    probabilities, existence = model.predict_with_existence(images)
    block = model._forward(images)["down/batch_norm"]
    kernel, bias = given.state["existence/kernel"], given.state["existence/bias"]
    logits = block.mean(axis=(1, 2)) @ kernel[0, 0, :, 0].astype(np.float64) + bias
    np.testing.assert_allclose(existence, 1 / (1 + np.exp(-logits)), rtol=1e-12)
    np.testing.assert_array_equal(probabilities, model.predict(images))
    truth = masks.any(axis=(1, 2, 3))
    assert truth.tolist() == [True, False, True]
    plain = compile_reference(*without_head(given), "float64")
    plain.load_state({name: a for name, a in given.state.items() if "existence" not in name})
    added = 3 * -np.log(np.where(truth, existence, 1 - existence)).mean()
    assert model.evaluate(images, masks)[0] == pytest.approx(plain.evaluate(images, masks)[0] + added)


def without_head(given: Case) -> tuple[Plan, Any]:
    smooth = [block | {"activation": "silu"} for block in BLOCKS[:3]]
    return lower_blocks(Network.model_validate({"blocks": [*smooth, MASK]}), 8, 12), given.rules
