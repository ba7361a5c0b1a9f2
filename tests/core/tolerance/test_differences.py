"""The relative distance of two results, on worked examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from core.tolerance.differences import difference, differences

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("received", "expected", "apart"),
    [
        ([3.0, 5.0], [3.0, 1.0], 4 / math.sqrt(10)),
        ([3.0, 1.0], [3.0, 5.0], 4 / math.sqrt(34)),
        ([[1.0, 2.0], [2.0, 4.0]], [[1.0, 2.0], [2.0, 0.0]], 4 / 3),
        (2.5, 2.0, 0.25),
        (-2.0, 2.0, 2.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0], [1.0, 1.0], INF),
        ([1.0, 1.0], [1.0], INF),
        ([[1.0, 1.0]], [1.0, 1.0], INF),
        ([1.0, 1.0], [[1.0], [1.0]], INF),
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([1.0, 1.0], [1.0, NAN], INF),
        ([NAN], [NAN], INF),
        ([INF], [INF], INF),
        ([INF], [1.0], INF),
    ],
)
def test_the_norm_of_the_difference_over_the_norm_of_what_is_expected(
    received: Any, expected: Any, apart: float
) -> None:
    with np.errstate(invalid="ignore"):  # inf - inf
        found = difference(np.array(received, np.float32), np.array(expected, np.float32))
    assert found == pytest.approx(apart, rel=1e-12)


def test_of_what_is_expected_to_be_nothing_only_the_scale_tells() -> None:
    nearly, nothing = np.array([3e-8, -4e-8]), np.zeros(2)
    assert difference(nearly, nothing) > 1e200
    assert difference(nearly, nothing, scale=0.5) == pytest.approx(1e-7)
    assert difference(nearly, np.array([0.0, 2.0]), scale=0.5) == pytest.approx(1.0, rel=1e-6)


def test_each_array_has_its_difference() -> None:
    expected = {"a": np.array([3.0, 4.0]), "b": np.array([0.0]), "only expected": np.array([1.0])}
    received = {"only received": np.array([1.0]), "b": np.array([0.2]), "a": np.array([3.0, 4.5])}
    plain = differences(received, expected)
    assert list(plain) == ["a", "b", "only expected", "only received"]
    assert plain["a"] == pytest.approx(0.1)
    assert plain["b"] > 1e200, "nothing was expected"
    assert plain["only expected"] == plain["only received"] == INF
    # A tenth of the largest norm, which is 5, is the least that is divided by.
    shared = differences(received, expected, share=0.1)
    assert (shared["a"], shared["b"]) == (pytest.approx(0.1), pytest.approx(0.4))
    assert differences({}, {}, share=0.1) == {}
    assert differences({"a": np.ones(2)}, {}, share=0.1) == {"a": INF}
