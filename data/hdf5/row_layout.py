"""Where rows lie in a data file, and how they get there before it is one.

Promises: a row that `RowFile.put` was given is at the place where `data.hdf5.store` will have it, so it is
written once; `get` gives it back. Any process may put rows, each at its own place.
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
    """The places of a data file's rows; `data.hdf5.store.lay_out` finds them.

    Attributes:
        count: Rows of the file.
        per_dataset: Rows in each dataset but the last.
        size: Height and width of a row, in pixels.
        kinds: Type of the images, and of the masks if a row has one besides its image.
        starts: For each number of datasets where that of the images begins, and that of the masks, in bytes.
        end: Where nothing of all that is any more. Rows from `count` on have their places there.
    """

    count: int
    per_dataset: int
    size: tuple[int, int]
    kinds: tuple[str, ...]
    starts: tuple[tuple[int, ...], ...]
    end: int

    def places(self, row: int) -> tuple[int, ...]:
        """Where a row's image begins, and its mask, in bytes."""
        lengths = [self.size[0] * self.size[1] * np.dtype(kind).itemsize for kind in self.kinds]
        if row >= self.count:
            first = self.end + (row - self.count) * sum(lengths)
            return tuple(first + sum(lengths[:column]) for column in range(len(lengths)))
        number, within = divmod(row, self.per_dataset)
        return tuple(
            start + within * length for start, length in zip(self.starts[number], lengths, strict=True)
        )


class RowFile:
    """A file of rows, opened by any process.

    Args:
        path: It is there already.
        layout: Where its rows are.

    Raises:
        OSError: The file is not there.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        self._layout = layout
        self._file = io.FileIO(path, "r+")

    def put(self, row: int, arrays: Sequence[NDArray[Any]]) -> None:
        """Write a row: its image (H, W), and its mask (H, W) if there are any."""
        for place, array in zip(self._layout.places(row), arrays, strict=True):
            self._file.seek(place)
            write_all(self._file, array.data)

    def get(self, row: int) -> tuple[NDArray[Any], ...]:
        """A row: its image (H, W), and its mask (H, W) if there are any.

        Raises:
            EOFError: The file ends before it does.
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
        """The operating system's number of the open file."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_all(file: io.FileIO, content: bytes | memoryview) -> None:
    """Write all of it: an unbuffered file may take only a part, for example before the disk is full."""
    view = memoryview(content).cast("B")
    while view:
        view = view[file.write(view) :]
