"""Fast reading of single rows of an HDF5 dataset.

`RowReader.read` gives the same values as h5py, or raises. The operating system reads the rows of a contiguous
dataset, as this project writes them, directly into the caller's array: h5py takes longer to select a row than
the system takes to read it. h5py reads datasets that are compressed, chunked, external, byte-swapped or never
written.
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
    """Reader of a dataset whose first axis counts the rows.

    Args:
        dataset: A dataset of an open file, which must stay open.
        file: A descriptor of the same file, open for reading. None reads everything with h5py.
    """

    def __init__(self, dataset: h5py.Dataset, file: int | None) -> None:
        self.dataset = dataset
        self._file = file
        self._row = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        self._offset = _first_row_offset(dataset) if file is not None and hasattr(os, "preadv") else None

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, out: NDArray[Any]) -> None:
        """Read one row.

        Args:
            index: Number of the row, from 0.
            out: An array of the row's shape and the dataset's type, C order.

        Raises:
            IndexError: There is no such row.
            OSError: The file ends within the row, or cannot be read.
            Exception: The file is damaged; h5py may raise any kind.
        """
        if not 0 <= index < len(self.dataset):
            raise IndexError(f"row {index} of {len(self.dataset)}")
        if self._offset is None or self._file is None:
            self.dataset.read_direct(out[None], np.s_[index : index + 1])
            return
        view, done = out.data.cast("B"), 0
        while done < self._row:
            length = os.preadv(self._file, [view[done:]], self._offset + index * self._row + done)
            if not length:
                raise OSError(f"the file ends within row {index} of {self.dataset.name}")
            done += length


def _first_row_offset(dataset: h5py.Dataset) -> int | None:
    """Return the offset of the first row, if the rows lie in the file as in memory; otherwise None."""
    properties = dataset.id.get_create_plist()
    plain = (
        properties.get_layout() == h5py.h5d.CONTIGUOUS
        and properties.get_nfilters() == 0
        and properties.get_external_count() == 0
        and dataset.id.get_space_status() == h5py.h5d.SPACE_STATUS_ALLOCATED  # otherwise nothing was written
    )
    native = dataset.dtype.itemsize == 1 or dataset.dtype.byteorder in ("=", "<>"[sys.byteorder == "big"])
    if not plain or not native:
        return None
    offset: int | None = dataset.id.get_offset()
    return offset
