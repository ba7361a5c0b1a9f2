"""What only MXNet can get wrong: two ways through batch norm, and oneDNN's layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from selected import BACKENDS

from core.comparison import difference
from core.configuration import load_configuration
from core.conformance.cases import case_of, judge, make_case, run_case
from core.contract import Implementation
from core.isolation import Isolated
from core.lowering import lower
from core.plan import Plan

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
