"""Tests of MXNet's backend alone: sums over pixels, gradients in the graph, oneDNN's layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selected import BACKENDS

from core.backend.contract import Implementation
from core.backend.process import BackendProcess
from core.backend.state import initial_state
from core.backend.training_rules import TrainingRules, step_scalars
from core.conformance.cases import Case, case_of, make_case, reference_results, run_case
from core.conformance.mixed import all_differences
from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.network.plan import BatchNorm, MaxPool2D, Pads, Plan, Relu, Tensor
from core.tolerance.differences import difference

pytestmark = [
    pytest.mark.turns(7),
    pytest.mark.skipif("mxnet" not in BACKENDS, reason="mxnet is deselected by PNEUMOSEG_BACKENDS"),
]


def radiographs(case: Case) -> None:
    """Replace a case's images by ones like radiographs: smooth, of 256 values, with black and white areas."""
    rng = np.random.default_rng(3)
    for images, masks in case.batches:
        rows, columns = np.ogrid[: images.shape[1], : images.shape[2]]
        smooth = (0.5 + 0.6 * np.sin(rows / 31) * np.cos(columns / 17))[None, ..., None]
        images[...] = np.round(np.clip(smooth + 0.1 * rng.random(images.shape), 0, 1) * 255) / 255
        masks[...] = images > 0.6


@pytest.mark.parametrize(
    ("network", "size", "count", "like_radiographs", "gradients_within"),
    [
        ("fcn", (96, 96), 8, False, 1e-4),
        ("fcn", (96, 96), 8, True, 1e-4),
        # A ReLU whose input is 0 but for rounding may pass it or not, in every framework: up to 1.5e-3 here.
        ("demo", (128, 128), 16, False, 4e-3),
        ("fcn", (288, 224), 3, True, 4e-3),
        ("fcn", (104, 88), 5, True, 4e-3),
    ],
)
def test_a_step_in_float32_adds_pixels_as_if_in_float64(
    network: str, size: tuple[int, int], count: int, like_radiographs: bool, gradients_within: float
) -> None:
    # From 10,000 pixels a channel on, sums in float32 of one pixel after the other are off by 1e-6 to 1e-5,
    # and the gradients that follow by 1e-2.
    configuration = load_configuration(Path(network), ["network.batch_norm_settings.momentum=0.5"])
    case = case_of(configuration, *size, batches=(count,))
    if like_radiographs:
        radiographs(case)
    with BackendProcess("mxnet") as mxnet:
        received, expected = mxnet.call(run_case, case, "float32"), reference_results(case)
    for name, gradient in expected.gradients.items():
        assert difference(received.gradients[name], gradient) < gradients_within, name
    for name, array in expected.state.items():
        if "moving" in name:
            assert difference(received.state[name], array) < 4e-7, name


def test_a_single_pixel_at_the_bottleneck_trains() -> None:
    case = case_of(load_configuration(Path("fcn"), []), 8, 8, batches=(1, 1))
    smallest = min(op.output.height * op.output.width for op in case.plan.batch_norms)
    assert smallest == 1
    with BackendProcess("mxnet") as mxnet:
        received, expected = mxnet.call(run_case, case, "float32"), reference_results(case)
    assert max(all_differences(received, expected).values()) < 1e-4


@pytest.mark.parametrize("channels", [3, 4, 8, 16])
def test_channels_that_are_no_whole_blocks_are_joined_and_parted(channels: int) -> None:
    # The gradient comes from a convolution of blocks of channels. A slice within a block ended the process.
    blocks = [
        {"name": "one", "kind": "transpose", "filters": channels, "kernel": 1, "stride": 1},
        {"name": "mask", "kind": "output", "kernel": 2, "skip": "one"},
    ]
    case = make_case(blocks, 24, 14, batch_norm=False)
    with BackendProcess("mxnet") as mxnet:
        received, expected = mxnet.call(run_case, case, "float32"), reference_results(case)
    for name, gradient in expected.gradients.items():
        assert difference(received.gradients[name], gradient) < 1e-4, name


