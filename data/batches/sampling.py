"""Which images an epoch visits, and in which order: shuffled, or with a set share of positives.

Promises: the order of an epoch depends on the labels, the batch size, the settings, the seed and the
epoch's number alone, so that an epoch can be entered in its middle and a resumed run sees what an
uninterrupted one sees. An epoch has as many images as the training set.

With a share s of positives, of the first n images of an epoch floor(s * n + 1/2) are positive: each batch
has its share, what a batch cannot have of a fraction is carried over to the next one (error diffusion),
and the epoch's share is right to half an image. Each class is dealt like a pack of cards that is
shuffled anew whenever all were dealt, and goes on where the epoch before has stopped: no image comes
for the n-th time before every other one of its class came n - 1 times. Within a batch the two classes
are mixed.

The share moves from `positives` in the first epoch to `final` in epoch `over_epochs` by equal steps and
stays there. The first-placed solution of SIIM-ACR (A. Aimoldin, 2019, "sliding sample rate") lowers it
from 0.8 to 0.4, for a quick start and an end near the data's own share, which is 0.22.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.base.errors import UserError
from core.base.randomness import permutation, words


@dataclass(frozen=True)
class Sampling:
    """Share of positives in each batch, from 0 to 1.

    Args:
        positives: In the first epoch.
        final: From epoch `over_epochs` on.
        over_epochs: At least 1; where it is 1, `positives` holds for the first epoch alone.
    """

    positives: float
    final: float
    over_epochs: int

    def share(self, epoch: int) -> float:
        """Of epoch number `epoch`, from 1; an epoch 0 is as the first."""
        done = min(max(epoch - 1, 0) / max(self.over_epochs - 1, 1), 1.0)
        return self.positives + (self.final - self.positives) * done


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """All images once: an order of 0 … count-1."""
    return permutation(seed, "order", epoch, count=count)


def sampled(
    positive: NDArray[np.bool_], batch_size: int, sampling: Sampling, seed: int, epoch: int
) -> NDArray[np.int64]:
    """An epoch with the share of positives asked for.

    Args:
        positive: (n,) of the training images.
        batch_size: Images in each batch but the last.
        sampling: The shares.
        seed: Key of the dealing.
        epoch: Its number, from 1.

    Returns:
        (n,) int64, numbers of images from 0 to n - 1; some may come twice and some not at all.
    """
    positive = np.asarray(positive, dtype=bool)
    count = len(positive)
    is_positive = np.diff(_first_positives(sampling.share(epoch), np.arange(count + 1))).astype(bool)
    # Mixed within each batch: sorted by batch, then by lot.
    lots = words(seed, "mix", epoch, count=count)
    is_positive = is_positive[np.lexsort((lots, np.arange(count) // batch_size))]
    order = np.empty(count, dtype=np.int64)
    dealt_before = sum(int(_first_positives(sampling.share(e), count)) for e in range(1, epoch))
    for label in (True, False):
        places = np.flatnonzero(is_positive == label)
        begin = dealt_before if label else max(epoch - 1, 0) * count - dealt_before
        order[places] = _deal(np.flatnonzero(positive == label), begin, len(places), seed, str(label))
    return order


def check_classes(positive: NDArray[np.bool_], sampling: Sampling) -> None:
    """Refuse shares that need images of a class that has none.

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
    """How many of the first `images` of an epoch are positive."""
    return np.asarray(np.floor(share * np.asarray(images) + 0.5), dtype=np.int64)


def _deal(members: NDArray[np.int64], begin: int, count: int, seed: int, label: str) -> NDArray[np.int64]:
    """`count` of the endless row of shuffled `members`, from place `begin`."""
    if count == 0:
        return np.empty(0, dtype=np.int64)
    first, last = begin // len(members), (begin + count - 1) // len(members)
    dealt = np.empty((last - first + 1, len(members)), dtype=np.int64)
    for row in range(len(dealt)):
        dealt[row] = members[permutation(seed, "deal", label, first + row, count=len(members))]
    begin -= first * len(members)
    return dealt.ravel()[begin : begin + count]
