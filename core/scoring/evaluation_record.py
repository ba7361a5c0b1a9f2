"""Evaluation record: what is known of a model after it was scored on a set of images.

Promises: everything that a table, a JSON file or a report shows of a model is here, and nothing that
needs a framework or the data file. All scores are counted at the original size of the images, from the masks
that `core.scoring.thresholds` makes. docs/evaluation.md defines the numbers. `Evaluation.as_json` holds all
but the pictures. The records may be sent between processes.
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
        dice: Over all images: the competition's score.
        dice_all_empty: The floor: the same for predicting nothing anywhere.
        dice_positive: Over the images whose truth is not empty; None where there are none.
        iou: Intersection over union (Jaccard), over all images.
        iou_positive: Over the images whose truth is not empty; None where there are none.
        auroc: Of the existence score for "the truth is not empty"; None where one of the kinds is missing.
        tp: Images with a predicted mask and a true one (the place does not matter).
        fp: Images with a predicted mask alone.
        fn: Images with a true mask alone.
        tn: Images with neither.
        sensitivity: tp / (tp + fn); None where there is no positive image.
        specificity: tn / (tn + fp); None where there is no negative image.
        images: How many images.
        positives: How many of them have a truth that is not empty.
        thresholds: What the masks were made with.
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


@dataclass(frozen=True)
class ReliabilityBin:
    """One bar of a reliability diagram: predictions in [lower, upper), the last one with 1.

    Args:
        lower: Least probability of the bin.
        upper: The next bin's least.
        count: Predictions in it.
        predicted: Their mean; None where there are none.
        observed: Share of them that were positive; None where there are none.
    """

    lower: float
    upper: float
    count: int
    predicted: float | None
    observed: float | None


@dataclass(frozen=True)
class Calibration:
    """Whether things that are said with probability p are true in a share p of the cases.

    Args:
        bins: Of equal width, ascending, from 0 to 1.
        ece: Expected calibration error: mean of |observed - predicted| over bins, weighted by count.
        brier: Mean of (probability - truth)^2.
    """

    bins: tuple[ReliabilityBin, ...]
    ece: float
    brier: float


@dataclass(frozen=True)
class Surface:
    """Mean Dice over two thresholds while the third is fixed at the value in use.

    Args:
        fixed: "pixel", "area" or "score", the threshold that is fixed.
        value: Its value; what is nearest on the grid of the search.
        row_name: The threshold that changes from row to row.
        column_name: The one that changes from column to column.
        rows: Its values, ascending.
        columns: Their values, ascending.
        dice: [row][column]; None where score < pixel, which is no pair of thresholds.
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
    """One image.

    Args:
        id: Its id in the data file.
        dice: 1 where both masks are empty.
        iou: The same.
        truth_pixels: Pixels of the true mask, at the original size.
        predicted_pixels: Pixels of the predicted one.
        existence: The existence score: see `core.scoring.thresholds`.
        height: Original rows.
        width: Original columns.
    """

    id: str
    dice: float
    iou: float
    truth_pixels: int
    predicted_pixels: int
    existence: float
    height: int
    width: int


@dataclass(frozen=True)
class MemberRecord:
    """A model of the ensemble (a single model is an ensemble of one).

    Args:
        folder: Its folder, as the user named it.
        checkpoint: The file in it that predicted, as "best.safetensors".
        epoch: Finished epochs of that checkpoint.
        step: Updates of that checkpoint.
        history: The epochs of the whole run: those of the folder's newest checkpoint.
    """

    folder: str
    checkpoint: str
    epoch: int
    step: int
    history: tuple[EpochRecord, ...]


@dataclass(frozen=True)
class Origin:
    """Where the numbers came from.

    Args:
        backend: The name that stood after -f.
        framework: Its title for people.
        version: Of the framework; None if unknown.
        device: "cpu", "gpu:0", …
        members: The models.
        data: The data file, as the user named it.
        split: "validation": images that no update saw; "all": every image of the file.
        flip: Whether mirror images were predicted too.
        thresholds: Where they came from: "tuned" (saved with the model), "default" or "given".
        height: Rows of the images that the network takes.
        width: Columns.
        images_per_second: Images scored over the time it took, compilation left out.
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


@dataclass(frozen=True)
class PicturedCase:
    """An image worth looking at.

    Its arrays have the size that the network takes, (h, w): the image and the probability are what it saw
    and said. The masks were shrunk for the eye; the scores in `row` are of the original size.

    Args:
        kind: "worst positive": a true mask, low Dice; "false positive": a predicted mask without a true one;
            "best positive": a true mask, high Dice; "for comparison": a case of the model beside this one.
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
        origin: Where the numbers came from.
        summary: The scores.
        image_calibration: Of the existence score, one prediction an image.
        pixel_calibration: Of the probabilities, one prediction a pixel of the original size.
        rows: One an image, in the order of the data file.
        surfaces: Mean Dice on these images over the thresholds; empty where not asked for.
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
        """For headings: backend and model folders, as "tf: tf_model"; of folds the folder they lie in."""
        folders = [Path(member.folder) for member in self.origin.members]
        if len(folders) > 1 and len({folder.parent for folder in folders}) == 1:
            return f"{self.origin.backend}: {folders[0].parent} ({len(folders)} models)"
        return f"{self.origin.backend}: {', '.join(map(str, folders))}"

    def as_json(self) -> dict[str, Any]:
        """All but the pictures, of plain numbers, strings, lists and dictionaries.

        The scores are keys of the dictionary itself ("dice", "auroc", "thresholds", …), beside "origin",
        "calibration" ("image" and "pixel"), "rows" and "surfaces".
        """
        return {
            **dataclasses.asdict(self.summary),
            "calibration": {
                "image": dataclasses.asdict(self.image_calibration),
                "pixel": dataclasses.asdict(self.pixel_calibration),
            },
            "origin": dataclasses.asdict(self.origin),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "surfaces": [dataclasses.asdict(surface) for surface in self.surfaces],
        }
