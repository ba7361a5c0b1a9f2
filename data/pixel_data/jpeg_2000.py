"""Headers and completeness of JPEG 2000 streams.

Other modules use this through `data.pixel_data.codestreams`. Every tile must be present, and every tile-part
that a tile announces. A stream with far more parts (tiles, precincts, code-blocks, layers) than an image of
its size needs is refused before a decoder uses time and memory for each of them.

Sources: ITU-T T.800 annexes A (codestream), B (partition) and I (boxes of a JP2 file); T.814 (HTJ2K).
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from data.pixel_data.elements import DicomError

START = b"\xff\x4f\xff\x51"
"""SOC and SIZ, the first markers of each codestream."""

FILE_START = b"\0\0\0\x0cjP  \r\n\x87\n"
"""The first box of a JP2 file."""

_EOC, _SOT, _SOD, _SOP = b"\xff\xd9", b"\xff\x90", b"\xff\x93", b"\xff\x91"
_COD, _COC = 0x52, 0x53
_SOT_BYTES = 12
_NOT_ZERO = re.compile(rb"[^\0]")
_MARKER = re.compile(rb"\xff[\x90-\xff]")  # coded data never contain these two bytes (T.800 A.1.3)
_EPH = b"\xff\x92"

_MOST_SEGMENTS = 10_000
_MOST_BOXES = 1000
_MOST_LEVELS = 32  # resolution levels (T.800 table A.15)
# The limit on each kind of part is a fixed number (FREE) plus one per number of pixels. This is about four
# times what encoders write at their finest settings (tiles of 64x64, code-blocks of 16x16).
_PIXELS_OF_A_TILE, _FREE_TILES = 1024, 64
_PIXELS_OF_A_BLOCK, _FREE_BLOCKS = 32, 4096
_PIXELS_OF_A_PACKET, _FREE_PACKETS = 16, 65536
_PARTS_OF_A_TILE, _FREE_PARTS = 16, 255


class Image(NamedTuple):
    """The fields of `data.pixel_data.codestreams.Codestream` that the main header gives."""

    content: bytes
    height: int
    width: int
    samples: int
    bits: int
    signed: bool
    lossless: bool
    has_offset: bool


class _Grid(NamedTuple):
    """The position of the image and its tiles in the reference grid (T.800 A.5.1)."""

    right: int
    bottom: int
    left: int
    top: int
    tile_width: int
    tile_height: int
    tile_left: int
    tile_top: int

    @property
    def tiles(self) -> int:
        across = -(-(self.right - self.tile_left) // self.tile_width)
        return across * -(-(self.bottom - self.tile_top) // self.tile_height)

    @property
    def pixels(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)


class _Parts(NamedTuple):
    """The tile-parts of a codestream.

    Attributes:
        end: Offset of the end of the last one.
        found: Number of tile-parts of each tile.
        stated: Number that each tile announces, if it does.
        open: Offset of the last one if it does not give its length; else None.
    """

    end: int
    found: Counter[int]
    stated: dict[int, int]
    open: int | None


def describe(content: bytes) -> Image:
    """Describe a codestream, or the first one in a JP2 file, by its main header (T.800 A.5.1).

    Raises:
        DicomError: There is no codestream, or its header is damaged.
        struct.error: The codestream is cut off within its header.
    """
    content = content[_start(content) :]
    grid = _grid(content)
    samples, depth = struct.unpack_from(">HB", content, 40)
    reversible = False
    for code, position in _segments(content, len(_EOC), _SOT):
        if code == _COD:  # the last fixed parameter is the transformation
            (transformation,) = struct.unpack_from(">B", content, position + 11)
            reversible = transformation == 1
    return Image(
        content=content,
        height=grid.bottom - grid.top,
        width=grid.right - grid.left,
        samples=samples,
        bits=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
        lossless=reversible,
        has_offset=bool(grid.left or grid.top),
    )


def check_complete(content: bytes) -> tuple[bytes, bool]:
    """Return a codestream up to its end, and whether data may be missing without a visible sign.

    Raises:
        DicomError: Tiles or tile-parts are missing, or there are far too many parts.
        struct.error: The codestream is cut off within its headers.
    """
    grid = _grid(content)
    parts = _tile_parts(content, grid)
    for tile in range(grid.tiles):
        if parts.found[tile] == 0:
            raise DicomError(f"its JPEG 2000 stream is cut off: tile {tile + 1} of {grid.tiles} is not there")
        if parts.found[tile] < parts.stated.get(tile, 0):
            raise DicomError(
                f"its JPEG 2000 stream is cut off: tile {tile + 1} has {parts.found[tile]} of "
                f"{parts.stated[tile]} tile-parts"
            )
    sure = parts.open is None and len(parts.stated) == grid.tiles
    rest = _NOT_ZERO.search(content, parts.end)
    if not (rest and content.startswith(_EOC, rest.start())):
        # The end marker alone may be missing. But an end marker may have been counted as data, and a zero at
        # the end may be padding in place of missing data.
        nothing_else = (
            rest is None
            or content.startswith(START, rest.start())
            or (rest[0] == _EOC[:1] and _NOT_ZERO.search(content, rest.end()) is None)
        )
        swallowed = content.rfind(_EOC, 0, parts.end) >= 0
        if not (sure and nothing_else and content[parts.end - 1]) or swallowed:
            raise DicomError("its JPEG 2000 stream is cut off: it has no end marker")
    return content[: parts.end] + _EOC, not sure


def with_extra_data(content: bytes, filler: bytes) -> bytes:
    """Return a complete codestream with `filler` after the data of each tile that may have more data.

    The filler is a further tile-part of the tile. But no other part may follow a part that does not give its
    length: that part gets a length, and the filler is appended to it.
    """
    parts = _tile_parts(content, _grid(content))
    body, ended = content[: parts.end], -1
    if parts.open is not None:
        (ended,) = struct.unpack_from(">H", content, parts.open + 4)
        length = struct.pack(">I", parts.end + len(filler) - parts.open)
        body = body[: parts.open + 6] + length + body[parts.open + 10 :] + filler
    length = struct.pack(">I", _SOT_BYTES + len(_SOD) + len(filler))
    for tile, found in parts.found.items():
        if tile != ended and tile not in parts.stated and found < _FREE_PARTS:
            body += _SOT + struct.pack(">HH4sBB", 10, tile, length, found, 0) + _SOD + filler
    return body + _EOC


def _start(content: bytes) -> int:
    """Return the offset of the codestream; in a JP2 file, of the first box that holds one (T.800 I.4)."""
    position = 0
    for _ in range(_MOST_BOXES if content.startswith(FILE_START) else 0):
        if position + 8 > len(content):
            break
        length, name = struct.unpack_from(">I4s", content, position)
        size = 8
        if length == 1:
            size = 16
            (length,) = struct.unpack_from(">Q", content, position + 8)
        if name == b"jp2c":
            if content.startswith(START, position + size):
                return position + size
            break
        if length < size:
            break
        position += length
    start = content.find(START)  # a bare codestream, or one after damaged boxes
    if start < 0:
        raise DicomError("its JPEG 2000 stream has no codestream")
    return start


def _grid(content: bytes) -> _Grid:
    grid = _Grid(*struct.unpack_from(">8I", content, 8))
    sane = grid.tile_left <= grid.left < min(
        grid.right, grid.tile_left + grid.tile_width
    ) and grid.tile_top <= grid.top < min(grid.bottom, grid.tile_top + grid.tile_height)
    if not sane:
        raise DicomError("the headers of its JPEG 2000 stream are damaged: its tiles do not cover its image")
    return grid


def _segments(content: bytes, position: int, stop: bytes) -> Iterator[tuple[int, int]]:
    """Yield code and offset of each marker segment of a header, after the marker, up to `stop`.

    Raises:
        DicomError: There is something else, or far too many segments.
        struct.error: The header is cut off.
    """
    for _ in range(_MOST_SEGMENTS):
        mark, code, length = struct.unpack_from(">BBH", content, position)
        if content.startswith(stop, position):
            return
        if mark != 0xFF or length < 2:
            break
        yield code, position + 2
        position += 2 + length
    raise DicomError("the headers of its JPEG 2000 stream are damaged")


class _Style(NamedTuple):
    """The largest numbers of layers and of precincts in all tiles, over the coding styles found so far."""

    layers: int = 1
    precincts: int = 1


def _main_style(content: bytes, grid: _Grid) -> _Style:
    """Return the coding style in the main header; check it and the number of tiles."""
    if grid.tiles > _FREE_TILES + grid.pixels // _PIXELS_OF_A_TILE:
        raise _too_many(grid, "tiles")
    style = _Style()
    for code, position in _segments(content, len(_EOC), _SOT):
        style = _with_style(style, content, code, position, grid)
    return style


def _with_style(style: _Style, content: bytes, code: int, position: int, grid: _Grid) -> _Style:
    """Update a coding style by a marker segment, if that is COD or COC (T.800 A.6.1, A.6.2).

    The style in the header of a tile is assumed for all tiles.

    Raises:
        DicomError: The style makes far more precincts, code-blocks or packets than the image needs.
    """
    layers = 1
    if code == _COD:
        own_precincts, _, layers, _ = struct.unpack_from(">BBHB", content, position + 2)
        fixed = position + 7
    elif code == _COC:
        (own_precincts,) = struct.unpack_from(">B", content, position + 3)
        fixed = position + 4
    else:
        return style
    levels, width, height = struct.unpack_from(">3B", content, fixed)
    if levels > _MOST_LEVELS:
        raise DicomError("the headers of its JPEG 2000 stream are damaged")
    sizes = b"\xff" * (levels + 1)  # 2^15 in both directions
    if own_precincts & 1:
        (sizes,) = struct.unpack_from(f">{levels + 1}s", content, fixed + 5)
    precincts, blocks = _partition(grid, sizes, width % 16 + 2, height % 16 + 2)
    style = _Style(max(style.layers, layers), max(style.precincts, precincts))
    if precincts + blocks > _FREE_BLOCKS + grid.pixels // _PIXELS_OF_A_BLOCK:
        raise _too_many(grid, "precincts and code-blocks")
    if style.precincts * style.layers > _FREE_PACKETS + grid.pixels // _PIXELS_OF_A_PACKET:
        raise _too_many(grid, "layers")
    return style


def _partition(grid: _Grid, sizes: bytes, width: int, height: int) -> tuple[int, int]:
    """Count all precincts and code-blocks (T.800 B.5 to B.7), without extra ones at borders.

    Args:
        grid: The image and its tiles.
        sizes: Precinct size at each resolution, the smallest first: log2 of height and width, 4 bits each.
        width: Log2 of a code-block's width.
        height: Log2 of a code-block's height.
    """
    across = min(grid.tile_width, grid.right - grid.left)
    down = min(grid.tile_height, grid.bottom - grid.top)
    precincts = blocks = 0
    for number, size in enumerate(sizes):
        reduced = len(sizes) - 1 - number
        columns, rows = -(-across // (1 << reduced)), -(-down // (1 << reduced))
        precincts += -(-columns // (1 << (size & 15))) * -(-rows // (1 << (size >> 4)))
        half = 1 if number else 0  # all resolutions but the smallest consist of three bands of half the size
        wide, high = min(width, max((size & 15) - half, 0)), min(height, max((size >> 4) - half, 0))
        of_a_band = -(-columns // (1 << wide + half)) * -(-rows // (1 << high + half))
        blocks += of_a_band * (3 if number else 1)
    return precincts * grid.tiles, blocks * grid.tiles


def _too_many(grid: _Grid, what: str) -> DicomError:
    size = f"{grid.right - grid.left}x{grid.bottom - grid.top} pixels"
    return DicomError(
        f"its JPEG 2000 stream has far more {what} than an image of {size} needs; it is damaged"
    )


def _tile_parts(content: bytes, grid: _Grid) -> _Parts:
    """Find the tile-parts after the main header (T.800 A.4.2).

    Raises:
        DicomError: The content ends within a tile-part, or the parts are out of order or too many.
        struct.error: The content is cut off within a header.
    """
    style, position = _main_style(content, grid), len(_EOC)
    for _, begin in _segments(content, position, _SOT):
        position = begin + struct.unpack_from(">H", content, begin)[0]
    found, stated, number, headers = Counter[int](), dict[int, int](), 0, 0
    while content.startswith(_SOT, position):
        number += 1
        _, tile, length, part, parts = struct.unpack_from(">HHIBB", content, position + 2)
        if tile >= grid.tiles or part != found[tile] or 0 < length < _SOT_BYTES + len(_SOD):
            raise DicomError("its JPEG 2000 stream is damaged: its tile-parts are not in their order")
        found[tile] += 1
        if parts:
            stated[tile] = max(stated.get(tile, 0), parts)
        data = position + _SOT_BYTES
        for code, begin in _segments(content, data, _SOD):
            style = _with_style(style, content, code, begin, grid)
            data = begin + struct.unpack_from(">H", content, begin)[0]
            headers += 1
        if number > _FREE_PARTS + _PARTS_OF_A_TILE * grid.tiles or headers > _MOST_SEGMENTS + 8 * number:
            raise _too_many(grid, "tile-parts")
        if length == 0:
            return _Parts(_end_of_data(content, data + len(_SOD)), found, stated, position)
        if position + length > len(content):
            missing = position + length - len(content)
            raise DicomError(
                f"its JPEG 2000 stream is cut off: {missing} bytes of its last tile-part are missing"
            )
        position += length
    return _Parts(position, found, stated, None)


def _end_of_data(content: bytes, position: int) -> int:
    """Return the end of a tile-part that does not give its length: the offset of the end marker.

    Raises:
        DicomError: Another marker comes first.
    """
    while (found := _MARKER.search(content, position)) is not None:
        position = found.start()
        if found[0] == _SOP:
            position += 6  # its number may look like a marker
        elif found[0] == _EPH:
            position += 2
        elif found[0] == _EOC:
            return position
        else:
            break
    raise DicomError("its JPEG 2000 stream is cut off: it has no end marker")
