"""The run-length encoding of masks in the SIIM-ACR competition.

`decode` and `encode` are exact inverses for every mask of every shape, including a run that reaches the last
pixel and a mask of all ones. A text that does not describe a mask of the given size raises `RleError`;
nothing is clipped, repaired or guessed. `runs` decodes a text without the image's size. `union` joins runs,
`area` and `overlap` count their pixels, and `draw` draws them.

The format: pixel (x, y) has index x * height + y (column by column, from 0). The text alternates a gap and a
length: the number of clear pixels between the end of the previous run and this one, then the number of set
pixels. `-1` is the empty mask. Whole numbers may be written as pandas writes floats (`-1.0`, `12.0`, `1e3`);
they are converted exactly. Width 3, height 4, pixels (x, y) = (0,1), (0,2), (2,0):

    indices 1, 2 and 8   ->   "1 2 5 1"

Source: the competition's data page and its `mask_functions.py`. The encoder there loses a run that ends at
the last pixel, and the decoder returns the transpose; this module does neither.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from core.base.transposing import transposed
from data.annotations.image_ids import QUOTES

EMPTY = "-1"
"""The text of a mask without any pixel set."""

LARGEST = 65535 * 65535
"""Pixels of the largest image in DICOM: Rows and Columns are of VR US, 16 bits (PS3.3 C.7.6.3.1)."""

_NOT_A_NUMBER = re.compile(r"[^0-9\s]|[^\x00-\x7f]")
_DECIMAL = re.compile(r"([+-]?)([0-9]+)?(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]+))?", re.ASCII)
_NO_NUMBER = re.compile(
    r"[+-]?(nan|inf|infinity)|<NA>|NA|NaT|None|null", re.IGNORECASE
)  # as pandas writes it
_WORD = re.compile(r"\S+")
_LONGEST_SHOWN = 40
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe58\ufe63\uff0d"
_DASHED = re.compile(rf"[{_DASHES}]\s*[0-9]", re.ASCII)
_WITH_COMMA = re.compile(r"[+-]?[0-9.]+(,[0-9.]*)+", re.ASCII)
_MOST_DIGITS = 100  # `int` itself refuses more than 4,300, with a message of its own


class RleError(ValueError):
    """A text is not a run-length encoding of a mask of the given size."""


def encode(mask: NDArray[np.generic]) -> str:
    """Encode a mask as text.

    Args:
        mask: (height, width), any type of number; pixels that are not zero are set.

    Returns:
        Gaps and lengths separated by single spaces, or `-1` when nothing is set.

    Raises:
        ValueError: The array does not have two dimensions.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions (height, width). Received: shape {mask.shape}")
    if mask.size == 0:
        return EMPTY
    flat = np.zeros(mask.size + 2, dtype=np.uint8)
    flat[1:-1] = transposed((mask != 0).view(np.uint8)).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1])  # start, end, start, end, ...
    if edges.size == 0:
        return EMPTY
    return " ".join(map(str, np.diff(edges, prepend=0).tolist()))


def is_empty(text: str) -> bool:
    """Whether a text is the empty mask: `-1`, also as `-1.0` or `-1e0`, with or without spaces around it."""
    text = text.strip()
    if text == EMPTY or not text.startswith("-"):
        return text == EMPTY
    try:
        return _whole(text) == -1
    except RleError:
        return False


def explain_odd_characters(text: str) -> str:
    """Name, in one clause, characters that an editor or a spreadsheet put into a cell; "" without any.

    These are dashes for a minus, and quotes that are not `"`.
    """
    if dash := _DASHED.match(text):
        return f"{dash[0][0]!r} is no ASCII minus: write -1"
    if text[:1] in QUOTES and text[-1:] in QUOTES and len(text) > 1:
        return f'these quotes, {text[0]} and {text[-1]}, are not ": remove them'
    return ""


def is_plain(text: str) -> bool:
    """Whether a text is written as in the competition: digits alone, or `-1`."""
    return text.strip() == EMPTY or _NOT_A_NUMBER.search(text) is None


