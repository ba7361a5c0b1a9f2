"""Warnings about masks that look wrongly encoded: absolute starts, another height, transposed.

`appearance_warnings` examines the masks of a submission together and reports what they make likely. It is
never certain, so these are warnings; each says how many masks support it. One unusual mask among many causes
none.

The checks decode no mask:

- Absolute starts. In the competition's encoding each start counts from the end of the previous run. If
  starts are absolute, each gap exceeds the previous one by at least the length of the previous run.
- Another height. Neighbouring columns of a mask are similar, so the starts of its runs are about one image
  height apart. The most common distance of starts, over all masks, is the height at encoding. A mask counts
  as evidence if more of its pixels have a neighbour at that distance than at the height of its image.
- Transposed, images that are not square. The distance of the runs is then the image's width; the test is
  the same.
- Transposed, square images. The result is a mirror image, as smooth as before, but a pneumothorax usually
  lies under the apex and along the side. `orientation` evaluates the position of a mask. Its weights were
  fitted to the competition's 2,669 masks and their transposes. It is right for 86 % of the masks that it was
  not fitted to, so a few masks are needed: 72 % of the sets of five transposed masks and 99 % of the sets of
  twenty are noticed; 0.04 % of the sets of five right masks cause a false alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.annotations import rle

_LEAST_RUNS = 8  # runs of a mask from which its height can be estimated
_LEAST_PERIOD, _GREATEST_PERIOD = 16, 1 << 16  # pixels
_NEIGHBOURS = 3  # distances to the next 3 runs are counted, because a column may have several runs
_BLUR = 2  # pixels; most outlines move no further from one column to the next
_LEAST_DIFFERENCE = 16  # pixels; a smaller difference of heights looks the same as a steep outline
_LEAST_RUNS_TO_GROW = 4  # runs; in fewer, growing gaps may be chance

_LARGEST_SHARE = 0.2  # of the image; 99 % of the competition's masks cover less than 0.08
_CLIP = 3.0  # largest absolute log odds of one mask
_LEAST_SUM, _LEAST_MEAN = 6.0, 0.75  # log odds for transposed masks that cause a warning


class EncodedMask(NamedTuple):
    """A mask that is not empty: its runs (`rle.runs`), and its image's size in pixels."""

    runs: NDArray[np.int64]
    height: int
    width: int


def appearance_warnings(masks: Sequence[EncodedMask]) -> list[str]:
    """Return the warnings about the masks, one line each; empty if the masks look right.

    Args:
        masks: Masks that are not empty; a few hundred are as good as all.
    """
    found = [_absolute_starts_warning(masks)]
    if not any(found):
        found = [_transposed_warning(masks) or _height_warning(masks)]
    if not any(found):
        found = [_orientation_warning(masks)]
    return [warning for warning in found if warning]


def _absolute_starts_warning(masks: Sequence[EncodedMask]) -> str:
    usable = [mask for mask in masks if len(mask.runs) >= _LEAST_RUNS_TO_GROW]
    count = sum(_starts_grow(mask.runs) for mask in usable)
    if 2 * count <= len(usable):
        return ""
    return (
        f"in {count} of {len(usable)} masks every start is beyond the run before even as it stands: "
        "are they absolute? Here each counts from the end of the run before"
    )


def _starts_grow(runs: NDArray[np.int64]) -> bool:
    gaps = runs[:, 0] - np.append(0, runs[:-1, 1])
    lengths = runs[:, 1] - runs[:, 0]
    return bool((gaps[1:] >= gaps[:-1] + lengths[:-1]).all())


def _transposed_warning(masks: Sequence[EncodedMask]) -> str:
    """Return the warning that the runs repeat after the width, from the images that are not square."""
    oblong = [mask for mask in masks if _has_enough_runs(mask) and _clearly_differ(mask.height, mask.width)]
    count = sum(_fits_better(mask, mask.width) for mask in oblong)
    if 2 * count <= len(oblong):
        return ""
    return (
        f"the masks look transposed: in {count} of {len(oblong)} of images that are not square, the runs "
        "repeat after the image's width, not its height. The encoding goes down the columns"
    )


