"""What becomes of one image once a network has seen it: the answer, and the files that show it.

Promises: it runs in a process of its own, and takes all from the image's file and its probabilities; so
work is spread, and a crash costs one image. Masks, pictures and Segmentation objects of an image show the
same mask as its row of the submission.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.files.names import file_name
from core.files.system_errors import explain_os_errors
from core.pictures.radiographs import PredictedImage, draw_prediction
from core.scoring.metrics import dice_per_image
from core.scoring.thresholds import Thresholds
from core.tasks.predictions import Box, Segmentation, area_in_mm2, box_around, segment_image
from data.annotations import rle
from data.annotations.annotation_file import AnnotationError, combined_mask
from data.annotations.image_ids import Identities
from data.radiographs import dicom
from data.radiographs.reading import ImageFile

if TYPE_CHECKING:
    from data.submissions.dicom_segmentation import Algorithm


@dataclass(frozen=True)
class Result:
    """The answer for one image.

    Attributes:
        source: The file.
        encoding: Run-length encoding of the mask.
        existence: See `core.scoring.thresholds`.
        pixels: Of the mask.
        pixels_left: Those of them in the left half of the image (a middle column belongs to the right).
        box: Around the mask; None if it is empty.
        failure: Why there is no answer (the process died), or "".
        no_segmentation: Why there is no Segmentation object though one was wanted, or "".
        no_truth: Why a truth could not be drawn (its annotation is malformed), or "".
    """

    source: ImageFile
    encoding: str = rle.EMPTY
    existence: float = 0.0
    pixels: int = 0
    pixels_left: int = 0
    box: Box | None = None
    failure: str = ""
    no_segmentation: str = ""
    no_truth: str = ""

    @property
    def positive(self) -> bool:
        """Whether something was found."""
        return self.pixels > 0


class Task(NamedTuple):
    """An image, its probabilities, (h, w) at the network's size, and what its files are called."""

    source: ImageFile
    probability: NDArray[np.float32]
    name: str = ""

    @property
    def file_name(self) -> str:
        """The files' name without suffix: that of the id, unless another one is given."""
        return self.name or file_name(self.source.image_id)


@dataclass(frozen=True)
class Job:
    """What is wanted of every image; sent once to each worker.

    Attributes:
        thresholds: What decides.
        truth: Whose annotations are known; None for nobody's.
        masks: Folder for a PNG of each mask, 0 and 255, at the original size.
        overlays: Folder for a picture of each image with what was found.
        segmentations: Folder for a DICOM Segmentation object of each positive image.
        algorithm: What those say found it.
    """

    thresholds: Thresholds
    truth: Identities | None = None
    masks: Path | None = None
    overlays: Path | None = None
    segmentations: Path | None = None
    algorithm: Algorithm | None = None

    def files(self, name: str) -> list[Path]:
        """The files that may be written for an image of that file name."""
        folders = (self.masks, ".png"), (self.overlays, ".png"), (self.segmentations, ".dcm")
        return [folder / f"{name}{suffix}" for folder, suffix in folders if folder is not None]


_job: Job | None = None  # set in the workers only, before their first task


def prepare(job: Job) -> None:
    """Tell a worker what is wanted."""
    global _job
    _job = job


def conclude(task: Task) -> Result:
    """Answer, and write what is wanted, in a worker.

    Raises:
        UserError: The operating system refused a file.
    """
    assert _job is not None
    source, job = task.source, _job
    found = segment_image(task.probability, source.height, source.width, job.thresholds)
    name = task.file_name
    if job.masks is not None:
        _write_mask(job.masks / f"{name}.png", found.mask)
    no_truth = (
        "" if job.overlays is None else _write_overlay(job.overlays / f"{name}.png", source, found, job)
    )
    no_segmentation = ""
    if job.segmentations is not None and found.mask.any():
        no_segmentation = _write_segmentation(job.segmentations / f"{name}.dcm", source, found, job)
    return Result(
        source=source,
        encoding=rle.encode(found.mask),
        existence=found.existence,
        pixels=int(np.count_nonzero(found.mask)),
        pixels_left=int(np.count_nonzero(found.mask[:, : source.width // 2])),
        box=box_around(found.mask),
        no_segmentation=no_segmentation,
        no_truth=no_truth,
    )


def crashed(task: Task, job: Job) -> Result:
    """The result for an image that killed its process; nothing half written is left of it."""
    for path in job.files(task.file_name):
        path.unlink(missing_ok=True)
    reason = "answering it killed the process (a library's defect, or out of memory)"
    return Result(task.source, failure=reason)


def _write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    with explain_os_errors(path, "write"):
        Image.fromarray(mask * np.uint8(255)).save(path)


def _write_overlay(path: Path, source: ImageFile, found: Segmentation, job: Job) -> str:
    """Draw the picture; gives why the truth could not be drawn, or ""."""
    try:
        image = dicom.read_radiograph(source.file).pixels
    except dicom.UnreadableImage as error:
        return f"it was not drawn: {error.reason}"  # it could be read a moment ago
    truth, problem = None, ""
    rows = None
    if job.truth is not None and job.truth.rows_of is not None:
        rows = job.truth.rows_of.get(job.truth.choose(source.file, source.uid))
    if rows is not None:
        try:
            truth = combined_mask(rows, source.height, source.width)
        except AnnotationError as error:
            problem = str(error)
    predicted = PredictedImage(
        image=image,
        probability=found.probability,
        mask=found.mask,
        truth=truth,
        title=source.image_id,
        verdict=_verdict(source, found, truth, job.thresholds),
    )
    with explain_os_errors(path, "write"):
        path.write_bytes(draw_prediction(predicted))
    return problem


def _verdict(
    source: ImageFile, found: Segmentation, truth: NDArray[np.uint8] | None, thresholds: Thresholds
) -> str:
    """What is said of an image, in one line."""
    pixels = int(np.count_nonzero(found.mask))
    words = ["PNEUMOTHORAX" if pixels else "no pneumothorax"]
    compared = "at least" if pixels else "below"
    words.append(f"existence {found.existence:.3f}, {compared} {thresholds.score:.3g}")
    if pixels:
        words.append(f"{pixels / found.mask.size:.1%} of the image")
        if (area := area_in_mm2(source.geometry, pixels)) is not None:
            words.append(f"{area / 100:.1f} cm2")
    if truth is not None:
        words.append(f"truth {'positive' if truth.any() else 'negative'}")
        words.append(f"Dice {dice_per_image(found.mask[np.newaxis], truth[np.newaxis])[0]:.3f}")
    return "   ".join(words)


def _write_segmentation(path: Path, source: ImageFile, found: Segmentation, job: Job) -> str:
    """Write the object; gives why there is none, or ""."""
    from data.submissions.dicom_segmentation import NoSegmentation, write_segmentation

    assert job.algorithm is not None
    try:
        with explain_os_errors(path, "write"):
            write_segmentation(path, dicom.read_dataset(source.file), found.mask, job.algorithm)
    except dicom.UnreadableImage as error:
        return error.reason
    except NoSegmentation as error:
        return str(error)
    return ""
