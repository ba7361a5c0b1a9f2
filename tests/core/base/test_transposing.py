"""The transpose of arrays with fewer and with more rows than are copied together, element by element."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.base.transposing import transposed


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 5), (31, 7), (32, 3), (33, 70), (65, 2), (0, 4), (4, 0)])
def test_every_element_changes_its_place(shape: tuple[int, int], kind: type[np.number[Any]]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape).astype(kind)
    found = transposed(array[:, ::-1])
    assert (found.shape, found.dtype, found.flags.c_contiguous) == (shape[::-1], kind, True)
    assert found.tolist() == [list(column) for column in zip(*array[:, ::-1].tolist(), strict=True)] or (
        0 in shape
    )
