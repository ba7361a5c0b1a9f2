"""The reference's operations of networks from the literature, compared with PyTorch's own in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from backends.reference import layers, operations
from core.network.padding import pads_of
from core.network.plan import Activation, AveragePool2D, GroupedConv2D, MaxPool2D, Tensor, Upsample

torch = pytest.importorskip("torch", reason="PyTorch is what the reference is compared with here")
functional = torch.nn.functional
Floats = NDArray[Any]


def to_torch(array: Floats) -> Any:
    return torch.tensor(np.moveaxis(array, -1, 1).copy(), dtype=torch.float64).requires_grad_()


def to_numpy(tensor: Any) -> Floats:
    return np.moveaxis(tensor.detach().numpy(), 1, -1)


def random(*shape: int) -> Floats:
    return np.random.default_rng(shape).standard_normal(shape)


def check(found: Floats, expected: Any, x: Any, back: Any) -> None:
    """Compare a result and, for a random gradient of it, the gradient of its input."""
    np.testing.assert_allclose(found, to_numpy(expected), atol=1e-12)
    dy = random(*found.shape)
    expected.backward(to_torch(dy).detach())
    np.testing.assert_allclose(back(dy), to_numpy(x.grad), atol=1e-11)


GROUPS = [(1, 3, 4), (2, 4, 6), (4, 4, 4), (4, 4, 8)]  # groups, channels in and out


@pytest.mark.parametrize(("groups", "channels", "filters"), GROUPS)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", ["same", "symmetric", "valid"])
def test_convolutions(padding: str, dilation: int, groups: int, channels: int, filters: int) -> None:
    for length, kernel, stride in itertools.product((9, 10), (1, 3, 4), (1, 2, 3)):
        x, weights = (
            random(2, length, length + 3, channels),
            random(kernel, kernel, channels // groups, filters),
        )
        height, rows = pads_of(padding, length, kernel, stride, dilation)
        width, columns = pads_of(padding, length + 3, kernel, stride, dilation)
        out = Tensor("y", height, width, filters)
        op = GroupedConv2D("y", ("x",), out, "k", (kernel, kernel), stride, (rows, columns), groups, dilation)
        theirs, kernels = to_torch(x), torch.tensor(weights.transpose(3, 2, 0, 1).copy()).requires_grad_()
        padded = functional.pad(theirs, (*columns, *rows))
        y = functional.conv2d(padded, kernels, None, stride, 0, dilation, groups)
        gradients: list[Floats] = []

        def back(
            dy: Floats,
            op: GroupedConv2D = op,
            x: Floats = x,
            weights: Floats = weights,
            into: list[Floats] = gradients,
        ) -> Floats:
            dx, d_kernel = operations.conv2d_backward(op, x, weights, dy)
            into.append(d_kernel)
            return dx

        check(operations.conv2d(op, x, weights), y, theirs, back)
        np.testing.assert_allclose(gradients[0], kernels.grad.numpy().transpose(2, 3, 1, 0), atol=1e-11)


@pytest.mark.parametrize("kernel_stride", [(2, 2), (3, 2), (3, 1), (2, 3), (5, 3)])
@pytest.mark.parametrize("padding", ["symmetric", "valid", "ceil"])
def test_pools(padding: str, kernel_stride: tuple[int, int]) -> None:
    """Whole numbers, so that windows have equal maxima; PyTorch's gradient goes to the first, too."""
    kernel, stride = kernel_stride
    for length in (9, 10, 11):
        x = np.random.default_rng(length).integers(0, 3, (2, length, length + 2, 3)).astype(float)
        height, rows = pads_of(padding, length, kernel, stride)
        width, columns = pads_of(padding, length + 2, kernel, stride)
        shape = Tensor("y", height, width, 3), (kernel, kernel), stride, (rows, columns)
        pad, ceil = kernel // 2 if padding == "symmetric" else 0, padding == "ceil"
        op, theirs = MaxPool2D("y", ("x",), *shape), to_torch(x)
        y = functional.max_pool2d(theirs, kernel, stride, pad, ceil_mode=ceil)
        check(
            layers.max_pool2d(op, x),
            y,
            theirs,
            lambda dy, op=op, x=x: layers.max_pool2d_backward(op, x, dy)[0],
        )
        mean, theirs = AveragePool2D("y", ("x",), *shape), to_torch(x)
        y = functional.avg_pool2d(theirs, kernel, stride, pad, ceil_mode=ceil, count_include_pad=False)
        check(
            layers.average_pool2d(mean, x),
            y,
            theirs,
            lambda dy, op=mean, x=x: layers.average_pool2d_backward(op, x, dy)[0],
        )


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("method", ["nearest", "bilinear"])
def test_upsampling(method: Any, factor: int) -> None:
    x = random(2, 5, 4, 3)
    op = Upsample("y", ("x",), Tensor("y", 5 * factor, 4 * factor, 3), factor, method)
    theirs, aligned = to_torch(x), None if method == "nearest" else False
    y = functional.interpolate(theirs, scale_factor=factor, mode=method, align_corners=aligned)
    check(layers.upsample(op, x), y, theirs, lambda dy: layers.upsample_backward(op, x, dy)[0])


@pytest.mark.parametrize(
    ("function", "theirs"),
    [
        ("relu6", functional.relu6),
        ("leaky_relu", lambda x: functional.leaky_relu(x, 0.25)),
        ("elu", functional.elu),
        ("silu", functional.silu),
        ("sigmoid", torch.sigmoid),
    ],
)
def test_activations_at_their_kinks_too(function: Any, theirs: Any) -> None:
    x = 4 * random(2, 5, 4, 3)
    x[0, 0], x[0, 1] = 0.0, 6.0
    op, given = Activation("y", ("x",), Tensor("y", 5, 4, 3), function, 0.25), to_torch(x)
    check(
        layers.activation(op, x),
        theirs(given),
        given,
        lambda dy: layers.activation_backward(op, x, dy)[0],
    )
