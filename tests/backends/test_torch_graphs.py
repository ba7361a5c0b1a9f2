"""Steps from recorded functions are the steps that PyTorch computes eagerly, bit for bit.

No GPU is needed: in place of a CUDA graph, the record here computes the function again and fills its arrays.
What is tested is all around it: arguments that stay in their place, batches of another size, results that are
overwritten, and the arrays that an update changes between two calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from selected import BACKENDS

from core.backend.contract import Implementation, Precision, State
from core.backend.process import BackendProcess
from core.conformance.cases import Case, in_precision, make_case

pytestmark = pytest.mark.skipif("torch" not in BACKENDS, reason="torch is deselected by PNEUMOSEG_BACKENDS")

BATCHES = (4, 4, 4, 2, 4, 4, 2)
BLOCKS: list[dict[str, Any]] = [
    {"name": "down", "kind": "conv", "filters": 5},
    {"name": "middle", "kind": "pointwise"},
    {"name": "mask", "kind": "output"},
]


@pytest.fixture(scope="module")
def torch() -> Iterator[BackendProcess]:
    with BackendProcess("torch") as process:
        yield process


def trained(
    implementation: Implementation, case: Case, precision: Precision, drawn: bool, recorded: bool
) -> tuple[list[float], State, list[int]]:
    """Train, and read each loss after the next step has begun; return losses, state and replayed batches."""
    from backends.torch.graphs import Graphed

    model: Any = implementation.compile(case.plan, case.rules, "cpu", precision)
    model.load_state(case.state)
    replayed: list[int] = []

    def record(function: Any) -> Any:
        outputs = tuple(one.clone() for one in function())

        def replay() -> None:
            replayed.append(len(losses))
            for held, one in zip(outputs, function(), strict=True):
                held.copy_(one)

        return replay, outputs

    losses: list[Any] = []
    if recorded:
        model._derive = Graphed(model._derivatives, record)
    for step, (images, masks) in enumerate(case.batches, start=1):
        bytes_ = np.rint(images * 255).astype(np.uint8)
        keep = None if drawn else case.keep(step, len(images))
        losses.append(model.train_step(bytes_, masks, case.scalars(step), keep))
    return [float(loss) for loss in losses], model.state(), replayed


@pytest.mark.parametrize("drawn", [False, True], ids=["masks given", "masks drawn"])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_recorded_steps_are_eager_steps(torch: BackendProcess, precision: Precision, drawn: bool) -> None:
    case = in_precision(make_case(BLOCKS, 12, 20, batches=BATCHES, dropout=0.3), precision)
    losses, state, none = torch.call(trained, case, precision, drawn, False)
    found, of_graphs, replayed = torch.call(trained, case, precision, drawn, True)
    assert none == []
    assert replayed == [1, 2, 4, 5]  # not the first batch, and not those of two images
    assert len(set(losses)) == len(BATCHES)
    assert found == losses
    assert of_graphs.keys() == state.keys()
    for name, array in state.items():
        assert of_graphs[name].tobytes() == array.tobytes(), name
