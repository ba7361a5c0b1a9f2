"""Write a model that needs no training, and radiographs for it. It segments bright regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from core.backend.state import initial_state
from core.experiment.checkpoint import Checkpoint, DataFacts, Progress, save_checkpoint
from core.experiment.configuration import parse_configuration
from core.network.lowering import lower

SIZE = 32
CONFIGURATION = parse_configuration(
    {
        "network": {
            "batch_norm": False,
            "blocks": [
                {"name": "down", "kind": "conv", "filters": 3},
                {"name": "mask", "kind": "output"},
            ],
        }
    }
)
_ROOT = "1.2.826.0.1.3680043.8.498.4711."


def write_model(
    folder: Path, seed: int = 1, size: int = SIZE, clahe: tuple[float, int] | None = None
) -> None:
    """Write a model folder. Bright pixels get high probabilities; the kernel is not symmetric."""
    plan = lower(CONFIGURATION.network, size, size)
    state = initial_state(plan, CONFIGURATION.training.rules(), seed)
    state["down/kernel"][..., 0] = 0
    state["down/kernel"][1, 1, 0, 0] = 1
    state["mask/kernel"][..., 0] = np.float32([[5, 4, 3], [6, 5, 4], [7, 6, 5]])[..., np.newaxis]
    state["mask/bias"][:] = -4
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(CONFIGURATION, DataFacts(4, 1, size, size, clahe), Progress(), state)
    save_checkpoint(folder / "best.safetensors", checkpoint)


def radiograph(number: int, height: int, width: int, bright: bool) -> NDArray[np.uint8]:
    """Return dark noise, with a bright rectangle if wanted."""
    random = np.random.default_rng([number, height, width])
    pixels = random.integers(10, 60, (height, width))
    if bright:
        top, left = height // 3, width // 5
        pixels[top : top + height // 3, left : left + width // 4] += 150
    return pixels.astype(np.uint8)


def write_radiograph(path: Path, number: int, pixels: NDArray[Any], **elements: Any) -> None:
    """Write a DICOM file with all elements that a Segmentation object needs; None deletes an element."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"{_ROOT}3.{number}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, f"{_ROOT}3.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{_ROOT}1.{number}", f"{_ROOT}2.{number}"
    dataset.PatientID, dataset.PatientName = f"patient {number}", "Test^Radiograph"
    dataset.Modality = "CR"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OB"
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
