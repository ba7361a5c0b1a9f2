"""Rows of an HDF5 dataset, as fast as the system gives bytes.

Promises: `Column.read` gives what h5py would, or raises. Rows that lie in the file one after another, as
this project writes them, are read by the operating system, straight into the caller's array; h5py takes
longer to select a row than the system to read it. Compressed, chunked, external, byte-swapped or never
written ones are left to h5py.
"""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray


class RowReader:
    """A dataset whose first axis is that of the rows.

    Args:
        dataset: Of an open file, which must stay open.
        file: The operating system's number of the same file, opened to be read; None leaves all to h5py.
    """

    def __init__(self, dataset: h5py.Dataset, file: int | None) -> None:
        self.dataset = dataset
        self._file = file
        self._row = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        self._begin = _begin(dataset) if file is not None and hasattr(os, "preadv") else None

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, out: NDArray[Any]) -> None:
        """Read one row.

        Args:
            index: Of the row.
            out: An array of the row's shape and of the dataset's type, C order.

        Raises:
            IndexError: There is no such row.
            OSError: The file ends before the row does, or cannot be read.
            Exception: Of any kind, from h5py, over a damaged file.
        """
        if not 0 <= index < len(self.dataset):
            raise IndexError(f"row {index} of {len(self.dataset)}")
        if self._begin is None or self._file is None:
            self.dataset.read_direct(out[None], np.s_[index : index + 1])
            return
        view, done = out.data.cast("B"), 0
        while done < self._row:
            length = os.preadv(self._file, [view[done:]], self._begin + index * self._row + done)
            if not length:
                raise OSError(f"the file ends within row {index} of {self.dataset.name}")
            done += length


def _begin(dataset: h5py.Dataset) -> int | None:
    """Where in the file the first row begins, if all lie there as they are in memory."""
    properties = dataset.id.get_create_plist()
    plain = (
        properties.get_layout() == h5py.h5d.CONTIGUOUS
        and properties.get_nfilters() == 0
        and properties.get_external_count() == 0
        and dataset.id.get_space_status() == h5py.h5d.SPACE_STATUS_ALLOCATED  # else nothing was ever written
    )
    native = dataset.dtype.itemsize == 1 or dataset.dtype.byteorder in ("=", "<>"[sys.byteorder == "big"])
    if not plain or not native:
        return None
    begin: int | None = dataset.id.get_offset()
    return begin
