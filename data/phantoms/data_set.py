"""A synthetic data set in the competition's layout, for first steps and for tests.

The images are DICOM files (baseline JPEG, 8 bits, the competition's header fields), each in a folder for its
series in a folder for its study. The `train-rle.csv` has the peculiarities of the real one: a space before
the second column's name and before each value, several rows for one image (some of them overlapping), ` -1`
rows, an annotation without an image, an image without an annotation. The same settings give the same bytes
with the same versions of the libraries, whatever the number of workers.

Nothing here comes from a patient: `data.phantoms.anatomy` draws the images, and the headers say so.
"""

from __future__ import annotations

import contextlib
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
_UID_ROOT = "1.2.826.0.1.3680043.8.498."  # pydicom's root, free for anybody's UIDs
_LEAST_WITH_UNANNOTATED = 10  # images; smaller sets have no image without an annotation
_QUALITY = 90
_SPACING_AT_1024 = 0.168  # mm, as in the competition's files

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PhantomSettings:
    """The settings of a synthetic data set.

    Attributes:
        out: Folder for the images' folder and the annotation file.
        count: Number of images.
        size: Height and width of each image, in pixels.
        seed: Seed of all random numbers.
        positive_fraction: Share of the images with a pneumothorax, rounded to whole images.
        workers: Number of worker processes; None uses all cores.
        overwrite: Whether existing images and annotations in `out` may be replaced.
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
    """The files that were written, and the numbers of images.

    Attributes:
        images: Folder of the images.
        annotations: The annotation file.
        count: Number of images.
        positives: Images with a pneumothorax.
        several: Images with more than one annotation row.
        without_annotation: Images without an annotation row.
    """

    images: Path
    annotations: Path
    count: int
    positives: int
    several: int
    without_annotation: int


class _Drawn(NamedTuple):
    """A worker's result: the image's id and the encodings of its rows in the annotation file."""

    image_id: str
    encodings: tuple[str, ...]


class _PhantomToDraw(NamedTuple):
    """One phantom to draw, and the folder for its file."""

    number: int
    positive: bool
    folder: Path
    settings: PhantomSettings


def write_phantoms(settings: PhantomSettings, progress: Progress | None = None) -> PhantomReport:
    """Write the data set.

    Args:
        settings: The settings.
        progress: Called for each image written.

    Raises:
        UserError: A bad setting, a folder that is not empty, another process that writes there, or a refusal
            of the operating system. The images' folder is then as it was before.
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
        results = map_in_order(_write_one, tasks, workers=workers, on_crash=_crashed, prepare=limit_threads)
        with contextlib.closing(results):
            for result in results:
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
    """Check the settings before any work."""
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


def _tasks(settings: PhantomSettings, folder: Path) -> list[_PhantomToDraw]:
    """List the phantoms. The positive ones have the requested share and are chosen at random.

    The phantom without an annotation is the last one, and is never positive.
    """
    wanted = round(settings.count * settings.positive_fraction)
    order = permutation(settings.seed, "positives", count=settings.count - _unannotated(settings))
    positive = np.zeros(settings.count, dtype=bool)
    positive[order[:wanted]] = True
    return [_PhantomToDraw(n, bool(positive[n]), folder, settings) for n in range(settings.count)]


def _unannotated(settings: PhantomSettings) -> int:
    """Return the number of phantoms without a row in the annotation file."""
    return 1 if settings.count >= _LEAST_WITH_UNANNOTATED else 0


def _write_one(task: _PhantomToDraw) -> _Drawn:
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


def _crashed(task: _PhantomToDraw) -> _Drawn:
    raise UserError(f"the process that drew phantom {task.number} died; is there memory enough?")


def _table(seed: int, drawn: list[_Drawn]) -> str:
    """Return the content of the annotation file, with one row for an image that does not exist."""
    rows = [(result.image_id, encoding) for result in drawn for encoding in result.encodings]
    rows.append((_uid(seed, "no such image", 0), rle.EMPTY))
    return "".join([f"{HEADER}\n", *(f"{image_id}, {encoding}\n" for image_id, encoding in rows)])


def _uid(seed: int, kind: str, number: int) -> UID:
    """Return a UID that depends only on the arguments; 46 of at most 64 characters."""
    return UID(f"{_UID_ROOT}{int(words(seed, 'uid', kind, number, count=1)[0])}")


def _dataset(seed: int, number: int, pixels: NDArray[np.uint8]) -> FileDataset:
    """Return the DICOM data set of one phantom, with the fields of the competition's files."""
    uid = functools.partial(_uid, seed, number=number)
    age, sex = (int(word) for word in words(seed, "patient", number, count=2))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid(kind="image")
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.ImplementationClassUID = UID(f"{_UID_ROOT}1")
    meta.ImplementationVersionName = "PNEUMOSEG"  # fixed, because pydicom's default contains its version
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
    """Set the attributes of the pixels, with the pixels as baseline JPEG."""
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
