"""Scores of groups of images: by the size of the pneumothorax, and by anything else that is known of them.

A group says more than the whole only if it is large enough, so groups of few images are marked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from core.scoring.evaluation_record import GroupScores, ImageRow, Summary

FEW = 10
"""A group with fewer positive images, or with fewer negative ones, is marked as small, if it has any."""

UNKNOWN = "unknown"
"""Name of the group of the images of which nothing is known."""

SIZE = "size of the pneumothorax"
"""Name of the division of the positive images by the share of the image that the true mask takes."""

_SIZES = ((0.003, "below 0.3 %"), (0.01, "0.3 to 1 %"), (0.03, "1 to 3 %"), (1.0, "3 % and more"))
_AGES = ((18, "0 to 17"), (40, "18 to 39"), (60, "40 to 59"), (80, "60 to 79"), (1000, "80 and more"))
_ORDER = [name for _, name in (*_SIZES, *_AGES)]

Labels = Mapping[str, Sequence[str]]
"""For each division ("view") the group of each image ("PA"); "" where it is not known."""


def age_group(years: float) -> str:
    """Return the group of an age; "" for a negative one, which means unknown."""
    return "" if years < 0 else next(name for limit, name in _AGES if years < limit)


def size_group(row: ImageRow) -> str:
    """Return the group of an image by the size of its true mask; "" if that is empty."""
    share = row.truth_pixels / (row.height * row.width)
    return "" if share == 0 else next(name for limit, name in _SIZES if share < limit or limit == 1)


def scores_by_group(
    rows: Sequence[ImageRow],
    labels: Labels,
    summarise: Callable[[Sequence[ImageRow]], Summary],
) -> tuple[GroupScores, ...]:
    """Return the scores of every group, division by division.

    Args:
        rows: The scores of each image.
        labels: The divisions, in the order of the rows. One of which nothing is known gives no groups.
        summarise: Returns the scores of some images.

    Returns:
        In each division the groups in their order, those of unknown images last; then the positive images by
        size.
    """
    sizes = [size_group(row) for row in rows]
    found = []
    for division, names in (*labels.items(), (SIZE, sizes)):
        if not any(names):
            continue
        members: dict[str, list[ImageRow]] = {}
        for row, name in zip(rows, names, strict=True):
            if name or division != SIZE:
                members.setdefault(name or UNKNOWN, []).append(row)
        for name in sorted(members, key=_place):
            scores = summarise(members[name])
            kinds = scores.positives, scores.images - scores.positives
            small = any(0 < count < FEW for count in kinds)
            found.append(GroupScores(division, name, small, scores))
    return tuple(found)


def _place(name: str) -> tuple[int, int, str]:
    """Return the sort key of a group's name."""
    return int(name == UNKNOWN), _ORDER.index(name) if name in _ORDER else 0, name
