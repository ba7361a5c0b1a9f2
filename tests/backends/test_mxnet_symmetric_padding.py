"""Tests of MXNet's pads against convolutions written out; MXNet itself is not needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.mxnet.symmetric_padding import AxisPadding, Flip, axis_paddings, best_flip, sizes
from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.network.padding import same_crops, same_pads
from core.network.plan import Conv2D, ConvTranspose2D, Plan, Tensor


def one(kind: type[Conv2D] | type[ConvTranspose2D], size: int, kernel: int, stride: int) -> Plan:
    """Return a plan of a single convolution of an image with `size` rows and `size + 1` columns."""
    rule = same_pads if kind is Conv2D else same_crops
    (rows, row_pads), (columns, column_pads) = (rule(n, kernel, stride) for n in (size, size + 1))
    operation = kind(
        "y", ("x",), Tensor("y", rows, columns, 2), "k", (kernel, kernel), stride, (row_pads, column_pads)
    )
    return Plan(Tensor("x", size, size + 1, 1), (operation,), (), ())


def by_mxnets_rule(
    kind: type, axis: AxisPadding, x: NDArray[np.float64], w: NDArray[np.float64], stride: int
) -> NDArray[np.float64]:
    """Compute what MXNet does along one axis; return the pixels that are wanted."""
    if kind is Conv2D:
        padded = np.pad(x, axis.padding)
        made = [padded[n : n + len(w)] @ w for n in range(0, len(padded) - len(w) + 1, stride)]
    else:
        full = np.zeros((len(x) - 1) * stride + len(w) + axis.adjust)
        for n, value in enumerate(x):
            full[n * stride : n * stride + len(w)] += value * w
        made = list(full[axis.padding : len(full) - axis.padding])
    assert len(made) == axis.made
    return np.array(made[axis.first : axis.first + axis.wanted])


def by_the_plan(
    operation: Conv2D | ConvTranspose2D, x: NDArray[np.float64], w: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the operation along the rows, as `core.network.plan` defines it."""
    stride, wanted = operation.stride, operation.output.height
    if isinstance(operation, Conv2D):
        padded = np.pad(x, operation.pads[0])
        return np.array([padded[n * stride : n * stride + len(w)] @ w for n in range(wanted)])
    begin = operation.crops[0][0]
    full = np.zeros((len(x) - 1) * stride + len(w) + stride)
    for n, value in enumerate(x):
        full[n * stride : n * stride + len(w)] += value * w
    return full[begin : begin + wanted]


@pytest.mark.parametrize("kind", [Conv2D, ConvTranspose2D])
def test_mxnets_padding_gives_the_plans_pixels_of_flipped_images_too(
    kind: type[Conv2D] | type[ConvTranspose2D],
) -> None:
    rng = np.random.default_rng(0)
    flipped = 0
    for size in (4, 5, 9, 12):
        for kernel in range(1, 8):
            for stride in range(1, 5):
                plan = one(kind, size, kernel, stride)
                x, w = rng.normal(size=size), rng.normal(size=kernel)
                (operation,) = plan.operations
                assert isinstance(operation, Conv2D | ConvTranspose2D)
                expected = by_the_plan(operation, x, w)
                best = best_flip(plan)
                for chosen in {Flip(rows=False, columns=False), best}:
                    (seen,) = chosen.plan(plan).operations
                    assert isinstance(seen, Conv2D | ConvTranspose2D)
                    axis, _ = axis_paddings(seen, (size, size + 1))
                    step = -1 if chosen.rows else 1
                    found = by_mxnets_rule(kind, axis, x[::step], w[::step], stride)[::step]
                    np.testing.assert_allclose(found, expected, atol=1e-12)
                flipped += best.rows
    assert flipped > 10


def test_the_networks_we_ship_need_no_cut_at_even_sizes() -> None:
    for name in ("fcn", "fcn_skip", "unet"):
        plan = lower(load_configuration(Path(name), []).network, 96, 128)
        flip = best_flip(plan)
        assert flip == Flip(rows=True, columns=True), name
        size_of = sizes(plan)
        for operation in flip.plan(plan).operations:
            if isinstance(operation, Conv2D | ConvTranspose2D):
                paddings = axis_paddings(operation, size_of[operation.input])
                assert not any(axis.is_cut for axis in paddings), operation


def test_views_are_reversed_along_the_flipped_axes() -> None:
    x = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
    flip = Flip(rows=True, columns=False)
    np.testing.assert_array_equal(flip.pixels(x), x[:, ::-1])
    np.testing.assert_array_equal(flip.kernel(x), x[::-1])
    assert flip.axes == (1,)
    assert Flip(rows=True, columns=True).axes == (1, 2)
