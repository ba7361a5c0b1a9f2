"""The share of positives in each batch, and the order of both classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.randomness import permutation
from data.batches.sampling import SamplingSchedule, check_classes, sampled, shuffled

POSITIVE = np.arange(23) % 4 == 1  # 6 of 23


def epoch(share: float, number: int = 1, size: int = 5, seed: int = 3) -> NDArray[np.int64]:
    return sampled(POSITIVE, size, SamplingSchedule(share, share, 1), seed, number)


def test_plain_shuffling_is_what_it_always_was() -> None:
    np.testing.assert_array_equal(shuffled(9, 4, 2), permutation(4, "order", 2, count=9))
    assert shuffled(8, 1, 0).tolist() == [3, 1, 4, 0, 6, 7, 2, 5]


def test_a_share_by_hand() -> None:
    # 0.3 of 5 is 1.5: two, one, two, one, and of the last three 6.9 - 6, which is one.
    counts = [int(POSITIVE[batch].sum()) for batch in np.split(epoch(0.3), [5, 10, 15, 20])]
    assert counts == [2, 1, 2, 1, 1]


SHARES = st.one_of(st.sampled_from([0.0, 0.22, 0.5, 0.8, 1.0]), st.floats(0, 1))
LABELS = st.lists(st.booleans(), min_size=2, max_size=50).filter(lambda labels: 0 < sum(labels) < len(labels))


@given(LABELS, SHARES, SHARES, st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
def test_every_beginning_of_an_epoch_has_its_share(
    labels: list[bool], first: float, final: float, over: int, size: int, seed: int
) -> None:
    positive, sampling = np.array(labels), SamplingSchedule(first, final, over)
    for number in (1, 2, over, over + 3):
        order = sampled(positive, size, sampling, seed, number)
        assert order.dtype == np.int64
        assert len(order) == len(positive)
        share = sampling.share(number)
        for end in [*range(size, len(order), size), len(order)]:
            assert int(positive[order[:end]].sum()) == math.floor(share * end + 0.5)


@given(LABELS, SHARES, SHARES, st.integers(1, 6), st.integers(1, 9), st.integers(0, 3))
def test_no_image_comes_twice_before_all_of_its_class_came(
    labels: list[bool], first: float, final: float, over: int, size: int, seed: int
) -> None:
    positive, sampling = np.array(labels), SamplingSchedule(first, final, over)
    orders = np.concatenate([sampled(positive, size, sampling, seed, number) for number in range(1, 9)])
    for label in (True, False):
        dealt = orders[positive[orders] == label]
        members = int((positive == label).sum())
        for begin in range(0, len(dealt), members):
            pack = dealt[begin : begin + members].tolist()
            assert len(set(pack)) == len(pack)


def test_the_share_falls_by_equal_steps() -> None:
    sampling = SamplingSchedule(0.8, 0.2, 5)
    expected = [0.8, 0.65, 0.5, 0.35, 0.2, 0.2, 0.2]
    assert [sampling.share(number) for number in range(1, 8)] == pytest.approx(expected)
    assert sampling.share(0) == 0.8
    short = SamplingSchedule(0.8, 0.2, 1)
    assert [short.share(number) for number in (1, 2, 3)] == pytest.approx([0.8, 0.2, 0.2])
    assert [SamplingSchedule(0.4, 0.4, 9).share(number) for number in (1, 5, 99)] == [0.4] * 3


def test_seed_and_epoch_decide() -> None:
    np.testing.assert_array_equal(epoch(0.5, 2), epoch(0.5, 2))
    assert len({tuple(epoch(0.5, number, seed=seed)) for number in (1, 2, 3) for seed in (1, 2)}) == 6


def test_both_classes_are_mixed_within_a_batch() -> None:
    first = [bool(POSITIVE[epoch(0.4, number)[0]]) for number in range(1, 201)]
    assert 0.25 < np.mean(first) < 0.55


@pytest.mark.parametrize(
    ("labels", "shares", "missing"),
    [
        ([False] * 4, (0.8, 0.2), "none of the 4 training images is positive"),
        ([True] * 3, (0.8, 1.0), "none of the 3 training images is negative"),
        ([False] * 4, (0.0, 0.2), "is positive"),
    ],
)
def test_a_class_without_images_is_named(
    labels: list[bool], shares: tuple[float, float], missing: str
) -> None:
    with pytest.raises(UserError, match=r"training\.sampling asks for .* positives") as caught:
        check_classes(np.array(labels), SamplingSchedule(*shares, over_epochs=3))
    assert missing in str(caught.value)


def test_a_class_that_is_not_asked_for_may_be_empty() -> None:
    check_classes(np.array([True, True]), SamplingSchedule(1.0, 1.0, 1))
    check_classes(np.array([False, False]), SamplingSchedule(0.0, 0.0, 1))
    assert sorted(sampled(np.ones(4, bool), 3, SamplingSchedule(1.0, 1.0, 1), 0, 1)) == [0, 1, 2, 3]
