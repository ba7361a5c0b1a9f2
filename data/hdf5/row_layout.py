"""The places of rows in a data file, and reading and writing of rows before the file is complete.

A row is an image with its mask, if it has one. `RowFile.put` writes it where the complete data file has it,
so it is written once; `get` reads it. Several processes may put rows, each at its own place.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Layout:
    """The places of a data file's rows, computed by `data.hdf5.file_writing.compute_layout`.

    Attributes:
        count: Rows of the file.
        per_dataset: Rows in each dataset but the last.
        size: Height and width of a row, in pixels.
        kinds: Type of the images, and of the masks if the rows have masks.
        starts: For each dataset number the offsets of the images and of the masks, in bytes.
        end: Offset after all datasets, in bytes. Rows from `count` on have their places there.
    """

    count: int
    per_dataset: int
    size: tuple[int, int]
    kinds: tuple[str, ...]
    starts: tuple[tuple[int, ...], ...]
    end: int

    def places(self, row: int) -> tuple[int, ...]:
        """Return the offsets of a row's image and of its mask (if it has one), in bytes."""
        lengths = [self.size[0] * self.size[1] * np.dtype(kind).itemsize for kind in self.kinds]
        if row >= self.count:
            first = self.end + (row - self.count) * sum(lengths)
            return tuple(first + sum(lengths[:column]) for column in range(len(lengths)))
        number, within = divmod(row, self.per_dataset)
        return tuple(
            start + within * length for start, length in zip(self.starts[number], lengths, strict=True)
        )


class RowFile:
    """An open file of rows; several processes may open it.

    Args:
        path: The file, which exists.
        layout: The places of its rows.

    Raises:
        OSError: The file does not exist.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._file = io.FileIO(path, "r+")

    def put(self, row: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Write a row: its image (H, W), and its mask (H, W) if there are masks."""
        for place, array in zip(self._layout.places(row), arrays, strict=True):
            self._file.seek(place)
            write_all(self._file, array.data)

    def get(self, row: int) -> tuple[NDArray[Any], ...]:
        """Read a row: its image (H, W), and its mask (H, W) if there are masks.

        Raises:
            EOFError: The file ends before the row.
        """
        found = []
        for place, kind in zip(self._layout.places(row), self._layout.kinds, strict=True):
            array = np.empty(self._layout.size, kind)
            self._file.seek(place)
            if (length := self._file.readinto(array.data.cast("B"))) != array.nbytes:
                raise EOFError(f"{length} of {array.nbytes} bytes")
            found.append(array)
        return tuple(found)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_all(file: io.FileIO, content: bytes | memoryview) -> None:
    """Write all of the content: one write to an unbuffered file may take only a part of it."""
    view = memoryview(content).cast("B")
    while view:
        view = view[file.write(view) :]
