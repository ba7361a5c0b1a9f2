"""Accumulates the scores of single images into an `Evaluation`.

Only numbers are kept of each image, and the pictures of a few example cases, so memory hardly grows with the
number of images. Scores come from the mask at the original size. The histograms that are kept beside them
serve the search of thresholds and its surfaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.pictures.radiographs import Sample
from core.scoring.evaluation_record import (
    Calibration,
    CaseKind,
    Evaluation,
    ImageRow,
    Origin,
    PicturedCase,
    ReliabilityBin,
    ScoreIntervals,
    Summary,
)
from core.scoring.groups import Labels, scores_by_group
from core.scoring.histograms import Histograms, histograms_of
from core.scoring.intervals import auroc_interval, mean_interval
from core.scoring.metrics import Confusion, auroc, dice_of_counts, iou_of_counts, summarise
from core.scoring.surface_distance import surface_distance, tolerance_of
from core.scoring.threshold_search import surfaces
from core.scoring.thresholds import Thresholds

BINS = 15
"""Bins of a reliability diagram, as in Guo et al., "On calibration of modern neural networks", 2017."""

CASES: dict[CaseKind, int] = {"worst positive": 6, "false positive": 4, "best positive": 4}
"""Number of cases that are kept of each kind."""


@dataclass(frozen=True)
class ReliabilitySums:
    """Sums over predictions from which a `Calibration` is computed; sums of several sets can be added.

    Args:
        count: (15,) int64, number of predictions in each bin.
        predicted: (15,) float64, sum of their probabilities.
        observed: (15,) int64, number of them that were true.
        squares: Sum of (probability - truth)^2.
    """

    count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    predicted: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    observed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    squares: float = 0.0

    @classmethod
    def from_predictions(
        cls, probability: NDArray[np.floating[Any]], truth: NDArray[np.generic]
    ) -> ReliabilitySums:
        """Sum over probabilities and their truth, two arrays of one shape."""
        p, t = probability.ravel(), truth.ravel().astype(bool)
        place = np.minimum(p * BINS, BINS - 1).astype(np.uint8)
        difference = p - t
        return cls(
            count=np.bincount(place, minlength=BINS),
            predicted=np.bincount(place, weights=p, minlength=BINS).astype(np.float64),
            observed=np.bincount(place[t], minlength=BINS),
            squares=float(np.einsum("i,i", difference, difference, dtype=np.float64)),
        )

    def __add__(self, other: ReliabilitySums) -> ReliabilitySums:
        """Return the sums of both sets together."""
        return ReliabilitySums(
            self.count + other.count,
            self.predicted + other.predicted,
            self.observed + other.observed,
            self.squares + other.squares,
        )

    def calibration(self) -> Calibration:
        """Return the calibration that follows from the sums."""
        total = max(int(self.count.sum()), 1)
        bins = tuple(
            ReliabilityBin(
                lower=number / BINS,
                upper=(number + 1) / BINS,
                count=count,
                predicted=predicted / count if count else None,
                observed=observed / count if count else None,
            )
            for number, (count, predicted, observed) in enumerate(
                zip(self.count.tolist(), self.predicted.tolist(), self.observed.tolist(), strict=True)
            )
        )
        error = float(np.abs(self.predicted - self.observed).sum()) / total
        return Calibration(bins, error, self.squares / total)


@dataclass(frozen=True)
class Tally:
    """The numbers that are kept of an image.

    Args:
        row: Its scores.
        pixels: (128,) histogram of its probabilities: see `core.scoring.histograms`.
        truth: (128,) histogram over the pixels of the true mask.
        reliability: Calibration sums of its pixels.
    """

    row: ImageRow
    pixels: NDArray[np.int64]
    truth: NDArray[np.int64]
    reliability: ReliabilitySums


def tally(
    name: str,
    probability: NDArray[np.float32],
    mask: NDArray[np.uint8],
    existence: float,
    truth: NDArray[np.uint8],
    existence_probability: float | None = None,
) -> Tally:
    """Compute the numbers to keep of an image.

    Args:
        name: The image's id.
        probability: (H, W) at the original size.
        mask: (H, W) predicted mask in {0, 1}.
        existence: The image's existence score.
        truth: (H, W) true mask in {0, 1}.
        existence_probability: The image's existence probability; None without the existence head.
    """
    pixels, of_truth = histograms_of(probability, truth)
    counts = [np.array(np.count_nonzero(part)) for part in (mask & truth, mask, truth)]
    row = ImageRow(
        id=name,
        dice=float(dice_of_counts(*counts)),
        iou=float(iou_of_counts(*counts)),
        truth_pixels=int(counts[2]),
        predicted_pixels=int(counts[1]),
        existence=existence,
        height=truth.shape[0],
        width=truth.shape[1],
        existence_probability=existence_probability,
        nsd=surface_distance(mask, truth, tolerance_of(*truth.shape)) if truth.any() else None,
    )
    return Tally(row, pixels, of_truth, ReliabilitySums.from_predictions(probability, truth))


@dataclass
class Scorer:
    """Accumulates tallies in any order, and keeps the pictures of example cases.

    Args:
        thresholds: The thresholds of the predicted masks.
        also: Ids of images whose pictures are kept in any case, for comparison with another model.
    """

    thresholds: Thresholds
    also: frozenset[str] = frozenset()
    _tallies: dict[int, Tally] = field(default_factory=dict)
    _reliability: ReliabilitySums = field(default_factory=ReliabilitySums)
    _cases: dict[CaseKind, list[tuple[tuple[float, float, int], PicturedCase]]] = field(
        default_factory=lambda: {kind: [] for kind in CASES}
    )
    _compared: dict[int, PicturedCase] = field(default_factory=dict)

    def add(self, place: int, found: Tally) -> list[CaseKind]:
        """Add an image; return the kinds of case for which its pictures are to be kept.

        Args:
            place: The image's index in the data file.
            found: The image's tally.
        """
        self._reliability = self._reliability + found.reliability
        self._tallies[place] = found
        kinds = [
            kind
            for kind, order in _sort_keys(found.row).items()
            if len(kept := self._cases[kind]) < CASES[kind] or (*order, place) < kept[-1][0]
        ]
        return [*kinds, "for comparison"] if found.row.id in self.also else kinds

    def keep_pictures(self, place: int, kind: CaseKind, sample: Sample, predicted: NDArray[np.uint8]) -> None:
        """Keep the pictures of an image for a kind of case that `add` returned."""
        row = self._tallies[place].row
        if kind == "for comparison":
            self._compared[place] = PicturedCase(kind, row, sample, predicted)
            return
        kept = self._cases[kind]
        kept.append(((*_sort_keys(row)[kind], place), PicturedCase(kind, row, sample, predicted)))
        kept.sort(key=lambda entry: entry[0])
        del kept[CASES[kind] :]

    def histograms(self) -> Histograms:
        """Return the histograms of all images, in the order of the data file."""
        found = self._in_order()
        return Histograms(
            np.stack([one.pixels for one in found]),
            np.stack([one.truth for one in found]),
            _head([one.row for one in found]),
        )

    def evaluation(self, origin: Origin, labels: Labels | None = None) -> Evaluation:
        """Return the record of all images that were added; at least one.

        Args:
            origin: How the evaluation was made.
            labels: Groups of all images of the data file.
        """
        places = sorted(self._tallies)
        of_these = {name: [groups[place] for place in places] for name, groups in (labels or {}).items()}
        rows = tuple(one.row for one in self._in_order())
        existence = np.array([row.existence for row in rows])
        positive = np.array([row.truth_pixels > 0 for row in rows])
        return Evaluation(
            origin=origin,
            summary=summary(rows, self.thresholds),
            image_calibration=ReliabilitySums.from_predictions(existence, positive).calibration(),
            pixel_calibration=self._reliability.calibration(),
            rows=rows,
            surfaces=surfaces(self.histograms(), self.thresholds),
            cases=self._chosen_cases(),
            groups=scores_by_group(rows, of_these, lambda some: summary(some, self.thresholds)),
        )

    def _in_order(self) -> list[Tally]:
        return [self._tallies[place] for place in sorted(self._tallies)]

    def _chosen_cases(self) -> tuple[PicturedCase, ...]:
        """Return the cases, each image once: with few positives an image may be among best and worst."""
        chosen = {kind: [case for _, case in kept] for kind, kept in self._cases.items()}
        worst = {case.row.id for case in chosen["worst positive"]}
        best = [case for case in chosen["best positive"] if case.row.id not in worst]
        own = [*chosen["worst positive"], *chosen["false positive"], *best]
        ids = {case.row.id for case in own}
        compared = [self._compared[place] for place in sorted(self._compared)]
        return (*own, *(case for case in compared if case.row.id not in ids))


def summary(rows: Sequence[ImageRow], thresholds: Thresholds) -> Summary:
    """Return the scores of a set of images."""
    dice = np.array([row.dice for row in rows])
    iou = np.array([row.iou for row in rows])
    positive = np.array([row.truth_pixels > 0 for row in rows])
    scores = summarise(dice, positive)
    head = _head(rows)
    nsd = np.array([row.nsd or 0.0 for row in rows])
    existence = np.array([row.existence for row in rows])
    confusion = Confusion.count(np.array([row.predicted_pixels > 0 for row in rows]), positive)
    return Summary(
        dice=scores.dice,
        dice_all_empty=scores.dice_all_empty,
        dice_positive=scores.dice_positive,
        iou=float(iou.mean()),
        iou_positive=float(iou[positive].mean()) if positive.any() else None,
        auroc=auroc(existence, positive),
        tp=confusion.tp,
        fp=confusion.fp,
        fn=confusion.fn,
        tn=confusion.tn,
        sensitivity=confusion.sensitivity.share,
        specificity=confusion.specificity.share,
        ppv=confusion.ppv.share,
        npv=confusion.npv.share,
        intervals=ScoreIntervals(
            dice=mean_interval(dice),
            dice_positive=mean_interval(dice, positive),
            auroc=auroc_interval(existence, positive),
            auroc_head=None if head is None else auroc_interval(head, positive),
            nsd=mean_interval(nsd, positive),
            sensitivity=confusion.sensitivity.interval,
            specificity=confusion.specificity.interval,
            ppv=confusion.ppv.interval,
            npv=confusion.npv.interval,
        ),
        images=scores.images,
        positives=scores.positives,
        thresholds=thresholds,
        auroc_head=None if head is None else auroc(head, positive),
        nsd=float(nsd[positive].mean()) if positive.any() else None,
    )


def _head(rows: Sequence[ImageRow]) -> NDArray[np.float64] | None:
    """Return the existence probabilities, (n,); None without the existence head."""
    found = [row.existence_probability for row in rows if row.existence_probability is not None]
    return np.array(found) if found and len(found) == len(rows) else None


def _sort_keys(row: ImageRow) -> dict[CaseKind, tuple[float, float]]:
    """Return the kinds of case that an image may be, with its sort key in each; lower keys come first.

    Of positive images with equal Dice the one with the larger true mask comes first.
    """
    if row.truth_pixels:
        return {
            "worst positive": (row.dice, -row.truth_pixels),
            "best positive": (-row.dice, -row.truth_pixels),
        }
    return {"false positive": (-row.existence, -row.predicted_pixels)} if row.predicted_pixels else {}
