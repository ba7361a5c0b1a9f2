"""A synthetic data set in the competition's layout, to start with and to test on.

Promises: real DICOM files (baseline JPEG, 8 bits, the competition's header fields, one file in a
folder per series in a folder per study) and a `train-rle.csv` with the oddities of the real one: a
space before the second column's name and before each value, several rows for one image (some of them
overlapping), ` -1` rows, an annotation without an image, an image without an annotation. The same
settings give the same bytes on the same libraries, whatever the number of workers.

Nothing here comes from a patient: `data.phantoms.anatomy` draws the images, and the headers say so.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from core.base.errors import UserError
from core.base.randomness import permutation, words
from core.base.system import available_cores
from core.files.atomic import replacing, reserved, write_text
from core.files.checks import check_free
from core.files.system_errors import explain_os_errors
from core.processes.pool import map_in_order
from data.annotations import rle
from data.phantoms.anatomy import draw, limit_threads

IMAGES = "dicom-images-train"
ANNOTATIONS = "train-rle.csv"
HEADER = "ImageId, EncodedPixels"

LEAST_SIZE, GREATEST_SIZE = 64, 4096
_UID_ROOT = "1.2.826.0.1.3680043.8.498."  # pydicom's own root, for UIDs made by anybody
_ENOUGH_FOR_ODDITIES = 10  # smaller sets do without the image that has no annotation
_QUALITY = 90
_SPACING_AT_1024 = 0.168  # mm, as in the competition's files

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PhantomSettings:
    """What to draw, and where to.

    Attributes:
        out: Folder for the images' folder and the annotation file.
        count: Images.
        size: Height and width of each, in pixels.
        seed: Of everything drawn.
        positive_fraction: Share of the images with a pneumothorax, rounded to whole images.
        workers: Processes; None takes all cores.
        overwrite: Whether images and annotations already in `out` may be replaced.
    """

    out: Path = Path("demo")
    count: int = 200
    size: int = 1024
    seed: int = 0
    positive_fraction: float = 0.22
    workers: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class PhantomReport:
    """What was written.

    Attributes:
        images: Folder of the images.
        annotations: The annotation file.
        count: Images.
        positives: Those with a pneumothorax.
        several: Those with more than one annotation row.
        without_annotation: Those without any row.
    """

    images: Path
    annotations: Path
    count: int
    positives: int
    several: int
    without_annotation: int


class _Drawn(NamedTuple):
    """A worker's result: the image's id and its rows of the annotation file."""

    image_id: str
    encodings: tuple[str, ...]


class _Task(NamedTuple):
    """One phantom to draw, and the folder to write it below."""

    number: int
    positive: bool
    folder: Path
    settings: PhantomSettings


def write_phantoms(settings: PhantomSettings, progress: Progress | None = None) -> PhantomReport:
    """Write the data set.

    Args:
        settings: What to draw, and where to.
        progress: Told about each image written.

    Raises:
        UserError: A bad setting, a folder that is not empty, another process that writes there, or a refusal
            of the operating system.
            The images' folder is then as it was before.
    """
    _check(settings)
    with reserved(settings.out, shared=True):
        _check(settings)  # another process may just have ended
        return _write_phantoms(settings, progress)


def _write_phantoms(settings: PhantomSettings, progress: Progress | None) -> PhantomReport:
    images, annotations = settings.out / IMAGES, settings.out / ANNOTATIONS
    drawn: list[_Drawn] = []
    with replacing(images) as partial:
        partial.mkdir(parents=True)
        tasks = _tasks(settings, partial)
        workers = settings.workers or available_cores()
        for result in map_in_order(
            _write_one, tasks, workers=workers, on_crash=_crashed, prepare=limit_threads
        ):
            drawn.append(result)
            if progress is not None:
                progress("drawing", len(drawn), len(tasks))
    unannotated = _unannotated(settings)
    listed = drawn[: len(drawn) - unannotated]
    write_text(annotations, _table(settings.seed, listed))
    return PhantomReport(
        images=images,
        annotations=annotations,
        count=len(drawn),
        positives=sum(task.positive for task in tasks),
        several=sum(len(result.encodings) > 1 for result in listed),
        without_annotation=unannotated,
    )


def _check(settings: PhantomSettings) -> None:
    """Refuse bad settings before any work."""
    for name, value, least, greatest in (
        ("--count", settings.count, 1, 1_000_000),
        ("--size", settings.size, LEAST_SIZE, GREATEST_SIZE),
        ("--positive-fraction", settings.positive_fraction, 0, 1),
        ("--workers", 1 if settings.workers is None else settings.workers, 1, 1024),
    ):
        if not least <= value <= greatest:
            raise UserError(f"{name} must be from {least} to {greatest:,}. Received: {value}")
    if settings.out.exists() and not settings.out.is_dir():
        raise UserError(f"{settings.out} is not a folder; --out names the folder to write to.")
    replaced = f"{IMAGES} and {ANNOTATIONS} in it"
    check_free("--out", settings.out, overwrite=settings.overwrite, replaced=replaced)


def _tasks(settings: PhantomSettings, folder: Path) -> list[_Task]:
    """Which phantoms are positive: the share asked for, at places drawn by the seed.

    The phantom that gets no annotation is the last one, and never positive.
    """
    wanted = round(settings.count * settings.positive_fraction)
    order = permutation(settings.seed, "positives", count=settings.count - _unannotated(settings))
    positive = np.zeros(settings.count, dtype=bool)
    positive[order[:wanted]] = True
    return [_Task(n, bool(positive[n]), folder, settings) for n in range(settings.count)]


def _unannotated(settings: PhantomSettings) -> int:
    """Phantoms without a row in the annotation file."""
    return 1 if settings.count >= _ENOUGH_FOR_ODDITIES else 0


def _write_one(task: _Task) -> _Drawn:
    """Draw and write one phantom, in a worker."""
    seed = task.settings.seed
    phantom = draw(seed, task.number, task.settings.size, task.positive)
    dataset = _dataset(seed, task.number, phantom.pixels)
    path = task.folder / dataset.StudyInstanceUID / dataset.SeriesInstanceUID
    with explain_os_errors(path, "write"):
        path.mkdir(parents=True)
        dataset.save_as(path / f"{dataset.SOPInstanceUID}.dcm", enforce_file_format=True)
    encodings = tuple(rle.encode(region) for region in phantom.regions) or (rle.EMPTY,)
    return _Drawn(str(dataset.SOPInstanceUID), encodings)


def _crashed(task: _Task) -> _Drawn:
    raise UserError(f"the process that drew phantom {task.number} died; is there memory enough?")


def _table(seed: int, drawn: list[_Drawn]) -> str:
    """The annotation file, and in it one row for an image that does not exist."""
    rows = [(result.image_id, encoding) for result in drawn for encoding in result.encodings]
    rows.append((_uid(seed, "no such image", 0), rle.EMPTY))
    return "".join([f"{HEADER}\n", *(f"{image_id}, {encoding}\n" for image_id, encoding in rows)])


def _uid(seed: int, kind: str, number: int) -> UID:
    """An identifier that the seed determines; 46 of at most 64 characters."""
    return UID(f"{_UID_ROOT}{int(words(seed, 'uid', kind, number, count=1)[0])}")


def _dataset(seed: int, number: int, pixels: NDArray[np.uint8]) -> FileDataset:
    """The DICOM data set of one phantom, with the fields that the competition's files have."""
    uid = functools.partial(_uid, seed, number=number)
    age, sex = (int(word) for word in words(seed, "patient", number, count=2))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid(kind="image")
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.ImplementationClassUID = UID(f"{_UID_ROOT}1")
    meta.ImplementationVersionName = "PNEUMOSEG"  # a fixed one: pydicom's would name its release
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyDate, dataset.StudyTime = "19010101", "000000.00"
    dataset.AccessionNumber = ""
    dataset.Modality = "CR"
    dataset.ConversionType = "WSD"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = "view: PA"
    dataset.PatientName = f"PHANTOM^{number:06d}"
    dataset.PatientID = f"PHANTOM-{seed}-{number:06d}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "MF"[sex % 2]
    dataset.PatientAge = f"{18 + age % 72:03d}Y"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.StudyInstanceUID = uid(kind="study")
    dataset.SeriesInstanceUID = uid(kind="series")
    dataset.StudyID = ""
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.PatientOrientation = ""
    _set_pixels(dataset, pixels)
    return dataset


def _set_pixels(dataset: FileDataset, pixels: NDArray[np.uint8]) -> None:
    """The pixel module, as baseline JPEG."""
    height, width = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = height, width
    dataset.PixelSpacing = [f"{_SPACING_AT_1024 * 1024 / height:.6g}"] * 2
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY)
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