def _height_warning(masks: Sequence[EncodedMask]) -> str:
    usable = [mask for mask in masks if _has_enough_runs(mask)]
    period = _period(usable)
    count = sum(_clearly_differ(mask.height, period) and _fits_better(mask, period) for mask in usable)
    if period == 0 or 2 * count <= len(usable):
        return ""
    heights = sorted({mask.height for mask in usable})
    wanted = f"{heights[0]}" if len(heights) == 1 else f"{heights[0]} to {heights[-1]}"
    return (
        f"the masks look encoded at a height of about {period} pixels, not {wanted}: that is after how many "
        f"pixels the runs of {count} of {len(usable)} masks repeat. Resize masks before encoding them"
    )


def _has_enough_runs(mask: EncodedMask) -> bool:
    return len(mask.runs) >= _LEAST_RUNS


def _clearly_differ(one: int, other: int) -> bool:
    return abs(one - other) >= _LEAST_DIFFERENCE


def _fits_better(mask: EncodedMask, period: int) -> bool:
    """Return whether more pixels have a neighbour in the next column if columns are `period` high."""
    return rle.overlap(mask.runs, mask.runs + period) > rle.overlap(mask.runs, mask.runs + mask.height)


def _period(masks: Sequence[EncodedMask]) -> int:
    """Return the most common distance of neighbouring runs of one mask, in pixels; 0 if there is none."""
    votes = np.zeros(_GREATEST_PERIOD + 1)
    for mask in masks:
        edges = [mask.runs[step:] - mask.runs[:-step] for step in range(1, _NEIGHBOURS + 1)]
        distances = np.concatenate([edge.ravel() for edge in edges])
        distances = distances[(distances >= _LEAST_PERIOD) & (distances <= _GREATEST_PERIOD)]
        votes += np.bincount(distances, minlength=len(votes)) / max(len(distances), 1)
    if not votes.any():
        return 0
    around = int(np.convolve(votes, np.ones(2 * _BLUR + 1), mode="same").argmax())
    near = range(max(around - _BLUR, 1), around + _BLUR + 1)
    return max(near, key=lambda period: sum(rle.overlap(mask.runs, mask.runs + period) for mask in masks))


def _orientation_warning(masks: Sequence[EncodedMask]) -> str:
    log_odds = np.array(
        [
            orientation(mask)
            for mask in masks
            if rle.area(mask.runs) <= _LARGEST_SHARE * mask.height * mask.width
        ]
    )
    if not len(log_odds):
        return ""
    evidence = np.clip(log_odds, -_CLIP, _CLIP)
    if evidence.sum() > -_LEAST_SUM or evidence.mean() > -_LEAST_MEAN:
        return ""
    return (
        f"the masks look transposed: {int((log_odds < 0).sum())} of {len(log_odds)} lie where a pneumothorax "
        "is more often found after exchanging rows and columns. The encoding goes down the columns"
    )


def orientation(mask: EncodedMask) -> float:
    """Compute the log odds that a mask, and not its transpose, is that of a pneumothorax.

    Args:
        mask: A mask of an upright frontal radiograph.

    Returns:
        The log odds from a logistic model of the mask's position and extent. The transpose of the mask (and
        of its image's size) gives the negative of this value.
    """
    x, top, bottom = _segments(mask)
    length = bottom - top
    area = length.sum()
    cx, cy = ((x + 0.5) * length).sum() / area, ((top + bottom) / 2 * length).sum() / area
    variance_x = ((x + 0.5 - cx) ** 2 * length).sum() / area + 1 / 12  # a pixel is a square, not a point
    variance_y = ((bottom - cy) ** 3 - (top - cy) ** 3).sum() / (3 * area)
    height, width = mask.height, mask.width
    return float(
        9.82 * (x.min() / width - top.min() / height)
        - 10.86 * ((x.max() + 1) / width - bottom.max() / height)
        + 4.10 * (cx / width - cy / height)
        - 13.59 * ((cx / width - 0.5) ** 2 - (cy / height - 0.5) ** 2)
        - 1.22 * (0.5 * math.log(variance_y / variance_x) - math.log(height / width))
    )


def _segments(mask: EncodedMask) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Split the runs at columns; return column, first row, and row after the last, of each piece."""
    starts, ends = mask.runs[:, 0], mask.runs[:, 1]
    first, last = starts // mask.height, (ends - 1) // mask.height
    pieces = last - first + 1
    run = np.repeat(np.arange(len(starts)), pieces)
    x = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    top = np.maximum(starts[run] - x * mask.height, 0)
    bottom = np.minimum(ends[run] - x * mask.height, mask.height)
    return x, top, bottom
