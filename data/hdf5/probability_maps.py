"""The file of a network's probability maps.

`ProbabilityFile` writes this format, one block at a time, so memory does not grow with the number of images.
The caller must write the file atomically.

    probabilities_<n>  (k, h, w, 1)  float32 in [0, 1], at the network's size
    ids_<n>            (k,)          UTF-8 strings: image ids
    sizes_<n>          (k, 2)        int32: height and width of the original image
    existence_<n>      (k,)          float32 in [0, 1]: existence probabilities, if the network has that head

As in `data.hdf5.file_format`, `n` counts from 0, k is the same in all datasets but the last, the layout is
contiguous, and attributes are numbers or strings of fixed length.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import NDArray

from data.hdf5 import file_format, file_writing

FORMAT = "pneumoseg-probabilities"
FORMAT_VERSION = 1

_BLOCK = 1 << 25  # most bytes of the maps in a dataset; they stay in memory until they are written


class ProbabilityFile:
    """A file that is being written. Use it as a context manager.

    Args:
        path: The file to make.
        height: Rows of a map.
        width: Columns of a map.
        most: An upper bound of the number of maps.
        attributes: Attributes of the file besides those of the format.

    Raises:
        OSError: The operating system refused (the disk is full, say). Every method may raise this.
    """

    def __init__(
        self, path: Path, height: int, width: int, most: int, attributes: Mapping[str, str | int | float]
    ) -> None:
        self._size = height, width
        self._each = max(1, _BLOCK // (4 * height * width))
        file_writing.reserve_space(path, most * 4 * height * width)
        with file_writing.as_os_errors():
            self._file = h5py.File(path, "w", locking=file_format.LOCKING)
            file_writing.set_attributes(self._file, attributes)
        self._waiting: list[tuple[str, tuple[int, int], NDArray[np.float32], float | None]] = []
        self._datasets = self._count = 0

    def add(
        self,
        image_id: str,
        size: tuple[int, int],
        probability: NDArray[np.float32],
        existence: float | None = None,
    ) -> None:
        """Append a map (height, width), with the original size of its image, (height, width).

        `existence` is the existence probability: of every image, or of none.
        """
        self._waiting.append((image_id, size, probability, existence))
        self._count += 1
        if len(self._waiting) == self._each:
            self._flush()

    def _flush(self) -> None:
        ids, sizes, maps, existences = zip(*self._waiting, strict=True)
        self._waiting = []
        with file_writing.as_os_errors():
            block = np.stack(maps)[..., np.newaxis]
            self._file.create_dataset(f"probabilities_{self._datasets}", data=block)
            file_writing.create_strings(self._file, f"ids_{self._datasets}", ids)
            self._file.create_dataset(f"sizes_{self._datasets}", data=np.array(sizes, dtype=np.int32))
            if existences[0] is not None:
                found = np.array(existences, dtype=np.float32)
                self._file.create_dataset(f"existence_{self._datasets}", data=found)
        self._datasets += 1

    def __enter__(self) -> ProbabilityFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with contextlib.suppress(OSError, RuntimeError):  # the first error is the one to report
                self._file.close()
            return
        if self._waiting:
            self._flush()
        with file_writing.as_os_errors():
            height, width = self._size
            ours: dict[str, str | int | float] = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "images": self._count,
                "height": height,
                "width": width,
            }
            file_writing.set_attributes(self._file, ours)
            self._file.close()


def is_probability_file(path: Path) -> bool:
    """Return whether a file has this format."""
    try:
        with h5py.File(path, "r", locking=file_format.LOCKING) as file:
            return bool(file_format.read_attribute(file, "format") == FORMAT)
    except file_format.READ_ERRORS:
        return False
