"""Each backend against the reference: predictions, losses, every gradient, every array after training.

The judge computes in float64. Sizes are odd and even and never square.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import TOLERANCE, Case, assert_agree, case_of, difference, make_case, run_case
from remote import Remote

from backends.reference import model as reference
from core.configuration import load_configuration
from core.contract import Precision

PRECISIONS: list[Precision] = ["float64", "float32"]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def check(remote: Remote, case: Case, precision: Precision) -> None:
    received = remote.call(run_case, case, precision)
    assert_agree(received, run_case(reference, case, "float64"), TOLERANCE[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 7])
def test_convolutions_of_every_kernel_and_stride(
    remote: Remote, kernel: int, stride: int, precision: Precision
) -> None:
    size = {"kernel": kernel, "stride": stride}
    blocks: list[dict[str, Any]] = [
        {"name": "down", "kind": "conv", "filters": 5, **size},
        {"name": "up", "kind": "transpose", "filters": 4, **size},
        {"name": "mask", "kind": "output", **size},
    ]
    odd_or_even = (11, 14) if (kernel + stride) % 2 else (10, 13)
    check(remote, make_case(blocks, *odd_or_even, batch_norm=False), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("part", ["batch norm", "dropout", "skip", "pointwise"])
def test_each_part_of_a_block_on_its_own(remote: Remote, part: str, precision: Precision) -> None:
    blocks: list[dict[str, Any]] = [
        {"name": "first", "kind": "conv", "filters": 3, "stride": 1},
        {"name": "second", "kind": "conv", "filters": 4, "stride": 1},
        {"name": "mask", "kind": "output", "stride": 1},
    ]
    network: dict[str, Any] = {"batch_norm": part == "batch norm"}
    if part == "dropout":
        network["dropout"] = 0.4
    if part == "skip":
        blocks[2]["skip"] = "first"
    if part == "pointwise":
        blocks[1] = {"name": "second", "kind": "pointwise"}
    check(remote, make_case(blocks, 9, 12, **network), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "loss", [{"bce": 1, "dice": 0}, {"bce": 0, "dice": 1}, {"bce": 0, "dice": 0, "focal": 1}]
)
def test_each_loss_on_its_own(remote: Remote, loss: dict[str, float], precision: Precision) -> None:
    blocks = [
        {"name": "down", "kind": "conv", "filters": 4},
        {"name": "mask", "kind": "output"},
    ]
    check(remote, make_case(blocks, 8, 10, training={"loss": loss}), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("clip_norm", [1e-3, 1e3])
def test_clipping_and_weight_decay(remote: Remote, clip_norm: float, precision: Precision) -> None:
    blocks = [{"name": "down", "kind": "conv", "filters": 4}, {"name": "mask", "kind": "output"}]
    training = {"clip_norm": clip_norm, "optimizer": {"learning_rate": 0.02, "weight_decay": 0.1}}
    check(remote, make_case(blocks, 8, 10, training=training), precision)


def everything_on(name: str) -> Case:
    """A configuration of the toolkit, narrowed to few filters, with batch norm and dropout in each block."""
    settings = [
        "network.batch_norm=true",
        "network.dropout=0.25",
        "training.loss.focal=0.5",
        "training.clip_norm=0.8",
        "training.optimizer.weight_decay=0.01",
    ]
    blocks = load_configuration(CONFIGS / name).network.blocks
    for index, block in enumerate(blocks):
        if getattr(block, "filters", None):
            settings.append(f"network.blocks.{index}.filters={3 + index % 4}")
    configuration = load_configuration(CONFIGS / name, settings)
    return case_of(configuration, 32, 48, batches=(3, 3, 2, 3, 1, 3, 3, 2, 3, 3))


@pytest.mark.parametrize("name", ["fcn.yaml", "fcn_skip.yaml", "unet.yaml"])
def test_ten_steps_with_everything_on_and_short_batches(remote: Remote, name: str) -> None:
    check(remote, everything_on(name), "float64")


def test_first_step_in_float32_at_the_default_network(remote: Remote) -> None:
    case = case_of(load_configuration(CONFIGS / "fcn.yaml"), 64, 96)
    received = remote.call(run_case, case, "float32")
    expected = run_case(reference, case, "float64")
    # Of the gradients those before the first batch norm going backward: the sums in batch norm's own are
    # so ill-conditioned at this untrained network that TensorFlow's, which add pixel by pixel, keep 2 digits.
    for name in ("mask/kernel", "mask/bias", "up2/gamma", "up2/beta"):
        assert difference(received.gradients[name], expected.gradients[name]) < TOLERANCE["float32"]
    assert difference(received.losses[0], expected.losses[0]) < 1e-5
    assert difference(received.predictions, expected.predictions) < 1e-5


def one_pixel_wide(logit: float) -> Case:
    """A network whose logits are all `logit`: kernels 0 and the output's bias set."""
    blocks = [
        {"name": "first", "kind": "conv", "filters": 2, "stride": 1},
        {"name": "mask", "kind": "output", "stride": 1},
    ]
    case = make_case(blocks, 5, 6, batch_norm=False, training={"loss": {"bce": 1, "dice": 1, "focal": 1}})
    for name, array in case.state.items():
        array[...] = logit if name == "mask/bias" else 0.0
    return case


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("logit", [0.0, 1e4, -1e4, 40.0, -40.0])
def test_losses_at_zero_and_extreme_logits(remote: Remote, logit: float, precision: Precision) -> None:
    case = one_pixel_wide(logit)
    received = remote.call(run_case, case, precision)
    expected = run_case(reference, case, "float64")
    got, wanted = received.gradients["mask/bias"], expected.gradients["mask/bias"]
    assert np.isfinite(received.training_loss)
    assert np.isfinite(got).all()
    assert difference(received.training_loss, expected.training_loss) < TOLERANCE[precision]
    assert abs(got - wanted).max() < TOLERANCE[precision] * max(1.0, abs(wanted).max())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_gradient_at_a_logit_of_exactly_zero_is_one_half_minus_truth(
    remote: Remote, precision: Precision
) -> None:
    blocks = [{"name": "mask", "kind": "output", "stride": 1}]
    case = make_case(blocks, 5, 6, training={"loss": {"bce": 1, "dice": 0}})
    for array in case.state.values():
        array[...] = 0.0
    received = remote.call(run_case, case, precision)
    _, masks = case.batches[0]
    assert received.gradients["mask/bias"] == pytest.approx(0.5 - masks.mean(), rel=1e-6)
