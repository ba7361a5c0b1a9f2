"""The items in which compressed pixels are stored (DICOM PS3.5 A.4).

Promises: `fragments` gives the content of each item, without copying it, from a Pixel Data element of
undefined length. Deviations that leave no doubt about where the content is are accepted: no sequence
delimiter at the end, zeros before it or between items, a last item that ends with the file.
`of_first_frame` leaves out the basic offset table. Whether a stream is whole, `data.pixel_data.codestreams`
says.
"""

from __future__ import annotations

import re
import struct

from data.pixel_data import rle_frames
from data.pixel_data.codestreams import recognise
from data.pixel_data.elements import Refusal

_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"
_HEADER = struct.Struct("<4sI")
_NOT_ZERO = re.compile(rb"[^\0]")

# A writer's items have some ten thousand bytes each, or hold a frame each.
_BYTES_OF_AN_ITEM, _FREE_ITEMS = 1024, 10_000

_START_BYTES = 1 << 16
_LONGEST_PAD, _END_OF_IMAGE = 16, b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000


def fragments(content: bytes) -> list[memoryview]:
    """The content of every item, in order, the basic offset table included where there is one.

    Args:
        content: The value of Pixel Data (7FE0,0010).

    Raises:
        Refusal: It has no items, far too many, or other bytes stand between two of them.
    """
    view, found = memoryview(content), list[memoryview]()
    position, most = 0, _FREE_ITEMS + len(content) // _BYTES_OF_AN_ITEM
    while (begin := _NOT_ZERO.search(content, position)) is not None:
        position = begin.start()  # beyond a pad that no length counts
        if found and content.startswith((_ITEM, _END), position + 1):
            position += 1  # a pad that is no zero
        mark, length = _header(content, position)
        if mark == _END:
            break
        if mark != _ITEM:
            if found:
                raise Refusal(
                    f"its encapsulated pixels are damaged: item {len(found) + 1} does not begin where item "
                    f"{len(found)} ends, at byte {position} of Pixel Data (7FE0,0010)"
                )
            raise Refusal("its pixels are not encapsulated: Pixel Data (7FE0,0010) begins with no item")
        if len(found) == most:
            raise Refusal(
                f"its encapsulated pixels are damaged: Pixel Data (7FE0,0010) has {len(content):,} bytes in "
                f"more than {most:,} items"
            )
        position += _HEADER.size
        found.append(view[position : position + length])
        position += length
    if not any(found):
        raise Refusal("its encapsulated pixels are empty: Pixel Data (7FE0,0010) has no item with content")
    return found


def begins_with_item(content: bytes) -> bool:
    """Whether a value of Pixel Data looks encapsulated."""
    return content[:4] == _ITEM


def of_first_frame(items: list[memoryview], frames: int) -> list[memoryview]:
    """The items of the first frame, and maybe more behind them.

    A compressed stream tells its own end, so it gets all items, whatever the offset table and the number of
    items say. An RLE frame does not. It is one item (PS3.5 A.4.2); in several, it ends where the next begins.

    Args:
        items: As `fragments` gives them.
        frames: How many there are.
    """
    items = _without_table(items, frames)
    each_its_own = frames > 1 and len(items) == frames
    if recognise(_start(items)):
        ends = bytes(items[0][-_LONGEST_PAD:]).rstrip(b"\0").endswith(_END_OF_IMAGE)
        return items[:1] if each_its_own and ends else items  # to spare a copy of all frames
    if rle_frames.begins(items[0]):
        for number, item in enumerate(items[1:], 1):
            if item[: rle_frames.START_BYTES] == items[0][: rle_frames.START_BYTES]:
                return items[:number]
        return items
    return items[:1] if each_its_own else items


def _without_table(items: list[memoryview], frames: int) -> list[memoryview]:
    """The items behind the basic offset table.

    It is the first item: empty, or 32-bit offsets of which the first is 0 (PS3.5 A.4). Some writers leave it
    out. Others count from elsewhere: then it has an entry for each frame, and a frame begins behind it.
    """
    first, others = items[0], items[1:]
    if not others or (len(first) and (len(first) % 4 or recognise(_start(items)))):
        return items
    if not any(first[:4]):
        return others
    begins = rle_frames.begins(others[0]) or bool(recognise(_start(others)))
    return others if len(first) == 4 * frames and begins else items


def _start(items: list[memoryview]) -> bytes:
    """The first bytes of items together, by which a stream is recognised."""
    found = b""
    for item in items:
        found += item[: _START_BYTES - len(found)]
        if len(found) >= _START_BYTES:
            break
    return found


def _header(content: bytes, position: int) -> tuple[bytes, int]:
    """Tag and length of the item at a position; what is cut off counts as the end."""
    if position + _HEADER.size > len(content):
        return _END, 0
    mark, length = _HEADER.unpack_from(content, position)
    return mark, length
