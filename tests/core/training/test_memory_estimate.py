"""The estimate of memory for training, against sums written out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from core.experiment.configuration import parse_configuration
from core.network.lowering import lower
from core.training.memory_estimate import MemoryEstimate, estimate_training

DOWN: dict[str, Any] = {"name": "down", "kind": "conv", "filters": 6, "dropout": 0.5}
MASK: dict[str, Any] = {"name": "mask", "kind": "output"}


def estimate(
    blocks: list[dict[str, Any]], batch: int, size: tuple[int, int], **training: Any
) -> MemoryEstimate:
    configuration = parse_configuration({"network": {"blocks": blocks}, "training": training})
    settings = configuration.training
    return estimate_training(lower(configuration.network, *size), settings.rules(), batch, settings.precision)


@pytest.mark.parametrize(("precision", "item"), [("float32", 4), ("float64", 8), ("mixed_bfloat16", 4)])
def test_every_part_by_hand(precision: str, item: int) -> None:
    found = estimate([DOWN, MASK], 5, (14, 10), precision=precision)
    parameters = (9 * 6 + 6) + (6 + 6) + (9 * 6 + 1)  # a convolution, a batch norm, the output
    image, low = 14 * 10, 7 * 5 * 6  # elements of an image and of each tensor of `down`
    assert found.state == item * (3 * parameters + 2 * 6)  # two moments each; two running statistics
    assert found.gradients == item * parameters
    assert found.batch == 3 * 5 * image * (4 + 1)
    # The convolution keeps the image, the ReLU its output, which is the batch norm's input, the dropout its
    # mask (a byte an element), the transposed convolution its input, and the loss the logits.
    kept = 5 * (item * (image + low + low + image) + low)
    assert found.activations == kept
    # The most lives where the transposed convolution goes back: all that, the gradients of the logits and of
    # its input, and its input and output once more in its kernel's layout.
    assert found.transient == 5 * item * 2 * (image + low)
    assert found.arrays == sum((found.state, found.gradients, found.batch, kept, found.transient))


def test_a_loss_scale_needs_three_numbers_and_a_copy_of_the_state_where_that_is_most() -> None:
    plain, scaled = (estimate([DOWN, MASK], 5, (14, 10), precision=p) for p in ("float32", "mixed_float16"))
    assert scaled.state == plain.state + 3 * 4
    assert scaled.transient == plain.transient
    wide = {**DOWN, "filters": 4000, "dropout": 0.0}
    scaled = estimate([wide, MASK], 1, (2, 2), precision="mixed_float16")
    assert scaled.activations + scaled.transient == scaled.state


def test_without_moments_and_dropout() -> None:
    found = estimate([{**DOWN, "dropout": 0.0}, MASK], 2, (14, 10), optimizer={"name": "sgd"})
    assert found.state == 4 * (2 * (60 + 12 + 55) + 12)
    assert found.activations == 2 * 4 * (140 + 210 + 210 + 140)


def test_frozen_blocks_at_the_beginning_have_no_gradients_and_keep_nothing() -> None:
    blocks = [{**DOWN, "dropout": 0.0, "batch_norm": False}, MASK]
    found = estimate(blocks, 2, (14, 10), optimizer={"name": "sgd"}, freeze=["down"], ema={})
    assert found.state == 4 * 3 * (60 + 55)  # parameters, velocities and averages
    assert found.gradients == 4 * 55
    assert found.activations == 2 * 4 * (210 + 140)  # what the output reads, and the logits


def test_the_existence_head_keeps_its_means_and_its_logit() -> None:
    content = {"network": {"blocks": [{**DOWN, "dropout": 0.0}, MASK], "existence": {}}}
    configuration = parse_configuration(content, ["training.optimizer={name: sgd}"])
    plan, rules = lower(configuration.network, 14, 10), configuration.training.rules()
    found = estimate_training(plan, rules, 2, "float32")
    assert found.state == 4 * (2 * (60 + 12 + 55 + 7) + 12)
    assert found.activations == 2 * 4 * (140 + 210 + 210 + 140 + 6 + 1)


def test_what_a_skip_joins_is_kept_twice() -> None:
    blocks = [
        {"name": "one", "kind": "conv", "filters": 3, "stride": 1, "batch_norm": False},
        {"name": "two", "kind": "conv", "filters": 5, "stride": 1, "batch_norm": False},
        {"name": "mask", "kind": "output", "stride": 1, "skip": "one"},
    ]
    found = estimate(blocks, 1, (9, 7), optimizer={"name": "sgd"})
    # The image, both ReLUs, the two joined (a new array), the logits.
    assert found.activations == 63 * 4 * (1 + 3 + 5 + 8 + 1)
    # Where the output goes back: its logits' and its input's gradients, and a copy of input and output.
    assert found.transient == 63 * 4 * 2 * (1 + 8)


def test_it_grows_with_the_batch_but_for_the_state() -> None:
    one, seven = (estimate([DOWN, MASK], batch, (14, 10)) for batch in (1, 7))
    assert (one.state, one.gradients) == (seven.state, seven.gradients)
    for part in ("batch", "activations", "transient"):
        assert getattr(seven, part) == 7 * getattr(one, part)
    assert seven.process > 1.2 * seven.arrays
