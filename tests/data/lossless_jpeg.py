"""An encoder of lossless JPEG, straight from ITU-T T.81 annex H: slow, small, and nobody else's."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

_CODE_BITS = 5  # of every category from 0 to 16; the code of all ones stays free


def encode_lossless(pixels: NDArray[np.unsignedinteger], bits: int, predictor: int) -> bytes:
    """(height, width) values of `bits` bits as a stream of process 14.

    Args:
        pixels: Unsigned; signed ones are to be given as their two's complement.
        bits: Precision, 2 to 16.
        predictor: 1 to 7, the standard's selection value (T.81 table H.1).
    """
    height, width = pixels.shape
    frame = struct.pack(">BHHB", bits, height, width, 1) + b"\1\x11\0"
    table = b"\0" + bytes(17 if length == _CODE_BITS else 0 for length in range(1, 17)) + bytes(range(17))
    scan = bytes([1, 1, 0, predictor, 0, 0])
    segments = ((0xC3, frame), (0xC4, table), (0xDA, scan))
    head = b"".join(struct.pack(">BBH", 0xFF, mark, len(body) + 2) + body for mark, body in segments)
    data = _packed("".join(map(_code, _differences(pixels.astype(int).tolist(), bits, predictor))))
    return b"\xff\xd8" + head + data.replace(b"\xff", b"\xff\0") + b"\xff\xd9"


def _differences(rows: list[list[int]], bits: int, predictor: int) -> list[int]:
    """What is coded: each value less its prediction, modulo 2^16 (T.81 H.1.2.1)."""
    found = []
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if y == 0:
                guess = row[x - 1] if x else 1 << (bits - 1)
            elif x == 0:
                guess = rows[y - 1][0]
            else:
                a, b, c = row[x - 1], rows[y - 1][x], rows[y - 1][x - 1]
                choices = (a, b, c, a + b - c, a + (b - c >> 1), b + (a - c >> 1), a + b >> 1)
                guess = choices[predictor - 1]
            found.append((value - guess + 32767) % 65536 - 32767)
    return found


def _code(difference: int) -> str:
    """Huffman code of the category, then the additional bits (T.81 H.1.2.2)."""
    category = abs(difference).bit_length()
    code = f"{category:0{_CODE_BITS}b}"
    if category in (0, 16):
        return code
    extra = difference if difference > 0 else difference + (1 << category) - 1
    return code + f"{extra:0{category}b}"


def _packed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")