def count_empty_runs(text: str) -> int:
    """Count the runs of length 0 in a text.

    Raises:
        RleError: The text is not valid for `runs`.
    """
    if is_empty(text):
        return 0
    counts = _numbers(text, LARGEST, f"at most {LARGEST} pixels")
    return int(np.count_nonzero(counts[1::2] == 0))


def decode(text: str, height: int, width: int) -> NDArray[np.uint8]:
    """Decode a text to a mask.

    Args:
        text: Gaps and lengths, or `-1`; spaces around and between do not matter.
        height: Rows of the mask, in pixels.
        width: Columns of the mask, in pixels.

    Returns:
        (height, width) uint8, 1 where set, in C order.

    Raises:
        RleError: The text has other things than whole numbers, an odd count of them, or runs beyond the last
            pixel.
    """
    size = height * width
    if is_empty(text):
        return np.zeros((height, width), dtype=np.uint8)
    counts = _numbers(text, size, f"{width}x{height} pixels")
    total = int(counts.sum())
    if total > size:
        raise RleError(f"its runs end at pixel {total}, but the image has {width}x{height} = {size}")
    return _drawn(np.append(counts, size - total), height, width)


def draw(runs: NDArray[np.int64], height: int, width: int) -> NDArray[np.uint8]:
    """Draw runs as a mask.

    Args:
        runs: (k, 2) as `runs` and `union` return them: ascending, apart or touching.
        height: Rows of the mask, in pixels.
        width: Columns of the mask, in pixels.

    Returns:
        (height, width) uint8, 1 where set, in C order.

    Raises:
        RleError: The runs are not ascending, overlap, or end beyond the last pixel.
    """
    counts = np.diff(runs.ravel(), prepend=0, append=height * width)
    if counts.min() < 0:
        raise RleError(f"its runs are not ascending within {width}x{height} pixels")
    return _drawn(counts, height, width)


def _drawn(counts: NDArray[np.int64], height: int, width: int) -> NDArray[np.uint8]:
    """Draw a mask from gap, length, ..., gap: `repeat` does what the format defines."""
    flat = np.repeat(np.arange(counts.size, dtype=np.uint8) & 1, counts)
    return transposed(flat.reshape(width, height))


def runs(text: str) -> NDArray[np.int64]:
    """Decode a text to its runs, in ascending order and apart from one another.

    Args:
        text: Gaps and lengths, or `-1`; spaces around and between do not matter.

    Returns:
        (k, 2) indices of each run's first pixel and of the first pixel after it. Runs of length 0 are left
        out. The position of a pixel depends on the image's height, too.

    Raises:
        RleError: The text has other things than whole numbers, an odd count of them, or runs beyond any image
            (`LARGEST`).
    """
    if is_empty(text):
        return np.empty((0, 2), dtype=np.int64)
    ends = np.cumsum(_numbers(text, LARGEST, f"at most {LARGEST} pixels")).reshape(-1, 2)
    if ends[-1, 1] > LARGEST:
        raise RleError(f"its runs end at pixel {ends[-1, 1]}, but an image has at most {LARGEST}")
    found: NDArray[np.int64] = ends[ends[:, 0] < ends[:, 1]]
    return found


