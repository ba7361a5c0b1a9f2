"""Lowering resolves SAME to pixels, gives adjoint crops, checks shapes and rounds scalars once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.reference import operations
from core.base.errors import UserError
from core.experiment.configuration import load_configuration, parse_configuration
from core.network.lowering import lower, lower_blocks
from core.network.padding import same_crops, same_pads
from core.network.plan import (
    BatchNorm,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Plan,
    Sigmoid,
    Tensor,
    Uniform,
)
from core.network.specification import Network

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
GEOMETRIES = [
    (size, kernel, stride) for size in range(1, 14) for kernel in range(1, 8) for stride in range(1, 5)
]


def network(*blocks: dict[str, Any], **keys: Any) -> Network:
    return parse_configuration({"network": {"blocks": list(blocks), **keys}}).network


def test_a_same_convolution_centres_its_taps_as_tensorflow_documents() -> None:
    # tf.nn, "Notes on padding": total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0).
    for size, kernel, stride in GEOMETRIES:
        out, (begin, end) = same_pads(size, kernel, stride)
        rest = size % stride
        total = max(kernel - stride, 0) if rest == 0 else max(kernel - rest, 0)
        assert (out, begin, end) == (math.ceil(size / stride), total // 2, total - total // 2)


def test_a_same_transposed_convolution_enlarges_by_the_stride() -> None:
    for size, kernel, stride in GEOMETRIES:
        out, (begin, end) = same_crops(size, kernel, stride)
        assert out == size * stride
        assert (size - 1) * stride + kernel - begin - end == out
        assert begin >= 0
        # Only a kernel smaller than the stride leaves pixels that no tap reaches.
        assert end >= 0 or kernel < stride


def conv(size: tuple[int, int], kernel: int, stride: int, channels: tuple[int, int]) -> Conv2D:
    height, rows = same_pads(size[0], kernel, stride)
    width, columns = same_pads(size[1], kernel, stride)
    output = Tensor("y", height, width, channels[1])
    return Conv2D("y", ("x",), output, "k", (kernel, kernel), stride, (rows, columns))


def conv_transpose(
    size: tuple[int, int], kernel: int, stride: int, channels: tuple[int, int]
) -> ConvTranspose2D:
    height, rows = same_crops(size[0], kernel, stride)
    width, columns = same_crops(size[1], kernel, stride)
    output = Tensor("y", height, width, channels[1])
    return ConvTranspose2D("y", ("x",), output, "k", (kernel, kernel), stride, (rows, columns))


def brute_force(x: NDArray[Any], kernel: NDArray[Any], operation: Conv2D) -> NDArray[Any]:
    """Compute the definition in `core.network.plan` element by element."""
    out, (top, _), (left, _) = operation.output, *operation.pads
    y = np.zeros((len(x), out.height, out.width, out.channels))
    for n, i, j, o in np.ndindex(y.shape):
        for a, b in np.ndindex(*operation.kernel_size):
            row, column = i * operation.stride + a - top, j * operation.stride + b - left
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                y[n, i, j, o] += (x[n, row, column] * kernel[a, b, :, o]).sum()
    return y


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_the_reference_convolution_is_the_definition(kernel: int, stride: int) -> None:
    rng = np.random.default_rng(kernel * 10 + stride)
    x, weights = rng.normal(size=(2, 7, 6, 3)), rng.normal(size=(kernel, kernel, 3, 2))
    operation = conv((7, 6), kernel, stride, (3, 2))
    np.testing.assert_allclose(
        operations.conv2d(operation, x, weights), brute_force(x, weights, operation), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_a_transposed_convolution_is_the_adjoint_of_the_convolution(kernel: int, stride: int) -> None:
    """<conv(x), y> = <x, conv_transpose(y)> for the same kernel, which defines SAME for transposed ones."""
    rng = np.random.default_rng(kernel * 10 + stride)
    small = (5, 4)
    large = (small[0] * stride, small[1] * stride)
    down, up = conv(large, kernel, stride, (3, 2)), conv_transpose(small, kernel, stride, (2, 3))
    assert (down.output.height, down.output.width) == small
    weights = rng.normal(size=(kernel, kernel, 3, 2))
    x, y = rng.normal(size=(2, *large, 3)), rng.normal(size=(2, *small, 2))
    there = (operations.conv2d(down, x, weights) * y).sum()
    back = (x * operations.conv_transpose2d(up, y, weights)).sum()
    assert there == pytest.approx(back, rel=1e-12)


def shapes(plan: Plan) -> dict[str, str]:
    return {op.name: str(op.output) for op in plan.operations}


def test_the_default_network_lowers_as_documented() -> None:
    plan = lower(load_configuration(CONFIGS / "fcn.yaml").network, 384, 384)
    blocks = dict(plan.blocks)
    sizes = [shapes(plan)[name] for name in blocks.values()]
    assert sizes == [
        "192x192x32", "96x96x64", "48x48x128", "48x48x128", "96x96x64", "192x192x32", "384x384x1",
    ]  # fmt: skip
    first = [op.name for op in plan.operations if op.name.startswith(plan.blocks[0][0] + "/")]
    assert [name.split("/")[1] for name in first] == ["conv", "bias", "relu", "batch_norm"]
    assert isinstance(plan.output, Sigmoid)
    # kernels, biases, and gamma and beta of all blocks but the output.
    expected = (
        9 * (1 * 32 + 32 * 64 + 64 * 128) + 128 * 128 + 9 * (128 * 64 + 64 * 32 + 32 * 1)
        + 3 * (32 + 64 + 128 + 128 + 64 + 32) + 1
    )  # fmt: skip
    assert sum(parameter.size for parameter in plan.parameters) == expected


@pytest.mark.parametrize("name", ["fcn", "fcn_skip", "unet", "demo"])
def test_every_operation_reads_what_is_ready_and_every_array_is_used_once(name: str) -> None:
    plan = lower(load_configuration(CONFIGS / f"{name}.yaml").network, 64, 96)
    ready = {plan.input.name}
    for op in plan.operations:
        assert set(op.inputs) <= ready
        assert op.output.name not in ready
        ready.add(op.output.name)
    names = [array.name for array in plan.arrays]
    keys = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    used = [value for op in plan.operations for key, value in vars(op).items() if key in keys]
    assert sorted(used) == sorted(names)
    assert (plan.output.output.height, plan.output.output.width) == (64, 96)


def test_batch_norm_and_dropout_are_switched_for_the_network_and_for_a_block() -> None:
    blocks = [
        {"name": "a", "kind": "conv", "filters": 2},
        {"name": "b", "kind": "conv", "filters": 2, "stride": 1, "batch_norm": False, "dropout": 0.0},
        {"name": "mask", "kind": "output"},
    ]
    on = lower(network(*blocks, dropout=0.25), 8, 8)
    assert [op.name for op in on.batch_norms] == ["a/batch_norm"]
    assert [op.name for op in on.dropouts] == ["a/dropout"]
    blocks[1] |= {"batch_norm": True, "dropout": 0.5}
    off = lower(network(*blocks, batch_norm=False), 8, 8)
    assert [op.name for op in off.batch_norms] == ["b/batch_norm"]
    assert [op.rate for op in off.dropouts] == [0.5]


def test_a_skip_joins_after_the_input_and_leaves_the_pointwise_filters_alone() -> None:
    plan = lower(
        network(
            {"name": "a", "kind": "conv", "filters": 3},
            {"name": "b", "kind": "conv", "filters": 5, "stride": 1},
            {"name": "c", "kind": "pointwise", "skip": "a"},
            {"name": "mask", "kind": "output"},
            batch_norm=False,
        ),
        6,
        10,
    )
    joined = next(op for op in plan.operations if isinstance(op, Concat))
    assert joined.inputs == ("b/relu", "a/relu")
    assert shapes(plan)["c/concat"] == "3x5x8"
    assert shapes(plan)["c/conv"] == "3x5x5"


def test_a_skip_between_sizes_that_do_not_meet_is_named() -> None:
    blocks = [
        {"name": "a", "kind": "conv", "filters": 3},
        {"name": "b", "kind": "conv", "filters": 3},
        {"name": "mask", "kind": "output", "stride": 4, "skip": "a"},
    ]
    with pytest.raises(UserError) as caught:
        lower(network(*blocks), 8, 12)
    assert caught.value.message == ("network.blocks[2].skip: 'a' gives 4x6, but the input of 'mask' is 2x3")


@pytest.mark.parametrize(("height", "width"), [(20, 24), (24, 20), (1, 8)])
def test_an_image_that_does_not_come_back_to_its_size_is_refused(height: int, width: int) -> None:
    with pytest.raises(UserError, match=f"{height}x{width}"):
        lower(load_configuration(CONFIGS / "fcn.yaml").network, height, width)


def test_scalars_are_float32_numbers() -> None:
    plan = lower(
        network({"name": "a", "kind": "conv", "filters": 2}, {"name": "m", "kind": "output"}, dropout=0.3),
        8,
        8,
    )
    numbers = [
        number
        for op in plan.operations
        if isinstance(op, BatchNorm | Dropout)
        for number in ((op.momentum, op.epsilon) if isinstance(op, BatchNorm) else (op.rate, op.scale))
    ]
    assert len(numbers) == 4
    assert all(float(np.float32(number)) == number for number in numbers)
    assert plan.dropouts[0].scale == pytest.approx(1 / 0.7, rel=1e-7)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_kernels_keep_the_variance_of_what_flows_through(stride: int) -> None:
    """The bound of each kernel keeps the second moment at 1, including the halving by ReLU."""
    plan = lower_blocks(
        network(
            {"name": "down", "kind": "conv", "filters": 64, "stride": stride},
            {"name": "up", "kind": "transpose", "filters": 64, "stride": stride},
            {"name": "mask", "kind": "output", "stride": stride},
            batch_norm=False,
        ),
        24 * stride,
        24 * stride,
        channels=64,
    )  # fmt: skip
    rng = np.random.default_rng(stride)
    bounds = {array.name: array.initial for array in plan.parameters if isinstance(array.initial, Uniform)}
    for op in plan.operations:
        if not isinstance(op, Conv2D | ConvTranspose2D):
            continue
        shape = next(array.shape for array in plan.parameters if array.name == op.kernel)
        weights = rng.uniform(-1, 1, shape) * bounds[op.kernel].bound
        channels = shape[3] if isinstance(op, ConvTranspose2D) else shape[2]
        shrink = stride if isinstance(op, ConvTranspose2D) else 1 / stride
        size = (round(op.output.height / shrink), round(op.output.width / shrink))
        x = rng.normal(size=(2, *size, channels))
        apply = operations.conv2d if isinstance(op, Conv2D) else operations.conv_transpose2d
        y = apply(op, x, weights)  # type: ignore[operator]
        inner = y[:, 6:-6, 6:-6]
        wanted = 1.0 if op.kernel == "mask/kernel" else 2.0
        assert inner.var() == pytest.approx(wanted, rel=0.25)
