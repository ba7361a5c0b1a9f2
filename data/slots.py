"""A file through which workers hand over their rows.

Promises: a row that was put comes out as it was, whatever process put it. A pipe takes as long for a
row as the decoder does; a file that stays in the system's cache does not. A slot is free again once its
row was taken; what is in the file means nothing to a later run.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from core.files import explained
from data.staging import write_whole


class Slots:
    """The file, opened by one process.

    Args:
        path: Where it is.
        row: Arrays like those of every row; `get` fills them.
        mode: "w+" makes it, "r+" opens one that is there.

    Raises:
        UserError: The operating system refused.
    """

    def __init__(self, path: Path, row: Sequence[NDArray[Any]], mode: Literal["w+", "r+"]) -> None:
        self._path, self._row = path, tuple(row)
        self._length = sum(array.nbytes for array in row)
        with explained(path, "write"):
            self._file = io.FileIO(path, mode)

    def put(self, slot: int, row: Sequence[NDArray[Any]]) -> None:
        """Fill a slot."""
        with explained(self._path, "write"):
            self._file.seek(slot * self._length)
            for array in row:
                write_whole(self._file, array.data)

    def get(self, slot: int) -> tuple[NDArray[Any], ...]:
        """The content of a slot; valid until the next call."""
        with explained(self._path, "read"):
            self._file.seek(slot * self._length)
            for array in self._row:
                if self._file.readinto(array.data.cast("B")) != array.nbytes:
                    raise OSError("a row is missing")
        return self._row

    def close(self) -> None:
        """Close the file."""
        self._file.close()
