"""Evaluation record: the results of scoring a model on a set of images.

The record holds everything that tables, JSON files and reports show of a model, and needs neither a framework
nor the data file. All scores are computed at the original size of the images, from the masks that
`core.scoring.thresholds` makes. docs/evaluation.md defines the numbers. `Evaluation.as_json` holds all but
the pictures. The records can be sent between processes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.experiment.checkpoint import EpochRecord
from core.pictures.radiographs import Sample
from core.scoring.thresholds import Thresholds

CaseKind = Literal["worst positive", "false positive", "best positive", "for comparison"]


@dataclass(frozen=True)
class Summary:
    """Scores of a set of images. Dice and IoU are means over images, 1 where both masks are empty.

    Args:
        dice: Mean Dice over all images, the competition's score.
        dice_all_empty: Mean Dice of empty masks, the all-negative baseline.
        dice_positive: Mean Dice over the positive images, whose true mask is not empty; None without any.
        iou: Mean intersection over union (Jaccard) over all images.
        iou_positive: Mean intersection over union over the positive images; None without any.
        auroc: AUROC of the existence score for positive images; None without positives or negatives.
        tp: Number of images with a predicted and a true mask, wherever they lie.
        fp: Number of images with a predicted mask only.
        fn: Number of images with a true mask only.
        tn: Number of images with neither.
        sensitivity: tp / (tp + fn); None where there is no positive image.
        specificity: tn / (tn + fp); None where there is no negative image.
        images: Number of images.
        positives: Number of positive images.
        thresholds: The thresholds of the predicted masks.
        auroc_head: AUROC of the existence probability; None without the existence head too.
    """

    dice: float
    dice_all_empty: float
    dice_positive: float | None
    iou: float
    iou_positive: float | None
    auroc: float | None
    tp: int
    fp: int
    fn: int
    tn: int
    sensitivity: float | None
    specificity: float | None
    images: int
    positives: int
    thresholds: Thresholds
    auroc_head: float | None = None


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram: predictions in [lower, upper); the last bin includes 1.

    Args:
        lower: Least probability of the bin.
        upper: Least probability of the next bin.
        count: Number of predictions in the bin.
        predicted: Mean of these predictions; None where there are none.
        observed: Share of them that were positive; None where there are none.
    """

    lower: float
    upper: float
    count: int
    predicted: float | None
    observed: float | None


@dataclass(frozen=True)
class Calibration:
    """Calibration of probabilities: whether a share p of the predictions with probability p is positive.

    Args:
        bins: Bins of equal width, ascending, from 0 to 1.
        ece: Expected calibration error: mean of |observed - predicted| over bins, weighted by count.
        brier: Mean of (probability - truth)^2.
    """

    bins: tuple[ReliabilityBin, ...]
    ece: float
    brier: float


@dataclass(frozen=True)
class Surface:
    """Mean Dice over two thresholds, with the third fixed at the value in use.

    Args:
        fixed: The fixed threshold: "pixel", "area" or "score".
        value: Its value; for "pixel" the nearest level of the search.
        row_name: The threshold that changes from row to row.
        column_name: The threshold that changes from column to column.
        rows: Values of the rows' threshold, ascending.
        columns: Values of the columns' threshold, ascending.
        dice: Mean Dice at [row][column]; None where score < pixel, which is not allowed.
    """

    fixed: str
    value: float
    row_name: str
    column_name: str
    rows: tuple[float, ...]
    columns: tuple[float, ...]
    dice: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class ImageRow:
    """The scores of one image.

    Args:
        id: The image's id in the data file.
        dice: Dice; 1 where both masks are empty.
        iou: Intersection over union; 1 where both masks are empty.
        truth_pixels: Number of pixels of the true mask, at the original size.
        predicted_pixels: Number of pixels of the predicted mask, at the original size.
        existence: The existence score: see `core.scoring.thresholds`.
        height: Number of rows at the original size.
        width: Number of columns at the original size.
        existence_probability: The existence probability; None without the existence head.
    """

    id: str
    dice: float
    iou: float
    truth_pixels: int
    predicted_pixels: int
    existence: float
    height: int
    width: int
    existence_probability: float | None = None


