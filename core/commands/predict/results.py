"""The result of one image, computed from the network's probabilities, and the image's output files.

`make_result` runs in worker processes, so a crash costs one image. It needs only the image's file and
probabilities. Mask, overlay and Segmentation object of an image show the same mask as its row in the
submission.
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
from core.pictures.radiographs import PredictionPicture, draw_prediction
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
class ImageResult:
    """The result for one image.

    Attributes:
        source: The file.
        encoding: Run-length encoding of the mask.
        existence: The existence score; see `core.scoring.thresholds`.
        existence_probability: The existence probability; None without the existence head.
        pixels: The number of pixels in the mask.
        pixels_left: The number of these in the left half of the image; a middle column counts as right.
        box: The bounding box of the mask; None if it is empty.
        failure: Why there is no result (the process died), or "".
        no_segmentation: Why a wanted Segmentation object was not written, or "".
        no_truth: Why the true mask could not be drawn (its annotation is malformed), or "".
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
    existence_probability: float | None = None

    @property
    def positive(self) -> bool:
        """Whether the mask has any pixel."""
        return self.pixels > 0


class PredictedImage(NamedTuple):
    """An image, its probabilities, (h, w) at the network's size, and the name of its output files.

    `existence` is the existence probability; None without the existence head.
    """

    source: ImageFile
    probability: NDArray[np.float32]
    name: str = ""
    existence: float | None = None

    @property
    def file_name(self) -> str:
        """The name of the output files without suffix: made from the id unless `name` is given."""
        return self.name or file_name(self.source.image_id)


@dataclass(frozen=True)
class OutputSettings:
    """The thresholds, and which files to write for every image; sent once to each worker.

    Attributes:
        thresholds: The thresholds that turn probabilities into a mask.
        identities: The annotations by image id, for the true masks in overlays; None without annotations.
        masks: Folder for a PNG of each mask, 0 and 255, at the original size.
        overlays: Folder for a picture of each image with its finding.
        segmentations: Folder for a DICOM Segmentation object of each positive image.
        algorithm: The description of the model in these objects.
    """

    thresholds: Thresholds
    identities: Identities | None = None
    masks: Path | None = None
    overlays: Path | None = None
    segmentations: Path | None = None
    algorithm: Algorithm | None = None

    def files(self, name: str) -> list[Path]:
        """Return the paths that may be written for an image with that file name."""
        folders = (self.masks, ".png"), (self.overlays, ".png"), (self.segmentations, ".dcm")
        return [folder / f"{name}{suffix}" for folder, suffix in folders if folder is not None]


_settings: OutputSettings | None = None  # set in workers only, before their first image


def set_output_settings(settings: OutputSettings) -> None:
    """Set the settings of this worker process."""
    global _settings
    _settings = settings


def make_result(image: PredictedImage) -> ImageResult:
    """Compute the result of an image and write its output files, in a worker process.

    Raises:
        UserError: The operating system refused a file.
    """
    assert _settings is not None
    source, settings = image.source, _settings
    found = segment_image(
        image.probability, source.height, source.width, settings.thresholds, image.existence
    )
    name = image.file_name
    if settings.masks is not None:
        _write_mask(settings.masks / f"{name}.png", found.mask)
    no_truth = no_segmentation = ""
    if settings.overlays is not None:
        no_truth = _write_overlay(settings.overlays / f"{name}.png", source, found, settings)
    if settings.segmentations is not None and found.mask.any():
        no_segmentation = _write_segmentation(settings.segmentations / f"{name}.dcm", source, found, settings)
    return ImageResult(
        source=source,
        encoding=rle.encode(found.mask),
        existence=found.existence,
        pixels=int(np.count_nonzero(found.mask)),
        pixels_left=int(np.count_nonzero(found.mask[:, : source.width // 2])),
        box=box_around(found.mask),
        no_segmentation=no_segmentation,
        no_truth=no_truth,
        existence_probability=found.existence_probability,
    )


def result_of_crash(image: PredictedImage, settings: OutputSettings) -> ImageResult:
    """Return the result of an image whose process died, and delete its incomplete files."""
    for path in settings.files(image.file_name):
        path.unlink(missing_ok=True)
    reason = "predicting it killed the process (a defect of a library, or out of memory)"
    return ImageResult(image.source, failure=reason)


def _write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    with explain_os_errors(path, "write"):
        Image.fromarray(mask * np.uint8(255)).save(path)


def _write_overlay(path: Path, source: ImageFile, found: Segmentation, settings: OutputSettings) -> str:
    """Draw the overlay. Return why the true mask could not be drawn, or ""."""
    try:
        pixels = dicom.read_radiograph(source.file).pixels
    except dicom.UnreadableImage as error:
        return f"it was not drawn: {error.reason}"  # the file was readable before
    truth, problem = None, ""
    rows, identities = None, settings.identities
    if identities is not None and identities.rows_of is not None:
        rows = identities.rows_of.get(identities.choose(source.file, source.uid))
    if rows is not None:
        try:
            truth = combined_mask(rows, source.height, source.width)
        except AnnotationError as error:
            problem = str(error)
    picture = PredictionPicture(
        image=pixels,
        probability=found.probability,
        mask=found.mask,
        truth=truth,
        title=source.image_id,
        verdict=_caption(source, found, truth, settings.thresholds),
    )
    with explain_os_errors(path, "write"):
        path.write_bytes(draw_prediction(picture))
    return problem


def _caption(
    source: ImageFile, found: Segmentation, truth: NDArray[np.uint8] | None, thresholds: Thresholds
) -> str:
    """Return the caption of an overlay, in one line."""
    pixels = int(np.count_nonzero(found.mask))
    words = ["PNEUMOTHORAX" if pixels else "no pneumothorax"]
    compared = "at least" if found.existence >= thresholds.score else "below"
    words.append(f"existence {found.existence:.3f}, {compared} {thresholds.score:.3g}")
    if found.existence_probability is not None and thresholds.existence is not None:
        compared = "at least" if thresholds.passes(found.existence_probability) else "below"
        words.append(f"head {found.existence_probability:.3f}, {compared} {thresholds.existence:.3g}")
    if pixels:
        words.append(f"{pixels / found.mask.size:.1%} of the image")
        if (area := area_in_mm2(source.geometry, pixels)) is not None:
            words.append(f"{area / 100:.1f} cm2")
    if truth is not None:
        words.append(f"truth {'positive' if truth.any() else 'negative'}")
        words.append(f"Dice {dice_per_image(found.mask[np.newaxis], truth[np.newaxis])[0]:.3f}")
    return "   ".join(words)


def _write_segmentation(path: Path, source: ImageFile, found: Segmentation, settings: OutputSettings) -> str:
    """Write the Segmentation object. Return why there is none, or ""."""
    from data.submissions.dicom_segmentation import NoSegmentation, write_segmentation

    assert settings.algorithm is not None
    try:
        with explain_os_errors(path, "write"):
            write_segmentation(path, dicom.read_dataset(source.file), found.mask, settings.algorithm)
    except dicom.UnreadableImage as error:
        return error.reason
    except NoSegmentation as error:
        return str(error)
    return ""