def gradients_both_ways(_: Implementation) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Return pairs of gradients, ours and autograd's, of a chain of steps, a convolution and a batch norm."""
    from backends.mxnet.framework import mx
    from backends.mxnet.gradients import (
        compose,
        cropped,
        first_along,
        gradient,
        linked_graph,
        padded,
        reshaped,
        reversed_along,
        transposed,
        with_zeros,
    )

    x, gamma, beta, mean, variance, dy = map(
        mx.sym.Variable, ("x", "gamma", "beta", "mean", "variance", "dy")
    )
    kernel = mx.sym.Variable("kernel")
    steps = [
        padded((1, 2), (0, 3)),
        reversed_along(1, 3),
        transposed(2, 0, 3, 1),
        reshaped(-1, 8, 5, 3),
        with_zeros(2),
        first_along(1, 6),
        cropped((1, 0), (3, 2)),
    ]
    chain, pullback_chain = compose(x, *steps)
    conv = mx.sym.Convolution(x, kernel, kernel=(3, 3), num_filter=5, pad=(1, 1), no_bias=True)
    norm = mx.sym.BatchNorm(conv, gamma, beta, mean, variance, fix_gamma=False, output_mean_var=True)
    d_conv, d_gamma, d_beta = gradient(
        "BatchNorm", norm, dy, norm[1], norm[2], conv, gamma, beta, mean, variance
    )
    dx, d_kernel = gradient("Convolution", conv, d_conv, x, kernel)
    # A pullback is linear in the gradient that it is given: here the results themselves.
    ours = [*pullback_chain(chain), dx, d_kernel, d_gamma, d_beta]

    rng = np.random.default_rng(5)
    shapes = {"x": (4, 6, 7, 9), "kernel": (5, 6, 3, 3), "dy": (4, 5, 7, 9)}
    shapes |= dict.fromkeys(("gamma", "beta", "mean", "variance"), (5,))
    values = {name: mx.nd.array(rng.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}

    def bound(symbol: Any, grad_req: str) -> Any:
        given = {name: values[name] for name in symbol.list_arguments()}
        slots = {name: mx.nd.zeros(shapes[name]) for name in given} if grad_req == "write" else None
        states = {name: values[name].copy() for name in symbol.list_auxiliary_states()}
        return symbol.bind(mx.cpu(), given, args_grad=slots, grad_req=grad_req, aux_states=states)

    def by_autograd(symbol: Any, of: Any, names: list[str]) -> list[Any]:
        executor = bound(symbol, "write")
        (result,) = executor.forward(is_train=True)
        executor.backward(of(result))
        return [executor.grad_dict[name].asnumpy() for name in names]

    theirs = [
        *by_autograd(chain, lambda result: result, ["x"]),
        *by_autograd(norm[0], lambda _: values["dy"], ["x", "kernel", "gamma", "beta"]),
    ]
    results = [result.asnumpy() for result in bound(linked_graph(ours), "null").forward(is_train=True)]
    return list(zip(results, theirs, strict=True))


def test_gradients_in_the_graph_are_those_of_autograd() -> None:
    with BackendProcess("mxnet") as mxnet:
        pairs = mxnet.call(gradients_both_ways)
    for ours, theirs in pairs:
        assert np.ptp(theirs) > 0.1
        np.testing.assert_array_equal(ours, theirs)


def pooled_by_mxnet(
    _: Implementation, operation: MaxPool2D, x: np.ndarray[Any, Any], dy: np.ndarray[Any, Any]
) -> list[np.ndarray[Any, Any]]:
    """Return the maxima of the windows of x, (N, C, H, W), and the gradient of x for dy, theirs."""
    from backends.mxnet.framework import mx
    from backends.mxnet.gradients import linked_graph
    from backends.mxnet.layers import max_pool2d_of_cpu

    y, pullback = max_pool2d_of_cpu(operation, Tensor("x", *x.shape[2:], x.shape[1]), mx.sym.Variable("x"))
    graph = linked_graph([y, *pullback(mx.sym.Variable("dy"))])
    values = {name: mx.nd.array(array, dtype=array.dtype) for name, array in (("x", x), ("dy", dy))}
    executor = graph.bind(mx.cpu(), values, grad_req="null")
    return [result.asnumpy() for result in executor.forward(is_train=True)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [3, 16, 24])  # oneDNN's blocks have 16
@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 1), (1, 0)), ((1, 0), (0, 0)), ((2, 2), (1, 2))])
def test_the_gradient_of_a_max_pool_goes_to_the_first_of_equal_numbers(
    pads: tuple[Pads, Pads], channels: int, dtype: str
) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(-2, 1, (2, channels, 11, 14)).astype(dtype)  # zeros as pads would be the largest numbers
    padded = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=-np.inf)
    height, width = ((length - 3) // 2 + 1 for length in padded.shape[2:])
    dy = rng.normal(size=(2, channels, height, width)).astype(dtype)
    y, dx = np.empty_like(dy), np.zeros_like(padded)
    for image, channel, row, column in np.ndindex(dy.shape):
        window = np.s_[image, channel, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        y[image, channel, row, column] = padded[window].max()
        place = np.unravel_index(padded[window].argmax(), (3, 3))
        dx[window][place] += dy[image, channel, row, column]
    operation = MaxPool2D("pool", ("x",), Tensor("y", height, width, channels), (3, 3), 2, pads)
    with BackendProcess("mxnet") as mxnet:
        received = mxnet.call(pooled_by_mxnet, operation, x, dy)
    (top, _), (left, _) = pads
    np.testing.assert_array_equal(received[0], y)
    np.testing.assert_allclose(received[1], dx[:, :, top : top + 11, left : left + 14], rtol=0, atol=1e-6)


def megabytes_of_a_step(
    implementation: Implementation, plan: Plan, rules: TrainingRules, count: int
) -> float:
    """Return how much more memory two updates take, at most, than was held before."""
    model = implementation.compile(plan, rules, "cpu", "float32")
    model.load_state(initial_state(plan, rules, 1))
    images = np.random.default_rng(0).random((count, 384, 384, 1)).astype(np.float32)
    masks = (images > 0.9).astype(np.uint8)
    before = megabytes_at_most()
    for step in (1, 2):
        float(model.train_step(images, masks, step_scalars(rules, step, 1e-3)))
    return megabytes_at_most() - before


def megabytes_at_most() -> float:
    """Return the most memory that this process held so far; `getrusage` would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_a_step_takes_little_more_memory_than_its_activations() -> None:
    configuration = load_configuration(Path("fcn"), [])
    plan, count = lower(configuration.network, 384, 384), 8
    kept = [op.output for op in plan.operations if isinstance(op, Relu | BatchNorm)]  # backward needs them
    activations = count * sum(4 * x.height * x.width * x.channels for x in kept) / 2**20
    with BackendProcess("mxnet") as mxnet:
        taken = mxnet.call(megabytes_of_a_step, plan, configuration.training.rules(), count)
    assert activations < taken < 2.6 * activations  # 2.3: batch norm keeps centred copies, too
