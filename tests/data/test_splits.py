"""The division into training and validation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.splits import stratified_split


@given(st.lists(st.booleans(), max_size=40), st.floats(0, 0.99, exclude_max=True), st.integers(0, 5))
def test_every_image_once_and_both_classes_where_possible(
    labels: list[bool], fraction: float, seed: int
) -> None:
    positive = np.array(labels, dtype=bool)
    split = stratified_split(positive, fraction, seed)
    assert sorted([*split.training, *split.validation]) == list(range(len(labels)))
    for part in split:
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    if labels:
        assert len(split.training)
    for label in (True, False):
        members = int((positive == label).sum())
        held_out = int((positive[split.validation] == label).sum())
        if fraction == 0 or members < 2:
            assert held_out == 0
        else:
            assert abs(held_out - fraction * members) <= 1
            assert 1 <= held_out < members


def test_the_seed_decides() -> None:
    positive = np.arange(100) % 5 == 0
    first, again, other = (stratified_split(positive, 0.2, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.validation, again.validation)
    assert first.validation.tolist() != other.validation.tolist()
    assert len(first.validation) == 20
    assert positive[first.validation].sum() == 4


@pytest.mark.parametrize("fraction", [-0.1, 1, 2, float("nan")])
def test_a_bad_fraction_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(np.zeros(3, bool), fraction, 0)
