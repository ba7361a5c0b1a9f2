"""Frames in DICOM's run-length encoding (PS3.5 annex G).

`decode` returns all pixels, or refuses a frame without exactly the pixels that the header describes.
Libraries accept a frame that is too long: it is an image of another size, and would look sheared. (The
encoding of masks, in `data.annotations.rle`, is a different one.)
"""

from __future__ import annotations

import re
import struct
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.pixel_data.elements import FETCH_AGAIN, DicomError, label
from data.pixel_data.pixel_format import PixelFormat

_START = re.compile(rb"[\x01-\x0f]\0\0\0\x40\0\0\0")  # number of segments; the first follows the header
START_BYTES = 8
"""Bytes of a frame that `begins_with_frame` needs; they are equal in all frames of one image."""

_LONGEST_RUN = 128


def begins_with_frame(content: bytes | memoryview) -> bool:
    """Whether bytes begin like a frame: up to 15 segments, the first after the header (PS3.5 G.5)."""
    return _START.match(content) is not None


def decode(content: bytes, form: PixelFormat) -> NDArray[Any]:
    """Decode a frame to its words: it has a segment for each byte of a word, the highest first.

    Args:
        content: The frame, possibly with zeros after it.
        form: The pixel format in the header.

    Returns:
        (rows, columns) uint8 or uint16.

    Raises:
        DicomError: The number of segments or pixels is not the one in the header.
    """
    count, *offsets = struct.unpack("<16I", content[:64].ljust(64, b"\0"))
    if count != form.allocated // 8:
        raise DicomError(
            f"its RLE frame has {count} segments; {form.allocated // 8} were expected for "
            f"{form.allocated} bits"
        )
    bounds = [*offsets[:count], len(content)]
    if bounds[0] != 64 or any(begin >= end for begin, end in pairwise(bounds)):
        raise DicomError(
            f"its RLE frame is cut off or damaged: its segments are not where it says; {FETCH_AGAIN}"
        )
    parts = [_rle_segment(content[begin:end], form) for begin, end in pairwise(bounds)]
    words = np.stack(parts[::-1], axis=-1).view(f"<u{count}")
    return words.reshape(form.rows, form.columns)


def _rle_segment(segment: bytes, form: PixelFormat) -> NDArray[np.uint8]:
    """Decode one byte of each pixel (PS3.5 G.3); refuse a segment with another number of bytes."""
    pixels = form.rows * form.columns
    found, used = _decode_runs(segment[: 2 * pixels + _LONGEST_RUN], pixels)  # at most a run for each pixel
    if len(found) < pixels:
        raise DicomError(
            f"its RLE frame is cut off: it has {len(found):,} of {pixels:,} pixels; {FETCH_AGAIN}"
        )
    rest = segment[used:]
    if len(found) > pixels or (len(rest) > 1 and rest.strip(b"\0")) or _exchanged(segment, form):
        raise DicomError(
            f"its RLE frame is not of {form.columns}x{form.rows} pixels, as its header says "
            f"({label('Columns')}, {label('Rows')}), or it is damaged"
        )
    return np.frombuffer(found, np.uint8)


def _decode_runs(segment: bytes, most: int) -> tuple[bytearray, int]:
    """Decode runs up to the one that reaches `most` bytes; return the bytes, and the offset of that end."""
    found, position = bytearray(), 0
    try:
        while (left := most - len(found)) > 0:
            for _ in range(left // _LONGEST_RUN or 1):  # this number of runs cannot exceed it
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
    except IndexError:  # the segment ends early
        pass
    return found, position


def _exchanged(segment: bytes, form: PixelFormat) -> bool:
    """Whether the header seems to have width and height exchanged.

    Runs shall end with each row (PS3.5 G.3.1). Not all encoders comply, so a run across rows alone is not
    damage. But if runs end at each multiple of the height instead, the sizes are exchanged. A width that is a
    multiple of the longest run shows nothing. The first lines are enough.
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
