"""The items that hold compressed pixels (DICOM PS3.5 A.4).

`fragments` returns the content of each item in a Pixel Data element of undefined length, without a copy. It
accepts deviations if the place of the content is certain: no sequence delimiter at the end, zeros before it
or between items, a last item that is cut off by the end of the file. `first_frame_items` selects the items of
the first frame without the basic offset table. `data.pixel_data.codestreams` checks if a stream is complete.
"""

from __future__ import annotations

import re
import struct

from data.pixel_data import rle_frames
from data.pixel_data.codestreams import recognise
from data.pixel_data.elements import DicomError

_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"
_HEADER = struct.Struct("<4sI")
_NOT_ZERO = re.compile(rb"[^\0]")

# Items have some ten thousand bytes each, or hold one frame each.
_BYTES_OF_AN_ITEM, _FREE_ITEMS = 1024, 10_000

_START_BYTES = 1 << 16
_LONGEST_PAD, _END_OF_IMAGE = 16, b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000


def fragments(content: bytes) -> list[memoryview]:
    """Return the content of every item, in order, including the basic offset table if there is one.

    Args:
        content: The value of Pixel Data (7FE0,0010).

    Raises:
        DicomError: There are no items, far too many, or other bytes between two items.
    """
    view, found = memoryview(content), list[memoryview]()
    position, most = 0, _FREE_ITEMS + len(content) // _BYTES_OF_AN_ITEM
    while (begin := _NOT_ZERO.search(content, position)) is not None:
        position = begin.start()  # skip padding that no length includes
        if found and content.startswith((_ITEM, _END), position + 1):
            position += 1  # one byte of padding other than zero
        mark, length = _header(content, position)
        if mark == _END:
            break
        if mark != _ITEM:
            if found:
                raise DicomError(
                    f"its encapsulated pixels are damaged: item {len(found) + 1} does not begin where item "
                    f"{len(found)} ends, at byte {position} of Pixel Data (7FE0,0010)"
                )
            raise DicomError("its pixels are not encapsulated: Pixel Data (7FE0,0010) begins with no item")
        if len(found) == most:
            raise DicomError(
                f"its encapsulated pixels are damaged: Pixel Data (7FE0,0010) has {len(content):,} bytes in "
                f"more than {most:,} items"
            )
        position += _HEADER.size
        found.append(view[position : position + length])
        position += length
    if not any(found):
        raise DicomError("its encapsulated pixels are empty: Pixel Data (7FE0,0010) has no item with content")
    return found


def begins_with_item(content: bytes) -> bool:
    """Whether a value of Pixel Data looks encapsulated."""
    return content[:4] == _ITEM


def first_frame_items(items: list[memoryview], frames: int) -> list[memoryview]:
    """Return the items of the first frame, possibly with later ones.

    A compressed stream marks its own end, so all items are returned, whatever the offset table and the number
    of items say. An RLE frame has no end mark. It is one item (PS3.5 A.4.2), or ends where the next begins.

    Args:
        items: The result of `fragments`.
        frames: Number of frames.
    """
    items = _without_table(items, frames)
    each_its_own = frames > 1 and len(items) == frames
    if recognise(_start(items)):
        ends = bytes(items[0][-_LONGEST_PAD:]).rstrip(b"\0").endswith(_END_OF_IMAGE)
        return items[:1] if each_its_own and ends else items  # one item saves a copy of all frames
    if rle_frames.begins_with_frame(items[0]):
        for number, item in enumerate(items[1:], 1):
            if item[: rle_frames.START_BYTES] == items[0][: rle_frames.START_BYTES]:
                return items[:number]
        return items
    return items[:1] if each_its_own else items


def _without_table(items: list[memoryview], frames: int) -> list[memoryview]:
    """Return the items after the basic offset table.

    The table is the first item: empty, or 32-bit offsets of which the first is 0 (PS3.5 A.4). Some writers
    omit it. Others do not start at 0; then it has an entry for each frame, and a frame follows it.
    """
    first, others = items[0], items[1:]
    if not others or (len(first) and (len(first) % 4 or recognise(_start(items)))):
        return items
    if not any(first[:4]):
        return others
    begins = rle_frames.begins_with_frame(others[0]) or bool(recognise(_start(others)))
    return others if len(first) == 4 * frames and begins else items


def _start(items: list[memoryview]) -> bytes:
    """Join the first bytes of items, for recognising a stream."""
    found = b""
    for item in items:
        found += item[: _START_BYTES - len(found)]
        if len(found) >= _START_BYTES:
            break
    return found


def _header(content: bytes, position: int) -> tuple[bytes, int]:
    """Return tag and length of the item at a position; a header that is cut off counts as the end."""
    if position + _HEADER.size > len(content):
        return _END, 0
    mark, length = _HEADER.unpack_from(content, position)
    return mark, length
