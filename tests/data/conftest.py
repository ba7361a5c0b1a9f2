"""What the tests of `data` share: DICOM files made to order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dicom_files import make_dataset
from numpy.typing import NDArray
from pydicom.uid import UID

WriteDicom = Callable[..., Path]


@pytest.fixture
def write_dicom(tmp_path: Path) -> WriteDicom:
    """Writes `make_dataset(pixels, ...)` with further elements set, and returns the path."""

    def write(
        pixels: NDArray[Any],
        name: str = "image.dcm",
        *,
        stored: int | None = None,
        compress: str | None = None,
        **elements: Any,
    ) -> Path:
        dataset = make_dataset(pixels, stored=stored)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if compress is not None:
            dataset.compress(UID(compress), generate_instance_uid=False)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write
