"""Frames of RLE, the run-length encoding of DICOM (PS3.5 annex G).

Promises: `decoded` gives every pixel, or refuses a frame that does not give exactly the pixels that the
header describes. A library would not tell: one that is too long is a picture of another size, and looks
like one that is sheared. (`data.annotations.rle` is the encoding of masks, which is another.)
"""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.pixel_data.elements import AGAIN, Refusal, named
from data.pixel_data.pixel_format import PixelFormat

_START = re.compile(rb"[\x01-\x0f]\0\0\0\x40\0\0\0")  # how many segments; the first follows the header
START_BYTES = 8
"""Of a frame: enough for `begins`, and the same in all frames of one image."""

_LONGEST_RUN = 128


def begins(content: bytes | memoryview) -> bool:
    """Whether this begins like a frame: up to 15 segments, the first behind the header (PS3.5 G.5)."""
    return _START.match(content) is not None


def decoded(content: bytes, form: PixelFormat) -> NDArray[Any]:
    """The words of a frame: a segment for each byte of them, the highest first.

    Args:
        content: The frame, and maybe zeros after it.
        form: What the header says of the pixels.

    Returns:
        (rows, columns) uint8 or uint16.

    Raises:
        Refusal: It has not exactly as many segments and pixels as the header says.
    """
    count, *offsets = struct.unpack("<16I", content[:64].ljust(64, b"\0"))
    if count != form.allocated // 8:
        raise Refusal(
            f"its RLE frame has {count} segments; {form.allocated // 8} were expected for "
            f"{form.allocated} bits"
        )
    bounds = [*offsets[:count], len(content)]
    if bounds[0] != 64 or any(begin >= end for begin, end in pairwise(bounds)):
        raise Refusal(f"its RLE frame is cut off or damaged: its segments are not where it says; {AGAIN}")
    parts = [_rle_segment(content[begin:end], form) for begin, end in pairwise(bounds)]
    words = np.stack(parts[::-1], axis=-1).view(f"<u{count}")
    return words.reshape(form.rows, form.columns)


def _rle_segment(segment: bytes, form: PixelFormat) -> NDArray[np.uint8]:
    """One byte of each pixel (PS3.5 G.3), if the segment gives exactly as many as there are pixels."""
    pixels = form.rows * form.columns
    found, used = _unpacked(segment[: 2 * pixels + _LONGEST_RUN], pixels)  # a run for each pixel, and some
    if len(found) < pixels:
        raise Refusal(f"its RLE frame is cut off: it has {len(found):,} of {pixels:,} pixels; {AGAIN}")
    rest = segment[used:]
    if len(found) > pixels or (len(rest) > 1 and rest.strip(b"\0")) or _exchanged(segment, form):
        raise Refusal(
            f"its RLE frame is not of {form.columns}x{form.rows} pixels, as its header says "
            f"({named('Columns')}, {named('Rows')}), or it is damaged"
        )
    return np.frombuffer(found, np.uint8)


def _unpacked(segment: bytes, most: int) -> tuple[bytearray, int]:
    """What a segment's runs give, up to the one that reaches `most` bytes, and where that one ends."""
    found, position = bytearray(), 0
    try:
        while (left := most - len(found)) > 0:
            for _ in range(left // _LONGEST_RUN or 1):  # so many runs do not reach it
                head = segment[position]
                if head < 128:
                    end = position + 2 + head
                    found += segment[position + 1 : end]
                    position = end
                elif head > 128:
                    found += segment[position + 1 : position + 2] * (257 - head)
                    position += 2
                else:
                    position += 1
    except IndexError:  # the segment ends before
        pass
    return found, position


def _exchanged(segment: bytes, form: PixelFormat) -> bool:
    """Whether runs end with each column, so to speak: the header has width and height exchanged.

    Runs shall end with each row (PS3.5 G.3.1). Not all encoders keep to that, so that alone is no damage. A
    width of whole longest runs says nothing. The first lines are enough.
    """
    if form.rows == form.columns or form.rows % _LONGEST_RUN == 0:
        return False
    most = min(form.rows * form.columns, 8 * max(form.rows, form.columns))
    ends, position, total = {0}, 0, 0
    while total < most:
        head = segment[position]
        position += head + 2 if head < 128 else 2 if head > 128 else 1
        total += head + 1 if head < 128 else 257 - head if head > 128 else 0
        ends.add(total)
    return not ends.issuperset(range(0, most, form.columns)) and ends.issuperset(range(0, most, form.rows))
