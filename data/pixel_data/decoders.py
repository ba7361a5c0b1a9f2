"""Compressed streams decoded, each by the library that does it best.

Promises: `decoded` gives all values of a stream, or refuses one that is cut off or damaged as far as its
decoder or the stream tells. What a library says of it is no help to a reader, so it is not passed on.

    JPEG of 8 bits, Huffman codes    libjpeg-turbo, by simplejpeg
    other JPEG                       libjpeg-turbo, by imagecodecs
    JPEG-LS                          CharLS, by pyjpegls
    JPEG 2000, HTJ2K                 OpenJPEG, by pylibjpeg-openjpeg

simplejpeg is the fastest way into libjpeg-turbo and the only one that reports what the decoder merely
warns about: Pillow and OpenCV turn a damaged scan into a picture. imagecodecs is slow to import and
seldom needed, so it is imported when it is; so are the others.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg

from data.pixel_data import codestreams
from data.pixel_data.codestreams import Stream
from data.pixel_data.elements import AGAIN, Refusal

Decoded = TypeVar("Decoded")

_LIBRARIES = ("imagecodecs", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "simplejpeg")


def versions() -> tuple[str, ...]:
    """The versions of the libraries that decode, on which pixels may depend."""
    return tuple(map(_version, _LIBRARIES))


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # the first stream that needs it will tell
        return "not installed"


def decoded(stream: Stream) -> NDArray[np.integer[Any]]:
    """The values of a stream, of 8 or 16 bits, signed if the stream says so."""
    stream = codestreams.whole(stream)
    if stream.common:
        return _common_jpeg(stream)
    if stream.kind == codestreams.JPEG:
        return _uncommon_jpeg(stream)
    if stream.kind == codestreams.JPEG_LS:
        return _jpeg_ls(stream)
    return _jpeg_2000(stream)


def _tried(decode: Callable[[bytes], Decoded], stream: Stream) -> Decoded:
    """What a decoder makes of a stream; if it refuses, of the same without zeros before its end marker."""
    try:
        return decode(stream.content)
    except Exception:
        bare = codestreams.without_stuffing(stream)
        if bare is None:
            raise
        return decode(bare.content)


def _common_jpeg(stream: Stream) -> NDArray[np.uint8]:
    try:
        values: NDArray[np.uint8] = _tried(lambda content: decode_jpeg(content, colorspace="GRAY"), stream)
    except Refusal:
        raise
    except ValueError as error:  # with what libjpeg-turbo says
        early = "premature end" in str(error).lower()
        damage = "cut off: its data have a premature end" if early else "damaged"
        raise Refusal(f"its JPEG stream is {damage}; {AGAIN}") from error
    return values[..., 0]


def _uncommon_jpeg(stream: Stream) -> NDArray[np.integer[Any]]:
    """A JPEG of 12 bits, a lossless one, or one of 8 bits with arithmetic coding.

    Where data are missing, libjpeg-turbo goes on with zeros, and does not tell of it. So other data are put
    there: the image must not depend on them.
    """
    import imagecodecs

    decode: Callable[[bytes], NDArray[np.integer[Any]]] = imagecodecs.jpeg8_decode
    try:
        if stream.bits == 8 and not stream.lossless:  # of this, simplejpeg tells what the decoder warns about
            _tried(lambda content: decode_jpeg(content, colorspace="GRAY"), stream)
        values = decode(stream.content)
        same = all(np.array_equal(values, decode(other)) for other in codestreams.continued(stream))
    except Exception as error:
        raise Refusal(f"its JPEG stream is damaged; {AGAIN}") from error
    if not same:
        raise Refusal(f"its JPEG stream is cut off: data of its last pixels are missing; {AGAIN}")
    return values


def _jpeg_ls(stream: Stream) -> NDArray[Any]:
    import jpeg_ls

    try:
        values, facts = _tried(jpeg_ls.decode_pixel_data, stream)
    except Exception as error:
        raise Refusal(f"its JPEG-LS stream is damaged; {AGAIN}") from error
    kind = "u1" if facts["bits_per_sample"] <= 8 else "u2"
    return np.frombuffer(values, kind).reshape(facts["height"], facts["width"])


def _jpeg_2000(stream: Stream) -> NDArray[Any]:
    decode: Callable[[bytes], NDArray[Any]]
    if stream.shifted:  # of which pylibjpeg-openjpeg gives an image that is too large
        import imagecodecs

        decode = imagecodecs.jpeg2k_decode
    else:
        from openjpeg.utils import decode
    try:
        values = decode(stream.content)
    except Exception as error:
        raise Refusal(f"its JPEG 2000 stream is damaged; {AGAIN}") from error
    if stream.doubtful:
        try:
            same = np.array_equal(values, decode(codestreams.continued(stream)[0]))
        except Exception:  # what is there was read as part of the image
            same = False
        if not same:
            raise Refusal(f"its JPEG 2000 stream is cut off: data of a tile are missing; {AGAIN}")
    return values
