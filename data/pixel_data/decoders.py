"""Decoding of compressed streams by libraries.

`decode_stream` returns all values of a stream. It refuses a stream that is cut off or damaged, as far as the
decoder or the stream shows that. The libraries' messages do not help a user, so they are not passed on.

    JPEG of 8 bits, Huffman codes    libjpeg-turbo, by simplejpeg
    other JPEG                       libjpeg-turbo, by imagecodecs
    JPEG-LS                          CharLS, by pyjpegls
    JPEG 2000, HTJ2K                 OpenJPEG, by pylibjpeg-openjpeg

simplejpeg is the fastest interface to libjpeg-turbo and the only one that reports the decoder's warnings:
Pillow and OpenCV turn a damaged scan into a picture. imagecodecs is slow to import and seldom needed, so it
is imported on first use; so are the others.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg

from data.pixel_data import codestreams
from data.pixel_data.codestreams import Codestream
from data.pixel_data.elements import FETCH_AGAIN, DicomError

DecodedImage = TypeVar("DecodedImage")

_LIBRARIES = ("imagecodecs", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "simplejpeg")


def versions() -> tuple[str, ...]:
    """Return the versions of the decoding libraries, on which pixel values may depend."""
    return tuple(map(_version, _LIBRARIES))


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # reported by the first stream that needs it
        return "not installed"


def decode_stream(stream: Codestream) -> NDArray[np.integer[Any]]:
    """Decode a stream to integers of 8 or 16 bits, signed if the stream says so."""
    stream = codestreams.check_complete(stream)
    if stream.huffman_8_bit:
        return _huffman_jpeg(stream)
    if stream.kind == codestreams.JPEG:
        return _other_jpeg(stream)
    if stream.kind == codestreams.JPEG_LS:
        return _jpeg_ls(stream)
    return _jpeg_2000(stream)


def _decode_padded(decode: Callable[[bytes], DecodedImage], stream: Codestream) -> DecodedImage:
    """Decode a stream; if that fails, try again without zeros before the end marker."""
    try:
        return decode(stream.content)
    except Exception:
        bare = codestreams.without_padding(stream)
        if bare is None:
            raise
        return decode(bare.content)


def _huffman_jpeg(stream: Codestream) -> NDArray[np.uint8]:
    try:
        values: NDArray[np.uint8] = _decode_padded(
            lambda content: decode_jpeg(content, colorspace="GRAY"), stream
        )
    except DicomError:
        raise
    except ValueError as error:  # with the message of libjpeg-turbo
        early = "premature end" in str(error).lower()
        damage = "cut off: its data have a premature end" if early else "damaged"
        raise DicomError(f"its JPEG stream is {damage}; {FETCH_AGAIN}") from error
    return values[..., 0]


def _other_jpeg(stream: Codestream) -> NDArray[np.integer[Any]]:
    """Decode a JPEG of 12 bits, a lossless JPEG, or a JPEG of 8 bits with arithmetic coding.

    libjpeg-turbo silently assumes zeros for missing data. So other data are added there: the image must not
    depend on them.
    """
    import imagecodecs

    decode: Callable[[bytes], NDArray[np.integer[Any]]] = imagecodecs.jpeg8_decode
    try:
        if stream.bits == 8 and not stream.lossless:  # simplejpeg reports the decoder's warnings
            _decode_padded(lambda content: decode_jpeg(content, colorspace="GRAY"), stream)
        values = decode(stream.content)
        same = all(np.array_equal(values, decode(other)) for other in codestreams.with_extra_data(stream))
    except Exception as error:
        raise DicomError(f"its JPEG stream is damaged; {FETCH_AGAIN}") from error
    if not same:
        raise DicomError(f"its JPEG stream is cut off: data of its last pixels are missing; {FETCH_AGAIN}")
    return values


def _jpeg_ls(stream: Codestream) -> NDArray[Any]:
    import jpeg_ls

    try:
        values, facts = _decode_padded(jpeg_ls.decode_pixel_data, stream)
    except Exception as error:
        raise DicomError(f"its JPEG-LS stream is damaged; {FETCH_AGAIN}") from error
    kind = "u1" if facts["bits_per_sample"] <= 8 else "u2"
    return np.frombuffer(values, kind).reshape(facts["height"], facts["width"])


def _jpeg_2000(stream: Codestream) -> NDArray[Any]:
    decode: Callable[[bytes], NDArray[Any]]
    if stream.has_offset:  # pylibjpeg-openjpeg returns too large an image for these
        import imagecodecs

        decode = imagecodecs.jpeg2k_decode
    else:
        from openjpeg.utils import decode
    try:
        values = decode(stream.content)
    except Exception as error:
        raise DicomError(f"its JPEG 2000 stream is damaged; {FETCH_AGAIN}") from error
    if stream.may_lack_data:
        try:
            same = np.array_equal(values, decode(codestreams.with_extra_data(stream)[0]))
        except Exception:  # the extra data were read as part of the image
            same = False
        if not same:
            raise DicomError(f"its JPEG 2000 stream is cut off: data of a tile are missing; {FETCH_AGAIN}")
    return values
