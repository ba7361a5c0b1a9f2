"""Convolutions as products of unfolded windows: the same sums, on a CPU sooner than by some other kernels.

A window of a convolution is the part of the image under its kernel. Unfolded, windows are the rows of a
matrix ("im2col"; Chellapilla et al., "High Performance Convolutional Neural Networks for Document
Processing", 2006, section 3), and the kernel's gradient is one product. Folding adds windows up where they
overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from backends.tf.framework import Tensor, tf
from core.backend.kernel_switches import Switch
from core.network.plan import Pads

FLOATS = Switch("windows are unfolded in parts", "floats of unfolded windows", 2**18)
"""About so many at once of each image of a batch, which takes little memory."""


@dataclass(frozen=True)
class Windows:
    """Where the windows lie: those of a convolution, or those that its adjoint makes.

    Attributes:
        image: Height and width of what they lie in.
        count: Their number, down and across.
        taps: Height and width of each.
        stride: From one to the next, in pixels.
        pads: (begin, end) along each axis; what lies in them is 0.
    """

    image: tuple[int, int]
    count: tuple[int, int]
    taps: tuple[int, int]
    stride: int
    pads: tuple[Pads, Pads]

    @property
    def are_pixels(self) -> bool:
        """Whether each is a pixel, and none is missing."""
        return self.taps == (1, 1) and self.stride == 1 and self.count == self.image

    @property
    def pixels(self) -> NDArray[np.int32]:
        """The pixel of each tap of each window, row after row, -1 beyond the image: (windows, taps)."""
        rows, columns = (
            np.arange(count)[:, np.newaxis] * self.stride + np.arange(taps) - begin
            for count, taps, (begin, _) in zip(self.count, self.taps, self.pads, strict=True)
        )
        height, width = self.image
        rows, columns = rows[:, np.newaxis, :, np.newaxis], columns[np.newaxis, :, np.newaxis, :]
        beyond = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        pixels = np.where(beyond, -1, rows * width + columns)
        return pixels.reshape(math.prod(self.count), math.prod(self.taps)).astype(np.int32)


def kernel_gradient(windows: Windows, image: Tensor, dy: Tensor) -> Tensor:
    """Of a convolution's kernel: the windows of `image` times `dy`, the gradient of the result.

    With the gradient as the image and the input as `dy`, it is that of a transposed convolution's kernel.

    Args:
        windows: Of the convolution.
        image: (N, H, W, C).
        dy: (N, down, across, filters).

    Returns:
        (taps down, taps across, C, filters).
    """
    channels, filters = image.shape[-1], dy.shape[-1]
    images, results = _lists_of_pixels(image), _lists_of_pixels(dy)
    if windows.are_pixels:  # the sum of each image by itself keeps more digits
        products = tf.matmul(images, results, transpose_a=True)
        return tf.reshape(tf.reduce_sum(products, axis=0), [1, 1, channels, filters])
    pixels = windows.pixels
    whole = (pixels >= 0).all(axis=1)
    within, across = np.flatnonzero(whole), np.flatnonzero(~whole)
    size = pixels.shape[1] * channels
    sums: list[Tensor] = []
    for chosen in [*np.array_split(within, FLOATS.part_count(within.size * size)), across]:
        if not chosen.size:
            continue
        with tf.control_dependencies(sums[-1:]):  # one after the other, in the same memory
            unfolded = tf.gather(images, np.maximum(pixels[chosen], 0).reshape(-1), axis=1)
            wanted = tf.gather(results, chosen, axis=1)
        if chosen is across:
            unfolded *= tf.constant((pixels[chosen] >= 0).reshape(-1, 1), unfolded.dtype)
        unfolded, wanted = tf.reshape(unfolded, [-1, size]), tf.reshape(wanted, [-1, filters])
        sums.append(tf.matmul(unfolded, wanted, transpose_a=True))
    return tf.reshape(tf.add_n(sums), [*windows.taps, channels, filters])


def fold_to_one_channel(windows: Windows, x: Tensor, kernel: Tensor) -> Tensor:
    """Transposed convolution to one channel: every pixel makes a window, and these are folded.

    Args:
        windows: Those it makes; `windows.image` is `windows.count` times the stride.
        x: (N, down, across, C).
        kernel: (taps down, taps across, 1, C).

    Returns:
        (N, *windows.image, 1).
    """
    kernel = tf.reshape(kernel, [-1, kernel.shape[-1]])
    made = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel, transpose_b=True)
    return _folded(windows, tf.reshape(made, [-1, *windows.count, *windows.taps]))


def kernel_gradient_of_one_channel(windows: Windows, image: Tensor, dy: Tensor) -> Tensor:
    """`kernel_gradient` for an image of one channel, whose windows are unfolded in one pass, compiled by XLA.

    oneDNN's kernel adds one by one what nearly cancels: over a batch of radiographs it is off by 1e-4.
    """
    height, width, filters = dy.shape[1:]
    unfold = tf.function(partial(_unfold, windows), jit_compile=True)
    products = tf.matmul(unfold(image[..., 0]), tf.reshape(dy, [-1, height * width, filters]))
    return tf.reshape(tf.reduce_sum(products, axis=0), [*windows.taps, 1, filters])


def _lists_of_pixels(images: Tensor) -> Tensor:
    """(N, H, W, C) to (N, H * W, C)."""
    return tf.reshape(images, [-1, images.shape[1] * images.shape[2], images.shape[3]])


def _folded(windows: Windows, made: Tensor) -> Tensor:
    """The sum of the windows, (N, down, across, taps down, taps across), where they lie: (N, H, W, 1).

    To every `stride`-th row and column a tap adds everywhere or nowhere. XLA makes one pass of it all.
    """
    fold = tf.function(partial(_fold, windows), jit_compile=True)
    return fold(made)


def _fold(windows: Windows, made: Tensor) -> Tensor:
    """`_folded`, row by row and column by column of those between which the stride lies."""
    rows = []
    for row in range(windows.stride):
        columns = []
        for column in range(windows.stride):
            adding = product(_adding(windows, 0, row), _adding(windows, 1, column))
            columns.append(tf.add_n([_shifted(made[..., a, b], i, j) for (a, i), (b, j) in adding]))
        rows.append(tf.stack(columns, axis=-1))
    return tf.reshape(tf.stack(rows, axis=2), [-1, *windows.image, 1])


def _unfold(windows: Windows, image: Tensor) -> Tensor:
    """(N, H, W) to (N, taps, windows): what each tap of each window meets."""
    ends = [
        (begin, max((count - 1) * windows.stride + taps - begin - length, 0))
        for length, count, taps, (begin, _) in zip(
            windows.image, windows.count, windows.taps, windows.pads, strict=True
        )
    ]
    padded = tf.pad(image, [[0, 0], *ends])
    last_down, last_across = ((count - 1) * windows.stride + 1 for count in windows.count)
    met = [
        padded[:, down : down + last_down : windows.stride, across : across + last_across : windows.stride]
        for down, across in product(*map(range, windows.taps))
    ]
    return tf.reshape(tf.stack(met, axis=1), [-1, len(met), math.prod(windows.count)])


def _adding(windows: Windows, axis: int, phase: int) -> list[tuple[int, int]]:
    """The taps that add to pixel `stride * n + phase`, and how far from the n-th their windows are."""
    begin, stride = windows.pads[axis][0], windows.stride
    distances = [(tap, phase + begin - tap) for tap in range(windows.taps[axis])]
    reached = [(tap, far // stride) for tap, far in distances if far % stride == 0]
    return [(tap, by) for tap, by in reached if abs(by) < windows.count[axis]]


def _shifted(x: Tensor, down: int, across: int) -> Tensor:
    """(N, H, W), of which [n, i, j] is `x[n, i + down, j + across]`, or 0 beyond."""
    shifts = (down, across)
    lengths = (int(length) for length in x.shape[1:])
    inner = (slice(max(by, 0), length + min(by, 0)) for by, length in zip(shifts, lengths, strict=True))
    window = (slice(None), *inner)
    return tf.pad(x[window], [[0, 0], *([max(-by, 0), max(by, 0)] for by in shifts)])
