"""What a set of masks looks like: encoded the right way round, at the right size?

Promises: `remarks` names what the masks of a submission, taken together, make likely: that starts of
runs are absolute, that the masks were encoded at another height, that they are transposed. Nothing of
that is certain, so these are warnings; the evidence is counted and said. One strange mask raises none
of them where there are others.

How each is seen, without decoding a mask:

- absolute starts. In the competition's encoding each start counts from the end of the run before.
  Read as such, absolute starts are gaps that grow by at least the run before, run after run.
- another height. Neighbouring columns of a mask are alike, so its runs begin about as far apart as the
  image is high. The commonest distance of starts, over all masks, is what they were encoded with. A
  mask speaks for it where more of its pixels have a neighbour at that distance than at its image's height.
- transposed. Written row by row, a mask of an image that is not square repeats after its width: the
  same test. The mask of a square image becomes its mirror image instead, as smooth as before; but a
  pneumothorax lies under the apex and along the side, and that is no longer so. `orientation` weighs
  where a mask lies. Its weights were fitted to the competition's 2,669 masks against their transposes;
  of masks that it was not fitted to, it judges 86 % right, so it takes a handful: of five transposed
  masks 72 % are noticed, of twenty 99 %; five right ones raise a false alarm in 0.04 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.annotations import rle

_LEAST_RUNS = 8  # of a mask that can speak of its height
_LEAST_PERIOD, _GREATEST_PERIOD = 16, 1 << 16
_NEIGHBOURS = 3  # runs on: a column may have several
_BLUR = 2  # pixels by which most outlines move from a column to the next, at most
_SLANT = 16  # heights that differ by fewer pixels cannot be told from an outline as steep as that
_LEAST_ABSOLUTE = 4  # runs that must grow, so that it is no accident

_MOST_COVERED = 0.2  # share of the image; 99 % of the competition's masks cover less than 0.08
_CLIP = 3.0
_SURE, _TYPICAL = 6.0, 0.75  # of the sum, and of the mean, of what transposed masks give


class Mask(NamedTuple):
    """A mask that sets a pixel: its runs (`rle.runs`), and its image's size in pixels."""

    runs: NDArray[np.int64]
    height: int
    width: int


def remarks(masks: Sequence[Mask]) -> list[str]:
    """What the masks make likely, one line each; none if they look as they should.

    Args:
        masks: At least one pixel is set in each; a few hundred say as much as all.
    """
    found = [_absolute(masks)]
    if not any(found):
        found = [_row_by_row(masks) or _other_height(masks)]
    if not any(found):
        found = [_mirrored(masks)]
    return [remark for remark in found if remark]


def _absolute(masks: Sequence[Mask]) -> str:
    telling = [mask for mask in masks if len(mask.runs) >= _LEAST_ABSOLUTE]
    count = sum(_grows(mask.runs) for mask in telling)
    if 2 * count <= len(telling):
        return ""
    return (
        f"in {count} of {len(telling)} masks every start is beyond the run before even as it stands: "
        "are they absolute? Here each counts from the end of the run before"
    )


def _grows(runs: NDArray[np.int64]) -> bool:
    gaps = runs[:, 0] - np.append(0, runs[:-1, 1])
    lengths = runs[:, 1] - runs[:, 0]
    return bool((gaps[1:] >= gaps[:-1] + lengths[:-1]).all())


def _row_by_row(masks: Sequence[Mask]) -> str:
    """Masks of images that are not square and whose runs repeat after the width."""
    oblong = [mask for mask in masks if _speaks(mask) and _differ(mask.height, mask.width)]
    count = sum(_prefers(mask, mask.width) for mask in oblong)
    if 2 * count <= len(oblong):
        return ""
    return (
        f"the masks look transposed: in {count} of {len(oblong)} of images that are not square, the runs "
        "repeat after the image's width, not its height. The encoding goes down the columns"
    )


def _other_height(masks: Sequence[Mask]) -> str:
    telling = [mask for mask in masks if _speaks(mask)]
    period = _period(telling)
    count = sum(_differ(mask.height, period) and _prefers(mask, period) for mask in telling)
    if period == 0 or 2 * count <= len(telling):
        return ""
    heights = sorted({mask.height for mask in telling})
    wanted = f"{heights[0]}" if len(heights) == 1 else f"{heights[0]} to {heights[-1]}"
    return (
        f"the masks look encoded at a height of about {period} pixels, not {wanted}: that is after how many "
        f"pixels the runs of {count} of {len(telling)} masks repeat. Resize masks before encoding them"
    )


def _speaks(mask: Mask) -> bool:
    return len(mask.runs) >= _LEAST_RUNS


def _differ(one: int, other: int) -> bool:
    return abs(one - other) >= _SLANT


def _prefers(mask: Mask, period: int) -> bool:
    """Whether more pixels have a neighbour in the next column if columns are `period` high."""
    return rle.overlap(mask.runs, mask.runs + period) > rle.overlap(mask.runs, mask.runs + mask.height)


def _period(masks: Sequence[Mask]) -> int:
    """The commonest distance of two runs that are neighbours in their masks; 0 if there is none."""
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


def _mirrored(masks: Sequence[Mask]) -> str:
    judged = np.array(
        [
            orientation(mask)
            for mask in masks
            if rle.area(mask.runs) <= _MOST_COVERED * mask.height * mask.width
        ]
    )
    if not len(judged):
        return ""
    evidence = np.clip(judged, -_CLIP, _CLIP)
    if evidence.sum() > -_SURE or evidence.mean() > -_TYPICAL:
        return ""
    return (
        f"the masks look transposed: {int((judged < 0).sum())} of {len(judged)} lie where a pneumothorax is "
        "more often found after exchanging rows and columns. The encoding goes down the columns"
    )


def orientation(mask: Mask) -> float:
    """How much more a mask looks like a pneumothorax than its transpose does.

    Args:
        mask: Of a frontal radiograph, upright.

    Returns:
        The logarithm of the odds, by a logistic model of where the mask lies and how it extends. The
        transpose of the mask (and of its image's size) gives the same with the other sign.
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


def _segments(mask: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Column, first row and the row after the last of each piece of a run that lies in one column."""
    starts, ends = mask.runs[:, 0], mask.runs[:, 1]
    first, last = starts // mask.height, (ends - 1) // mask.height
    pieces = last - first + 1
    run = np.repeat(np.arange(len(starts)), pieces)
    x = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    top = np.maximum(starts[run] - x * mask.height, 0)
    bottom = np.minimum(ends[run] - x * mask.height, mask.height)
    return x, top, bottom
