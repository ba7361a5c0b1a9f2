"""Random numbers that depend only on their key.

The same key gives the same numbers, bit for bit, on every machine, in every process, in any order of calls
and with any release of NumPy. The key is a seed and a path of names and integers (`("weights",
"conv1/kernel")`, `("order", epoch)`), so that drawing from one more stream changes no other.

The generator is Philox-4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11), which
is counter-based. Its key is the SHA-256 of seed and path. Only its raw 64-bit words are used, because NumPy
guarantees those for ever, unlike the streams of `Generator`'s methods (NEP 19).
"""

from __future__ import annotations

import functools
import hashlib
import statistics

import numpy as np
from numpy.typing import NDArray

_WORDS_OF_COUNTER = 4
"""Words that Philox-4x64 makes of each value of its counter."""


def words(seed: int, *path: str | int, count: int, start: int = 0) -> NDArray[np.uint64]:
    """Return `count` uniform 64-bit words of the stream named by `seed` and `path`, from word `start` on."""
    text = "\x1f".join([str(int(seed)), *(f"{type(part).__name__}:{part}" for part in path)])
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    generator = np.random.Philox(key=key)
    skipped, extra = divmod(start, _WORDS_OF_COUNTER)
    generator.advance(skipped)
    return np.asarray(generator.random_raw(extra + count)[extra:], dtype=np.uint64)


def uniform(seed: int, *path: str | int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1), multiples of 2**-53, as a float64 array of `shape`."""
    count = int(np.prod(shape, dtype=np.int64))
    drawn: NDArray[np.uint64] = words(seed, *path, count=count) >> np.uint64(11)
    return (drawn.astype(np.float64) * 2.0**-53).reshape(shape)


def normal(seed: int, *path: str | int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return standard normal numbers as a float32 array of `shape`.

    Sixteen random bits choose one of 65536 quantiles, so the largest number is 4.33. This is much faster than
    computing logarithms and sines.
    """
    return np.asarray(_quantiles()[_sixteen_bits(seed, *path, shape=shape)])


def permutation(seed: int, *path: str | int, count: int) -> NDArray[np.int64]:
    """Return the integers 0 … count-1 in a uniformly random order."""
    drawn = words(seed, *path, count=count)
    return np.argsort(drawn, kind="stable").astype(np.int64)


def dropout_mask(
    seed: int, *path: str | int, shape: tuple[int, ...], rate: float, start: int = 0
) -> NDArray[np.uint8]:
    """Return a dropout mask: 1 with probability 1 - `rate`, else 0.

    Sixteen random bits decide each element, so `rate` is exact to 2**-16. With `start` these are the rows of
    a larger mask from that row on.
    """
    return (_sixteen_bits(seed, *path, shape=shape, start=start) >= round(rate * 65536)).astype(np.uint8)


def _sixteen_bits(seed: int, *path: str | int, shape: tuple[int, ...], start: int = 0) -> NDArray[np.uint16]:
    """Return uniform integers from 0 to 65535, from row `start` on; a word gives four, the lowest first."""
    count, skipped = (int(np.prod(shape[1:], dtype=np.int64)) * rows for rows in (shape[0], start))
    word, extra = divmod(skipped, 4)
    drawn = words(seed, *path, count=-(-(extra + count) // 4), start=word).astype("<u8", copy=False)
    return drawn.view("<u2")[extra : extra + count].reshape(shape)


@functools.cache
def _quantiles() -> NDArray[np.float32]:
    """Return the quantiles of the standard normal distribution at (n + 1/2) / 65536."""
    inverse = statistics.NormalDist().inv_cdf
    return np.array([inverse((n + 0.5) / 65536) for n in range(65536)], dtype=np.float32)
