"""Read what TensorBoard shows of a folder of event files; the checksums of each record are checked."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.training.tensorboard import Event, SessionLog


def shown(logs: Path) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, bytes]]]:
    """Return scalars and PNGs by tag and step.

    A session that starts at a step hides the values of earlier files from that step on, as in TensorBoard.
    A step with two values is an error.
    """
    scalars: dict[str, dict[int, float]] = {}
    pictures: dict[str, dict[int, bytes]] = {}
    for file in sorted(logs.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for event in _events(file.read_bytes()):
            if event.session_log.status == SessionLog.START:
                tables: list[dict[int, Any]] = [*scalars.values(), *pictures.values()]
                for table in tables:
                    for step in [step for step in table if step >= event.step]:
                        del table[step]
            for value in event.summary.value:
                is_scalar = value.HasField("simple_value")
                steps: dict[int, Any] = (scalars if is_scalar else pictures).setdefault(value.tag, {})
                assert event.step not in steps, f"{value.tag} is logged twice for step {event.step}"
                steps[event.step] = value.simple_value if is_scalar else value.image.encoded_image_string
    return scalars, pictures


def _events(content: bytes) -> Iterator[Any]:
    """Yield the events of a TFRecord file, which may end within an event."""
    while len(content) >= 16:
        (length,) = struct.unpack("<Q", content[:8])
        if len(content) < 16 + length:
            return
        assert struct.unpack("<I", content[8:12])[0] == _crc32c(content[:8])
        data, rest = content[12 : 12 + length], content[12 + length :]
        assert struct.unpack("<I", rest[:4])[0] == _crc32c(data)
        yield Event.FromString(data)
        content = rest[4:]


def _crc32c(data: bytes) -> int:
    """Return the CRC-32C (RFC 3720, appendix B.4), masked as in TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _table_entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_table_entry(byte) for byte in range(256)]
