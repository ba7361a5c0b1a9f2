"""The table of a network equals one that was computed by hand."""

from __future__ import annotations

from core.experiment.configuration import parse_configuration
from core.network.lowering import lower
from core.network.summary import BlockSummary, multiply_adds, summarise_plan


def test_a_row_for_each_block() -> None:
    blocks = [
        {"name": "down", "kind": "conv", "filters": 4, "kernel": 5, "dropout": 0.5},
        {"name": "middle", "kind": "pointwise", "batch_norm": False},
        {"name": "mask", "kind": "output", "skip": "down"},
    ]
    plan = lower(parse_configuration({"network": {"blocks": blocks}}).network, 6, 10)
    assert summarise_plan(plan) == [
        BlockSummary("down", "conv 5x5/2, bias, relu, batch norm, dropout", "3x5x4", 25 * 4 + 4 + 4 + 4),
        BlockSummary("middle", "conv 1x1/1, bias, relu", "3x5x4", 4 * 4 + 4),
        BlockSummary("mask", "concat, conv transpose 3x3/2, bias, sigmoid", "6x10x1", 9 * 8 + 1),
    ]
    # By hand: kernel elements times pixels of the result, or of the input of the transposed convolution.
    assert multiply_adds(plan) == 25 * 4 * 15 + 16 * 15 + 9 * 8 * 15
