"""Tests of PyTorch's backend alone: its batch norm refuses to train on a single pixel for each channel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selected import BACKENDS

from core.backend.contract import Precision
from core.backend.process import BackendProcess
from core.conformance.cases import (
    Case,
    all_results,
    case_of,
    make_case,
    require_agreement,
    results_by_kind,
    run_case,
)
from core.experiment.configuration import load_configuration
from core.network.summary import multiply_adds

pytestmark = pytest.mark.skipif("torch" not in BACKENDS, reason="torch is deselected by PNEUMOSEG_BACKENDS")
PRECISIONS: tuple[Precision, ...] = ("float64", "float32")


@pytest.fixture(scope="module")
def torch() -> Iterator[BackendProcess]:
    with BackendProcess("torch") as process:
        yield process


def counts(case: Case, batch: int = 0) -> dict[str, int]:
    """Return the number of pixels in a batch, of all its images, for each batch norm of a plan."""
    images = len(case.batches[batch][0])
    return {op.name: images * op.output.height * op.output.width for op in case.plan.batch_norms}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_default_network_trains_where_it_comes_down_to_one_pixel(
    torch: BackendProcess, precision: Precision
) -> None:
    configuration = load_configuration(Path("fcn"), ["training.optimizer.weight_decay=0.1"])
    case = case_of(configuration, 8, 8, batches=(1, 4, 1, 1, 3))
    assert counts(case) == {
        "conv1/batch_norm": 16,
        "conv2/batch_norm": 4,
        "conv3/batch_norm": 1,
        "bottleneck/batch_norm": 1,
        "up1/batch_norm": 4,
        "up2/batch_norm": 16,
    }
    received = torch.call(run_case, case, precision)
    require_agreement(all_results, [results_by_kind(received)], case, precision)
    # The output of a single pixel is beta alone: nothing before it learns, and its variance is 0.
    assert not received.gradients["conv3/gamma"].any()
    assert not received.gradients["bottleneck/kernel"].any()
    assert received.gradients["bottleneck/beta"].any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_running_statistics_of_one_pixel_are_that_pixel_and_a_variance_of_0(
    torch: BackendProcess, precision: Precision
) -> None:
    one = {"name": "one", "kind": "conv", "filters": 2, "kernel": 1, "stride": 1}
    mask = {"name": "mask", "kind": "output", "kernel": 1, "stride": 1}
    case = make_case([one, mask], 1, 1, batches=(1,), batch_norm_settings={"momentum": 0.75})
    case.batches[0][0][...] = 0.5
    case.state["one/kernel"][...] = np.reshape([3.0, 7.0], (1, 1, 1, 2))
    case.state["one/bias"][...] = 0.25, -0.5
    case.state["one/moving_mean"][...] = 4.0, -8.0
    case.state["one/moving_variance"][...] = 2.0, 0.125
    state = torch.call(run_case, case, precision).state
    # The pixel is (1.75, 3) after bias and ReLU; running = 0.75 * running + 0.25 * batch.
    np.testing.assert_allclose(state["one/moving_mean"], [3.4375, -5.25], rtol=1e-6)
    np.testing.assert_allclose(state["one/moving_variance"], [1.5, 0.09375], rtol=1e-6)


def narrow(height: int, width: int, batches: tuple[int, ...]) -> Case:
    blocks: list[dict[str, Any]] = [
        {"name": "down", "kind": "conv", "filters": 5, "kernel": 4, "stride": 3},
        {"name": "further", "kind": "conv", "filters": 3, "kernel": 2, "stride": 5},
        {"name": "up", "kind": "transpose", "filters": 4, "kernel": 1, "stride": 2},
        {"name": "mask", "kind": "output", "kernel": 5, "stride": 4},
    ]
    return make_case(blocks, height, width, batches=batches, dropout=0.2)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("height", "width", "batches", "least"),
    [(1, 1, (4, 1, 2, 1), 4), (1, 13, (1, 3, 1), 1), (11, 1, (1, 1, 1), 1), (7, 16, (2, 1, 1), 4)],
)
def test_narrow_images_and_last_batches_of_one(
    torch: BackendProcess, precision: Precision, height: int, width: int, batches: tuple[int, ...], least: int
) -> None:
    case = narrow(height, width, batches)
    assert min(counts(case).values()) == least
    require_agreement(all_results, torch.call(all_results, case, precision), case, precision)


def _with_channels_last(implementation: Any, case: Case, precision: Precision) -> tuple[Any, list[str]]:
    """Run a case as on a GPU, whose layout is another; return the results and the arrays that have it."""
    layout, before = implementation.torch.channels_last, implementation.memory_layout
    implementation.memory_layout = lambda _: layout
    try:
        arrays = implementation.compile(case.plan, case.rules, "cpu", precision)._arrays
        chosen = [name for name, x in arrays.items() if x.ndim == 4 and x.is_contiguous(memory_format=layout)]
        return run_case(implementation, case, precision), chosen
    finally:
        implementation.memory_layout = before


@pytest.mark.parametrize("name", ["fcn", "demo", "unet"])
def test_the_layout_of_a_gpu_gives_the_same_results(torch: BackendProcess, name: str) -> None:
    """In float64: on a CPU the kernels of this layout add pixel by pixel in float32."""
    case = case_of(load_configuration(Path(name), []), 48, 32, batches=(3, 2))
    received, chosen = torch.call(_with_channels_last, case, "float64")
    require_agreement(all_results, [results_by_kind(received)], case, "float64")
    kernels = {array.name for array in case.plan.arrays if len(array.shape) == 4}
    assert kernels <= set(chosen)


def _counted(implementation: Any, case: Case) -> int:
    """Return PyTorch's own count of the floating-point operations of a prediction."""
    from torch.utils.flop_counter import FlopCounterMode

    model = implementation.compile(case.plan, case.rules, "cpu", "float32")
    with FlopCounterMode(display=False) as counter:
        model.predict(case.batches[0][0])
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", ["fcn", "demo", "unet", "unet_resnet34", "unet_efficientnet_lite0"])
def test_multiply_adds_are_those_that_pytorch_counts(torch: BackendProcess, name: str) -> None:
    case = case_of(load_configuration(Path(name), []), 64, 96, batches=(2,))
    assert torch.call(_counted, case) == 2 * 2 * multiply_adds(case.plan)  # two operations, two images
