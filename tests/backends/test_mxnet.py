"""What only MXNet can get wrong: three ways through batch norm, gradients in the graph, oneDNN's layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selected import BACKENDS

from core.comparison import difference
from core.configuration import load_configuration
from core.conformance.cases import case_of, judge, make_case, run_case
from core.contract import Implementation
from core.isolation import Isolated
from core.lowering import lower
from core.plan import BatchNorm, Plan, Relu
from core.rules import Rules, step_scalars
from core.state import initial_state

pytestmark = pytest.mark.skipif("mxnet" not in BACKENDS, reason="mxnet is deselected by PNEUMOSEG_BACKENDS")


def exactly(_: Implementation, plan: Plan, count: int) -> dict[str, str]:
    from backends.mxnet.operations import exact_sums

    return dict(exact_sums(plan, count))


def test_the_quick_way_agrees_with_the_reference_and_the_others_take_the_long_one() -> None:
    configuration = load_configuration(Path("fcn"), [])
    plan = lower(configuration.network, 384, 384)
    case = case_of(configuration, 288, 224)
    count = len(case.batches[0][0])
    rng = np.random.default_rng(3)
    for images, masks in case.batches:  # like radiographs: smooth, and bright here and there
        rows, columns = np.ogrid[: images.shape[1], : images.shape[2]]
        images[...] = (0.5 + 0.3 * np.sin(rows / 31) * np.cos(columns / 17))[None, ..., None]
        images += 0.1 * rng.random(images.shape)
        masks[...] = images > 0.6
    with Isolated("mxnet") as mxnet:
        large = dict.fromkeys(("conv1/batch_norm", "up2/batch_norm"), "products")
        assert mxnet.call(exactly, plan, 8) == large
        small = {f"{name}/batch_norm": "float64" for name in ("conv2", "conv3", "bottleneck", "up1")}
        assert mxnet.call(exactly, plan, 1) == small
        quick = {op.name for op in case.plan.batch_norms} - mxnet.call(exactly, case.plan, count).keys()
        assert len(quick) >= 2
        received, expected = mxnet.call(run_case, case, "float32"), judge(case)
    # Gradients that nearly cancel: every framework is up to 4e-3 off here, MXNet's long way too.
    for name, gradient in expected.gradients.items():
        assert difference(received.gradients[name], gradient) < 1e-2, name
    for name, array in expected.state.items():
        if "moving" in name:
            assert difference(received.state[name], array) < 1e-6, name


@pytest.mark.parametrize("channels", [3, 4, 8, 16])
def test_channels_that_are_no_whole_blocks_are_joined_and_parted(channels: int) -> None:
    # The gradient comes from a convolution of blocks; parting it within one ended the process.
    blocks = [
        {"name": "one", "kind": "transpose", "filters": channels, "kernel": 1, "stride": 1},
        {"name": "mask", "kind": "output", "kernel": 2, "skip": "one"},
    ]
    case = make_case(blocks, 24, 14, batch_norm=False)
    with Isolated("mxnet") as mxnet:
        received, expected = mxnet.call(run_case, case, "float32"), judge(case)
    for name, gradient in expected.gradients.items():
        assert difference(received.gradients[name], gradient) < 1e-4, name


def gradients_both_ways(_: Implementation) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """The gradients of a chain of all steps, then of a convolution and a batch norm: ours and autograd's."""
    from backends.mxnet.framework import mx
    from backends.mxnet.gradients import (
        complete,
        first_along,
        gradient,
        padded,
        reshaped,
        reversed_along,
        through,
        tiled,
        transposed,
        window,
        with_zeros,
    )

    x, b, gamma, beta, mean, variance, dy, db = map(
        mx.sym.Variable, ("x", "b", "gamma", "beta", "mean", "variance", "dy", "db")
    )
    kernel = mx.sym.Variable("kernel")
    steps = [
        padded((1, 2), (0, 3)),
        reversed_along(1, 3),
        transposed(2, 0, 3, 1),
        reshaped(-1, 8, 5, 3),
        with_zeros(2),
        first_along(1, 6),
        window((1, 0), (3, 2)),
    ]
    chain, pullback_chain = through(x, *steps)
    tiles, pullback_tiles = through(b, tiled(3), with_zeros(0))
    conv = mx.sym.Convolution(x, kernel, kernel=(3, 3), num_filter=5, pad=(1, 1), no_bias=True)
    norm = mx.sym.BatchNorm(conv, gamma, beta, mean, variance, fix_gamma=False, output_mean_var=True)
    d_conv, d_gamma, d_beta = gradient(
        "BatchNorm", norm, dy, norm[1], norm[2], conv, gamma, beta, mean, variance
    )
    dx, d_kernel = gradient("Convolution", conv, d_conv, x, kernel)
    # What comes back depends linearly on what is given: here on the results themselves.
    ours = [*pullback_chain(chain), *pullback_tiles(tiles * db), dx, d_kernel, d_gamma, d_beta]

    rng = np.random.default_rng(5)
    shapes = {"x": (4, 6, 7, 9), "kernel": (5, 6, 3, 3), "dy": (4, 5, 7, 9), "b": (4,), "db": (12,)}
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
        *by_autograd(tiles, lambda result: result * values["db"], ["b"]),
        *by_autograd(norm[0], lambda _: values["dy"], ["x", "kernel", "gamma", "beta"]),
    ]
    results = [result.asnumpy() for result in bound(complete(ours), "null").forward(is_train=True)]
    return list(zip(results, theirs, strict=True))


def test_gradients_in_the_graph_are_those_of_autograd() -> None:
    with Isolated("mxnet") as mxnet:
        pairs = mxnet.call(gradients_both_ways)
    for ours, theirs in pairs:
        assert np.ptp(theirs) > 0.1
        np.testing.assert_array_equal(ours, theirs)


def megabytes_of_a_step(implementation: Implementation, plan: Plan, rules: Rules, count: int) -> float:
    """What two updates take of memory beyond what was held before."""
    model = implementation.compile(plan, rules, "cpu", "float32")
    model.load_state(initial_state(plan, rules, 1))
    images = np.random.default_rng(0).random((count, 384, 384, 1)).astype(np.float32)
    masks = (images > 0.9).astype(np.uint8)
    before = megabytes_at_most()
    for step in (1, 2):
        float(model.train_step(images, masks, step_scalars(rules.optimizer, step, 1e-3)))
    return megabytes_at_most() - before


def megabytes_at_most() -> float:
    """The most that this process held so far; `getrusage` would count what its parent held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_a_step_takes_little_more_memory_than_its_activations() -> None:
    configuration = load_configuration(Path("fcn"), [])
    plan, count = lower(configuration.network, 384, 384), 8
    kept = [op.output for op in plan.operations if isinstance(op, Relu | BatchNorm)]  # backward needs them
    activations = count * sum(4 * x.height * x.width * x.channels for x in kept) / 2**20
    with Isolated("mxnet") as mxnet:
        taken = mxnet.call(megabytes_of_a_step, plan, configuration.training.rules(), count)
    assert activations < taken < 2.2 * activations  # 1.7; 3.3 by autograd with batch norm in float64
