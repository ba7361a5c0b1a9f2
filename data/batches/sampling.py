"""The images of an epoch and their order: shuffled, or with a set share of positives.

The order depends only on the labels, the batch size, the settings, the seed and the epoch's number. So an
epoch can start in its middle, and a resumed run gets the same images as an uninterrupted one. An epoch has
as many images as the training set.

With a share s of positives, floor(s * n + 1/2) of the first n images of an epoch are positive. Each batch
thus has its share; a remaining fraction is carried over to the next batch (error diffusion), and the share of
the epoch is exact to half an image. Each class is shuffled and used up before it is shuffled again, across
epochs: no image occurs for the n-th time before all others of its class have occurred n - 1 times. Within a
batch the two classes are mixed.

The share changes in equal steps from `positives` in the first epoch to `final` in epoch `over_epochs`, then
stays. The winning solution of SIIM-ACR (A. Aimoldin, 2019, "sliding sample rate") lowers it from 0.8 to 0.4:
training starts fast and ends near the share in the data, 0.22.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.randomness import permutation, words


@dataclass(frozen=True)
class SamplingSchedule:
    """The share of positives in each batch, from 0 to 1, over the epochs.

    Args:
        positives: Share in the first epoch.
        final: Share from epoch `over_epochs` on.
        over_epochs: At least 1. If it is 1, `positives` holds only for the first epoch.
    """

    positives: float
    final: float
    over_epochs: int

    def share(self, epoch: int) -> float:
        """Return the share in an epoch, counted from 1; epoch 0 has the share of epoch 1."""
        done = min(max(epoch - 1, 0) / max(self.over_epochs - 1, 1), 1.0)
        return self.positives + (self.final - self.positives) * done


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a random order of 0 … count-1."""
    return permutation(seed, "order", epoch, count=count)


def sampled(
    positive: NDArray[np.bool_], batch_size: int, sampling: SamplingSchedule, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Return the images of an epoch with a given share of positives.

    Args:
        positive: (n,) bool, whether each training image is positive.
        batch_size: Images in each batch but the last.
        sampling: The shares.
        seed: Seed of the shuffling.
        epoch: Number of the epoch, from 1.

    Returns:
        (n,) int64, indices of images from 0 to n - 1; some may occur twice and some not at all.
    """
    positive = np.asarray(positive, dtype=bool)
    count = len(positive)
    is_positive = np.diff(_first_positives(sampling.share(epoch), np.arange(count + 1))).astype(bool)
    # Mix within each batch: sort by batch, then by a random number.
    random_numbers = words(seed, "mix", epoch, count=count)
    is_positive = is_positive[np.lexsort((random_numbers, np.arange(count) // batch_size))]
    order = np.empty(count, dtype=np.int64)
    used_before = sum(int(_first_positives(sampling.share(e), count)) for e in range(1, epoch))
    for label in (True, False):
        places = np.flatnonzero(is_positive == label)
        begin = used_before if label else max(epoch - 1, 0) * count - used_before
        order[places] = _from_shuffled(
            np.flatnonzero(positive == label), begin, len(places), seed, str(label)
        )
    return order


def check_classes(positive: NDArray[np.bool_], sampling: SamplingSchedule) -> None:
    """Check that there are images of each class that the shares need.

    Raises:
        UserError: The training images are all positive, or all negative.
    """
    positives = int(np.count_nonzero(positive))
    shares = (sampling.positives, sampling.final)
    wanted = {"positive": max(shares) > 0, "negative": min(shares) < 1}
    there = {"positive": positives, "negative": len(positive) - positives}
    for name, count in there.items():
        if wanted[name] and not count:
            raise UserError(
                f"training.sampling asks for {shares[0]:g} to {shares[1]:g} positives a batch, but none of "
                f"the {len(positive)} training images is {name}",
                "Leave training.sampling out, or train on data that hold both.",
            )


def _first_positives(share: float, images: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Return how many of the first `images` of an epoch are positive."""
    return np.asarray(np.floor(share * np.asarray(images) + 0.5), dtype=np.int64)


def _from_shuffled(
    members: NDArray[np.int64], begin: int, count: int, seed: int, label: str
) -> NDArray[np.int64]:
    """Return `count` items, from place `begin`, of an endless sequence of shuffled copies of `members`."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    first, last = begin // len(members), (begin + count - 1) // len(members)
    shuffles = np.empty((last - first + 1, len(members)), dtype=np.int64)
    for row in range(len(shuffles)):
        shuffles[row] = members[permutation(seed, "deal", label, first + row, count=len(members))]
    begin -= first * len(members)
    return shuffles.ravel()[begin : begin + count]
