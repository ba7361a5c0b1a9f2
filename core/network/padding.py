"""The padding rules: pads, crops and sizes along one axis, and where the pixels of an enlarged image lie.

With n pixels in, stride s and kernel k:

    SAME convolution      out = ceil(n/s); pads: total = max((out-1)s + k - n, 0), begin = total // 2
    SAME transposed       out = n*s; the adjoint of the convolution from n*s to n: its pads are the crops

As in TensorFlow's SAME, the odd pixel of a padding goes to the end (bottom, right).
"""

from __future__ import annotations

from core.network.plan import Pads
from core.network.specification import PoolPadding


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, Pads]:
    """Return output size and (begin, end) pads of a SAME convolution along one axis."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return out, (total // 2, total - total // 2)


def same_crops(size: int, kernel: int, stride: int) -> tuple[int, Pads]:
    """Return output size and (begin, end) crops of a SAME transposed convolution along one axis.

    The end crop is negative if the kernel is smaller than the stride; then zeros are appended.
    """
    out = size * stride
    _, (begin, _) = same_pads(out, kernel, stride)
    return out, (begin, (size - 1) * stride + kernel - begin - out)


def pads_of(padding: PoolPadding, size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, Pads]:
    """Output size and (begin, end) pads of a convolution or a pool along one axis.

    Args:
        padding: "same", "symmetric", "valid", or "ceil" (see `core.network.specification`).
        size: Pixels in.
        kernel: Taps.
        stride: From one window to the next.
        dilation: From one tap to the next.

    Returns:
        The size is below 1 where no window fits.
    """
    reach = (kernel - 1) * dilation + 1
    if padding == "same":
        return same_pads(size, reach, stride)
    if padding == "ceil":
        out = max(-(-(size - reach) // stride), 0) + 1
        if (out - 1) * stride >= size:
            out -= 1  # the last window begins inside
        return out, (0, max((out - 1) * stride + reach - size, 0))
    pad = kernel // 2 * dilation if padding == "symmetric" else 0
    return (size + 2 * pad - reach) // stride + 1, (pad, pad)


def phases_of(factor: int) -> list[tuple[int, float]]:
    """Along one axis, where each of the `factor` output pixels that an input pixel makes lies.

    Returns:
        For each phase the place d and the share s. Output pixel `factor * i + phase` of a bilinear `Upsample`
        is (1 - s) * x[i + d] + s * x[i + d + 1].
    """
    places = (divmod(2 * phase + 1 - factor, 2 * factor) for phase in range(factor))
    return [(first, rest / (2 * factor)) for first, rest in places]
