"""Convolutions as products of unfolded windows: on a CPU faster than by some other kernels.

A window of a convolution is the part of the image under its kernel. Unfolded, windows are the rows of a
matrix ("im2col"; Chellapilla et al., "High Performance Convolutional Neural Networks for Document
Processing", 2006, section 3), and the kernel's gradient is one product. Folding ("col2im") adds windows up
where they overlap.
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

PART_FLOATS = Switch("windows are unfolded in parts", "floats of unfolded windows", 2**18)
"""About this number is unfolded at once of each image of a batch, to take little memory."""


@dataclass(frozen=True)
class Windows:
    """The positions of the windows of a convolution, or of those that its adjoint makes.

    Attributes:
        image: Height and width of the image that they lie in.
        count: Their number, down and across.
        taps: Height and width of each.
        stride: From one to the next, in pixels.
        pads: (begin, end) along each axis; pixels in them are 0.
    """

    image: tuple[int, int]
    count: tuple[int, int]
    taps: tuple[int, int]
    stride: int
    pads: tuple[Pads, Pads]

    @property
    def are_pixels(self) -> bool:
        """Whether the windows are exactly the pixels of the image."""
        return self.taps == (1, 1) and self.stride == 1 and self.count == self.image

    @property
    def pixels(self) -> NDArray[np.int32]:
        """The index of the pixel under each tap of each window, -1 outside of the image: (windows, taps)."""
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
    """Return the gradient of a convolution's kernel: windows of `image` times `dy`, the result's gradient.

    For a transposed convolution, pass the result's gradient as `image` and the input as `dy`.

    Args:
        windows: Those of the convolution.
        image: (N, H, W, C).
        dy: (N, down, across, filters).

    Returns:
        (taps down, taps across, C, filters).
    """
    channels, filters = image.shape[-1], dy.shape[-1]
    images, results = _flat_pixels(image), _flat_pixels(dy)
    if windows.are_pixels:  # a sum for each image keeps more digits
        products = tf.matmul(images, results, transpose_a=True)
        return tf.reshape(tf.reduce_sum(products, axis=0), [1, 1, channels, filters])
    pixels = windows.pixels
    is_inside = (pixels >= 0).all(axis=1)
    inside, across_border = np.flatnonzero(is_inside), np.flatnonzero(~is_inside)
    size = pixels.shape[1] * channels
    sums: list[Tensor] = []
    for chosen in [*np.array_split(inside, PART_FLOATS.part_count(inside.size * size)), across_border]:
        if not chosen.size:
            continue
        with tf.control_dependencies(sums[-1:]):  # one after the other, in the same memory
            unfolded = tf.gather(images, np.maximum(pixels[chosen], 0).reshape(-1), axis=1)
            gradients = tf.gather(results, chosen, axis=1)
        if chosen is across_border:
            unfolded *= tf.constant((pixels[chosen] >= 0).reshape(-1, 1), unfolded.dtype)
        unfolded, gradients = tf.reshape(unfolded, [-1, size]), tf.reshape(gradients, [-1, filters])
        sums.append(tf.matmul(unfolded, gradients, transpose_a=True))
    return tf.reshape(tf.add_n(sums), [*windows.taps, channels, filters])


def fold_to_one_channel(windows: Windows, x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve transposed to one channel: every pixel makes a window, and the windows are folded.

    Args:
        windows: Those that pixels make; `windows.image` is `windows.count` times the stride.
        x: (N, down, across, C).
        kernel: (taps down, taps across, 1, C).

    Returns:
        (N, *windows.image, 1).
    """
    kernel = tf.reshape(kernel, [-1, kernel.shape[-1]])
    made = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel, transpose_b=True)
    fold = tf.function(partial(_fold, windows), jit_compile=True)  # XLA makes one pass of it
    return fold(tf.reshape(made, [-1, *windows.count, *windows.taps]))


def kernel_gradient_of_one_channel(windows: Windows, image: Tensor, dy: Tensor) -> Tensor:
    """Return `kernel_gradient` for an image of one channel.

    XLA compiles the unfolding to one pass. oneDNN's kernel adds one by one what nearly cancels: over a batch
    of radiographs it is off by 1e-4.
    """
    height, width, filters = dy.shape[1:]
    unfold = tf.function(partial(_unfold, windows), jit_compile=True)
    products = tf.matmul(unfold(image[..., 0]), tf.reshape(dy, [-1, height * width, filters]))
    return tf.reshape(tf.reduce_sum(products, axis=0), [*windows.taps, 1, filters])


def _flat_pixels(images: Tensor) -> Tensor:
    """Reshape (N, H, W, C) to (N, H * W, C)."""
    return tf.reshape(images, [-1, images.shape[1] * images.shape[2], images.shape[3]])


def _fold(windows: Windows, made: Tensor) -> Tensor:
    """Add up windows where they overlap (col2im), one phase (row % stride, column % stride) after the other.

    A tap adds to all pixels of a phase or to none.

    Args:
        windows: Their positions.
        made: The windows, (N, down, across, taps down, taps across).

    Returns:
        (N, H, W, 1).
    """
    rows = []
    for row in range(windows.stride):
        columns = []
        for column in range(windows.stride):
            taps = product(_taps_of_phase(windows, 0, row), _taps_of_phase(windows, 1, column))
            columns.append(tf.add_n([_shifted(made[..., a, b], i, j) for (a, i), (b, j) in taps]))
        rows.append(tf.stack(columns, axis=-1))
    return tf.reshape(tf.stack(rows, axis=2), [-1, *windows.image, 1])


def _unfold(windows: Windows, image: Tensor) -> Tensor:
    """Return the pixel under each tap of each window (im2col): (N, H, W) to (N, taps, windows)."""
    ends = [
        (begin, max((count - 1) * windows.stride + taps - begin - length, 0))
        for length, count, taps, (begin, _) in zip(
            windows.image, windows.count, windows.taps, windows.pads, strict=True
        )
    ]
    padded = tf.pad(image, [[0, 0], *ends])
    last_down, last_across = ((count - 1) * windows.stride + 1 for count in windows.count)
    pixels = [
        padded[:, down : down + last_down : windows.stride, across : across + last_across : windows.stride]
        for down, across in product(*map(range, windows.taps))
    ]
    return tf.reshape(tf.stack(pixels, axis=1), [-1, len(pixels), math.prod(windows.count)])


def _taps_of_phase(windows: Windows, axis: int, phase: int) -> list[tuple[int, int]]:
    """Return the taps that add to pixel `stride * n + phase`, each with the distance of its window from n."""
    begin, stride = windows.pads[axis][0], windows.stride
    distances = [(tap, phase + begin - tap) for tap in range(windows.taps[axis])]
    reached = [(tap, far // stride) for tap, far in distances if far % stride == 0]
    return [(tap, by) for tap, by in reached if abs(by) < windows.count[axis]]


def _shifted(x: Tensor, down: int, across: int) -> Tensor:
    """Return an (N, H, W) whose element [n, i, j] is `x[n, i + down, j + across]`, or 0 outside of x."""
    shifts = (down, across)
    lengths = (int(length) for length in x.shape[1:])
    inner = (slice(max(by, 0), length + min(by, 0)) for by, length in zip(shifts, lengths, strict=True))
    window = (slice(None), *inner)
    return tf.pad(x[window], [[0, 0], *([max(-by, 0), max(by, 0)] for by in shifts)])