@dataclass(frozen=True)
class MemberRecord:
    """A model of the ensemble (a single model is an ensemble of one).

    Args:
        folder: Its folder, as the user named it.
        checkpoint: The checkpoint file that predicted, such as "best.safetensors".
        epoch: Number of finished epochs of that checkpoint.
        step: Number of updates of that checkpoint.
        history: The epochs of the whole run, from the folder's newest checkpoint.
    """

    folder: str
    checkpoint: str
    epoch: int
    step: int
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Origin:
    """How an evaluation was made: models, data, thresholds and machine.

    Args:
        backend: The backend's name, as after -f.
        framework: The framework's title for people.
        version: The framework's version; None if unknown.
        device: "cpu", "gpu:0", …
        members: The models.
        data: The data file, as the user named it.
        split: "validation" for the held-out images, "all" for every image of the file.
        flip: Whether predictions were averaged with those of mirror images.
        thresholds: The origin of the thresholds: "tuned" (saved with the model), "default" or "given".
        height: Number of rows of the network's input.
        width: Number of columns of the network's input.
        images_per_second: Number of scored images over the time taken, without compilation.
        scales: The scales whose predictions were averaged.
    """

    backend: str
    framework: str
    version: str | None
    device: str
    members: tuple[MemberRecord, ...]
    data: str
    split: Literal["validation", "all"]
    flip: bool
    thresholds: Literal["tuned", "default", "given"]
    height: int
    width: int
    images_per_second: float
    scales: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class PicturedCase:
    """An example image with its pictures.

    Its arrays have the size of the network, (h, w): image and probability are the network's input and output.
    The masks were resized for display; the scores in `row` refer to the original size.

    Args:
        kind: "worst positive": a true mask, low Dice; "false positive": a predicted mask without a true one;
            "best positive": a true mask, high Dice; "for comparison": a case of the model in comparison.
        row: Its scores.
        sample: Image, truth, probability and Dice.
        predicted: The predicted mask, (h, w) in {0, 1}.
    """

    kind: CaseKind
    row: ImageRow
    sample: Sample
    predicted: NDArray[np.uint8]


@dataclass(frozen=True)
class Evaluation:
    """A model (or an ensemble) scored on a set of images.

    Args:
        origin: How the evaluation was made.
        summary: The scores.
        image_calibration: Calibration of the existence score, one prediction for each image.
        pixel_calibration: Calibration of the probabilities, one prediction for each original pixel.
        rows: The scores of each image, in the order of the data file.
        surfaces: Mean Dice on these images over the thresholds; empty if not requested.
        cases: Worst positives (lowest Dice first), then false positives (highest existence score first),
            then best positives (highest Dice first), then those for comparison (in the order of the rows).
    """

    origin: Origin
    summary: Summary
    image_calibration: Calibration
    pixel_calibration: Calibration
    rows: tuple[ImageRow, ...]
    surfaces: tuple[Surface, ...] = ()
    cases: tuple[PicturedCase, ...] = ()

    @property
    def name(self) -> str:
        """Name for headings: backend and model folders, as "tf: tf_model"; for folds their common folder."""
        folders = [Path(member.folder) for member in self.origin.members]
        if len(folders) > 1 and len({folder.parent for folder in folders}) == 1:
            return f"{self.origin.backend}: {folders[0].parent} ({len(folders)} models)"
        return f"{self.origin.backend}: {', '.join(map(str, folders))}"

    def as_json(self) -> dict[str, Any]:
        """Return all but the pictures as plain numbers, strings, lists and dictionaries.

        The scores are keys of the dictionary itself ("dice", "auroc", "thresholds", …), beside "origin",
        "calibration" ("image" and "pixel"), "rows" and "surfaces".
        """
        return {
            **dataclasses.asdict(self.summary),
            "thresholds": self.summary.thresholds.as_dict(),
            "calibration": {
                "image": dataclasses.asdict(self.image_calibration),
                "pixel": dataclasses.asdict(self.pixel_calibration),
            },
            "origin": dataclasses.asdict(self.origin),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "surfaces": [dataclasses.asdict(surface) for surface in self.surfaces],
        }
