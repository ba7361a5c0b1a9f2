"""Random numbers: fixed for ever, dependent on their key only, and distributed as documented."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.base.randomness import dropout_mask, normal, permutation, uniform, words

ROOT = Path(__file__).resolve().parents[3]


def philox4x64(key: tuple[int, int], counter: int) -> list[int]:
    """Compute ten rounds of Philox-4x64 as in Salmon et al. (2011), section 3.3, with Python's integers."""
    full = 2**64 - 1
    state, (k0, k1) = [counter, 0, 0, 0], key
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * state[0], 2**64)
        high1, low1 = divmod(0xCA5A826395121157 * state[2], 2**64)
        state = [high1 ^ state[1] ^ k0, low1, high0 ^ state[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & full, (k1 + 0xBB67AE8584CAA73B) & full
    return state


def test_words_are_philox_keyed_by_the_hash_of_the_path() -> None:
    digest = hashlib.sha256(b"7\x1fstr:weights\x1fint:3").digest()
    key = (int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little"))
    expected = [*philox4x64(key, 1), *philox4x64(key, 2)]  # NumPy counts before it draws
    assert [int(word) for word in words(7, "weights", 3, count=8)] == expected


def test_golden_numbers_stay_what_they_were() -> None:
    assert [int(word) for word in words(0, "weights", "conv1/kernel", count=2)] == [
        8537278264976772431,
        11695062744082437253,
    ]
    assert uniform(0, "weights", "conv1/kernel", shape=(2,)).tolist() == [
        0.46280678210005466,
        0.6339906217244231,
    ]
    assert permutation(3, "order", 1, count=8).tolist() == [4, 1, 0, 6, 7, 3, 5, 2]
    assert dropout_mask(3, "dropout", "a", 1, shape=(12,), rate=0.5).tolist() == [
        0,
        1,
        0,
        0,
        1,
        0,
        0,
        1,
        0,
        0,
        1,
        0,
    ]


@pytest.mark.parametrize(
    "other", [(1, "a", 2), (0, "b", 2), (0, "a", 3), (0, "a", "2"), (0, "a"), (0, "a", 2, 0)]
)
def test_another_path_is_another_stream(other: tuple[int, str]) -> None:
    assert words(0, "a", 2, count=1)[0] != words(*other, count=1)[0]


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    np.testing.assert_array_equal(words(0, "x", count=5), words(0, "x", count=1001)[:5])


def test_uniform_numbers_are_uniform() -> None:
    drawn = uniform(1, "test", shape=(200, 500))
    assert drawn.shape == (200, 500)
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts, _ = np.histogram(drawn, bins=50, range=(0, 1))
    chi_squared = float(((counts - 2000) ** 2 / 2000).sum())
    assert chi_squared < 85.4  # 49 degrees of freedom, 0.999 quantile


def test_a_permutation_holds_each_number_once_and_differs_by_epoch() -> None:
    first, second = permutation(1, "order", 1, count=1000), permutation(1, "order", 2, count=1000)
    assert sorted(first) == list(range(1000))
    assert (first == second).sum() < 20
    assert (first == np.arange(1000)).sum() < 20
    assert permutation(1, "order", 1, count=0).shape == (0,)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_a_mask_drops_the_asked_share(rate: float) -> None:
    kept = dropout_mask(1, "dropout", rate.hex(), shape=(3, 101, 97, 5), rate=rate)
    assert kept.dtype == np.uint8
    assert set(np.unique(kept)) <= {0, 1}
    deviation = (rate * (1 - rate) / kept.size) ** 0.5
    assert kept.mean() == pytest.approx(1 - rate, abs=4 * deviation + 2**-16)


def test_numbers_are_the_same_in_another_process() -> None:
    code = "from core.base.randomness import words; print(*words(5, 'here', 1, count=3))"
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout.split() == [str(word) for word in words(5, "here", 1, count=3)]


def test_normal_numbers_are_the_quantiles_of_uniform_ones() -> None:
    drawn = normal(3, "noise", shape=(40, 50))
    assert (drawn.dtype, drawn.shape) == (np.float32, (40, 50))
    bits = words(3, "noise", count=500).view("<u2").reshape(40, 50)
    for bit, number in zip(bits[::8, 7].tolist(), drawn[::8, 7].tolist(), strict=True):
        below = (1 + math.erf(number / math.sqrt(2))) / 2
        assert below == pytest.approx((bit + 0.5) / 65536, abs=1e-7)
    everything = np.sort(normal(4, "noise", shape=(200_000,)).astype(np.float64))
    assert abs(everything.mean()) < 4 / math.sqrt(200_000)
    assert everything.std() == pytest.approx(1, abs=0.01)
    assert (everything**4).mean() == pytest.approx(3, abs=0.1)
    assert abs(everything).max() < 4.5


def test_normal_numbers_are_the_same_on_every_machine() -> None:
    # Hash all 65536 of them, to notice a mathematical library that rounds one of them differently.
    table = np.unique(normal(0, shape=(3_000_000,)))
    assert len(table) == 65536
    assert hashlib.sha256(table.astype("<f4").tobytes()).hexdigest() == (
        "1cfbba1e07e34386a57626f82aeb43e6ed54ba70a3ea6b7d964dc66a841074a8"
    )