def union(*several: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join sets of runs: the pixels that are in any of them.

    Args:
        several: Each (k, 2) as `runs` returns them, in any order.

    Returns:
        (k, 2) ascending, with a gap between each run and the next: equal sets of pixels give equal arrays.
    """
    some = [runs for runs in several if len(runs)]
    if not some:  # most images of a data set
        return np.empty((0, 2), dtype=np.int64)
    found = np.concatenate(some)
    found = found[np.argsort(found[:, 0], kind="stable")]
    reach = np.maximum.accumulate(found[:, 1])
    apart = np.flatnonzero(found[1:, 0] > reach[:-1])
    firsts, lasts = found[:, 0][np.append(0, apart + 1)], reach[np.append(apart, len(found) - 1)]
    return np.stack([firsts, lasts], axis=1)


def area(runs: NDArray[np.int64]) -> int:
    """Return the number of pixels in the runs of a mask."""
    return int((runs[:, 1] - runs[:, 0]).sum())


def overlap(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """Return the number of pixels that two masks share.

    Args:
        one: (k, 2) runs, ascending and apart from one another (`runs`, `union`).
        other: (k, 2) runs of a mask of the same height.
    """
    if not len(one) or not len(other):
        return 0
    return int((_before(one, other[:, 1]) - _before(one, other[:, 0])).sum())


def _before(runs: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for each of some indices, the number of pixels of the runs below it."""
    lengths = runs[:, 1] - runs[:, 0]
    whole = np.append(0, np.cumsum(lengths))
    begun = np.searchsorted(runs[:, 0], indices)  # the last of them may not have ended
    last = np.maximum(begun - 1, 0)
    beyond = np.where(begun > 0, np.maximum(runs[last, 1] - indices, 0), 0)
    counted: NDArray[np.int64] = whole[begun] - beyond
    return counted


def _numbers(text: str, size: int, image: str) -> NDArray[np.int64]:
    """Parse a text to an even count of integers from 0 to `size`."""
    words = text.split() if _NOT_A_NUMBER.search(text) is None else _whole_words(text)
    if not words:
        raise RleError("it is empty; an image without pneumothorax is written -1")
    if len(words) % 2:
        raise RleError(f"it has {len(words)} numbers, but gaps and lengths come in pairs")
    longest = max(map(len, words))
    if longest > _MOST_DIGITS:
        raise RleError(f"it contains a number of {longest} digits")
    numbers = [int(word) for word in words]
    if max(numbers) > size:  # checked before the sum, which could otherwise overflow
        raise RleError(f"it contains {max(numbers)}, but the image has only {image}")
    return np.array(numbers, dtype=np.int64)


def _whole_words(text: str) -> list[str]:
    """Return the numbers of a text, in any notation, as words of digits alone.

    Raises:
        RleError: A word is not a whole number from 0 on; says why.
    """
    if why := explain_odd_characters(text.strip()):
        raise RleError(why)
    found = []
    for match in _WORD.finditer(text):
        word, shown = match[0], match[0][:_LONGEST_SHOWN]
        number = _whole(word)
        if number is None:
            if _DECIMAL.fullmatch(word) or _NO_NUMBER.fullmatch(word):
                raise RleError(f"{shown} is not a whole number")
            why = ": no comma may be in or between numbers" if _WITH_COMMA.fullmatch(word) else ""
            raise RleError(f"{_shown(text, match.start())} is not a list of whole numbers from 0 on{why}")
        if number < 0:
            why = f"with {shown} a run would overlap the one before it"
            raise RleError(f"{_shown(text, match.start())} is not a list of whole numbers from 0 on: {why}")
        found.append(str(number))
    return found


def _whole(word: str) -> int | None:
    """Parse a word in decimal notation exactly; return None if it is not a whole number.

    Raises:
        RleError: The number has more than `_MOST_DIGITS` digits.
    """
    match = _DECIMAL.fullmatch(word)
    if match is None or (match[2] is None and not match[3]):
        return None
    sign, whole, fraction, exponent = match[1], match[2] or "", match[3] or "", match[4] or "0"
    digits = f"{whole}{fraction}".lstrip("0")
    if not digits:
        return 0
    significant = digits.rstrip("0")
    if len(exponent) > _MOST_DIGITS:
        raise RleError(f"it contains a number with an exponent of {len(exponent)} digits")
    zeros = int(exponent) - len(fraction) + len(digits) - len(significant)
    if zeros < 0:
        return None
    if len(significant) + zeros > _MOST_DIGITS:
        raise RleError(f"it contains a number of {len(significant) + zeros} digits")
    return int(f"{sign}{significant}{'0' * zeros}")


def _shown(text: str, position: int) -> str:
    """Return the part of a long text around `position`, quoted."""
    start = max(0, position - _LONGEST_SHOWN // 2)
    part = text[start : start + _LONGEST_SHOWN]
    return f"{'…' if start else ''}{part!r}{'…' if start + len(part) < len(text) else ''}"
