"""The items in which compressed pixels are stored (DICOM PS3.5 A.4).

Promises: `fragments` gives the content of each item, without copying it, from a Pixel Data element of
undefined length. Deviations that leave no doubt about where the content is are accepted: no sequence
delimiter at the end, zeros before it or between items, a last item that ends with the file. Whether a
stream is whole is for `data.codestreams` to say.
"""

from __future__ import annotations

import re
import struct

from data.elements import Refusal

_ITEM = b"\xfe\xff\x00\xe0"
_END = b"\xfe\xff\xdd\xe0"
_HEADER = struct.Struct("<4sI")
_NOT_ZERO = re.compile(rb"[^\0]")


def fragments(content: bytes) -> list[memoryview]:
    """The content of every item, in order, the basic offset table included where there is one.

    Args:
        content: The value of Pixel Data (7FE0,0010).

    Raises:
        Refusal: It has no items, or other bytes stand between two of them.
    """
    view, found = memoryview(content), list[memoryview]()
    position = 0
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
    """The items of the first frame, and maybe more behind them, where it is not known how many it has.

    The first item is the basic offset table: empty, or 32-bit offsets of which the first is 0 (PS3.5 A.4).
    Some writers leave it out. No compressed stream begins with four zeros but that of a JP2 file, whose
    first box has a length of 12.

    Args:
        items: As `fragments` gives them.
        frames: How many there are.
    """
    table = bytes(items[0][:8])
    if len(items) == 1 or not (len(items[0]) == 0 or (len(items[0]) % 4 == 0 and table[:4] == bytes(4))):
        table = b""
    else:
        items = items[1:]
    if frames > 1 and len(items) == frames:
        return items[:1]
    if frames > 1 and len(table) == 8:
        second, position = int.from_bytes(table[4:], "little"), 0
        for number, item in enumerate(items):
            if position >= second > 0:
                return items[:number]
            position += _HEADER.size + len(item)
    return items


def _header(content: bytes, position: int) -> tuple[bytes, int]:
    """Tag and length of the item at a position; what is cut off counts as the end."""
    if position + _HEADER.size > len(content):
        return _END, 0
    mark, length = _HEADER.unpack_from(content, position)
    return mark, length
