"""The specification accepts well-formed networks and refuses others with the path of the wrong key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.base.errors import UserError
from core.experiment.configuration import load_configuration, parse_configuration
from core.network.specification import ConvBlock, Network, OutputBlock, PointwiseBlock, TransposeBlock

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
MASK = {"name": "mask", "kind": "output"}


def conv(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "kind": "conv", "filters": 4, **keys}


def parse(*blocks: dict[str, Any], **network: Any) -> Network:
    return parse_configuration({"network": {"blocks": list(blocks), **network}}).network


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "network.blocks: List should have at least 1 item"),
        ([conv("a"), conv("a"), MASK], "network.blocks[1].name: a block before it is called 'a' too"),
        (
            [conv("a"), conv("b")],
            "network.blocks[1].kind: the last block must be the output block; received 'conv'",
        ),
        ([MASK, conv("b")], "network.blocks[0].kind: the output block must be the last; 1 more follow"),
        ([conv("a", skip="a"), MASK], "network.blocks[0].skip: a block cannot skip to itself ('a')"),
        ([conv("a", skip="b"), conv("b"), MASK], "network.blocks[0].skip: 'b' comes after 'a'"),
        ([conv("down1"), conv("b", skip="dwon1"), MASK], "did you mean 'down1'?"),
        (
            [conv("a", filter=3), MASK],
            "network.blocks[0].filter: unknown key; did you mean 'network.blocks[0].filters'?",
        ),
        ([conv("a", kernel=0), MASK], "network.blocks[0].kernel: "),
        ([conv("a", stride=1.5), MASK], "network.blocks[0].stride: "),
        ([conv("a", dropout=1.0), MASK], "network.blocks[0].dropout: "),
        ([conv("a", dropout=float("nan")), MASK], "network.blocks[0].dropout: "),
        ([conv("a/b"), MASK], "network.blocks[0].name: "),
        ([{"name": "a", "kind": "conv"}, MASK], "network.blocks[0].filters: missing"),
        ([{"name": "a", "kind": "dense", "filters": 3}, MASK], "network.blocks[0]"),
        ([{"name": "a", "kind": "pointwise", "kernel": 3}, MASK], "kernel: not a key of 'pointwise'"),
        ([{**MASK, "filters": 2}], "network.blocks[0].filters: not a key of 'output'"),
        ([{**MASK, "batch_norm": True}], "network.blocks[0].batch_norm: not a key of 'output'"),
    ],
)
def test_what_is_not_well_formed_is_refused_by_its_key(blocks: list[Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(*blocks)
    assert message in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse(conv("a", kernel=0, stride=-1), MASK, dropout=2, batchnorm=False)
    for key in (
        "blocks[0].kernel",
        "blocks[0].stride",
        "network.dropout",
        "did you mean 'network.batch_norm'",
    ):
        assert key in str(caught.value)


def test_the_blocks_of_the_default_network() -> None:
    blocks = load_configuration(CONFIGS / "fcn.yaml").network.blocks
    assert [type(block) for block in blocks] == [
        *[ConvBlock] * 3,
        PointwiseBlock,
        *[TransposeBlock] * 2,
        OutputBlock,
    ]
    assert [getattr(block, "filters", None) for block in blocks] == [32, 64, 128, None, 64, 32, None]
    assert {block.kernel for block in blocks if not isinstance(block, PointwiseBlock)} == {3}
    assert {block.stride for block in blocks if not isinstance(block, PointwiseBlock)} == {2}
    network = load_configuration(CONFIGS / "fcn.yaml").network
    assert network.batch_norm
    assert network.dropout == 0.0
