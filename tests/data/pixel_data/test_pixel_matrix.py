"""Generated files with random combinations of pixel elements, against arithmetic in plain Python.

The seed and the case's number alone determine transfer syntax, Bits Allocated, Bits Stored, High Bit, sign,
bits outside of the stored ones, precision of the stream, modality LUT or rescale, VOI LUT or window, their
encodings, and photometric interpretation. The expected picture is computed pixel by pixel from the original
values with Python's own numbers: without NumPy, pydicom or code of this project.

`PNEUMOSEG_PICTURES=100000 pytest tests/data/pixel_data/test_pixel_matrix.py` tries 100,000 files;
`PNEUMOSEG_SEED` selects other cases.
"""

from __future__ import annotations

import io
import math
import os
import random
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jpeg_ls
import numpy as np
import pytest
from dicom_files import encapsulated, make_dataset
from lossless_jpeg import encode_lossless
from openjpeg.utils import encode_buffer
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from data.radiographs.dicom import UnreadableImage, read_radiograph

PICTURES = int(os.environ.get("PNEUMOSEG_PICTURES", "4000"))
SEED = int(os.environ.get("PNEUMOSEG_SEED", "1"))

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
STREAMS = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless)
SYNTAXES = (*NATIVE, RLELossless, *STREAMS)

Line = Callable[[float], float]


@dataclass
class Table:
    """A look-up table; `first` is the first mapped value with its intended sign."""

    first: int
    entries: list[int]
    bits: int
    encoding: str

    @property
    def full(self) -> int:
        """Return the upper end of the entries' range."""
        return (1 << max(self.entries).bit_length()) - 1

    def __call__(self, value: float) -> float:
        place = min(max(math.floor(value + 1e-6) - self.first, 0), len(self.entries) - 1)
        return self.entries[place]


@dataclass
class Picture:
    """One random case."""

    syntax: str
    allocated: int
    stored: int
    high: int
    signed: bool
    precision: int  # of the stream; the stored bits' if there is none
    values: list[list[int]]
    rubbish: int  # a pattern in the bits of each word that are not the value's
    elements: dict[str, Any] = field(default_factory=dict)
    modality: Table | None = None
    rescale: tuple[float, float] | None = None
    voi: Table | None = None
    window: tuple[float, float, str] | None = None

    @property
    def words(self) -> bool:
        """Whether whole words of Bits Allocated are stored."""
        return self.syntax not in STREAMS or self.precision == self.allocated


def drawn(number: int) -> Picture:
    """Draw a case by the seed and its number."""
    chance = random.Random(f"{SEED} {number}")
    syntax = chance.choice(SYNTAXES)
    allocated = chance.choice((8, 16, 16))
    stored = chance.randint(max(allocated - 8, 2), allocated)
    high = chance.choice((stored - 1, stored - 1, allocated - 1, chance.randint(stored - 1, allocated - 1)))
    signed = chance.random() < 0.4
    precision = chance.choice((stored, allocated)) if syntax in STREAMS else stored
    low = -(1 << stored - 1) if signed else 0
    top = low + (1 << stored) - 1
    # The encoders of the former take none that is smaller.
    large = syntax in (JPEGLSLossless, JPEG2000Lossless)
    sizes = ((33, 37), (41, 34)) if large else ((5, 7), (6, 3), (3, 8), (7, 9))
    height, width = chance.choice(sizes)
    values = [[chance.randint(low, top) for _ in range(width)] for _ in range(height)]
    values[0][0], values[0][1] = low, top
    picture = Picture(syntax, allocated, stored, high, signed, precision, values, chance.getrandbits(16))
    picture.elements["PhotometricInterpretation"] = chance.choice(
        ("MONOCHROME2", "MONOCHROME2", "MONOCHROME1", " MONOCHROME1 ", "monochrome2")
    )
    span = float(low), float(top)
    kind = chance.choice(("", "", "rescale", "rescale", "table", "blank"))
    if kind == "rescale":
        picture.rescale = slope, intercept = (
            chance.choice((1.0, 2.0, 0.5, -1.0, 0.25)),
            chance.choice((0.0, -1024.0, 7.0, float(-top))),
        )
        span = tuple(sorted(end * slope + intercept for end in span))  # type: ignore[assignment]
    elif kind == "table":
        picture.modality = table(chance, span, signed)
        span = 0.0, float(picture.modality.full)
    elif kind == "blank":
        picture.elements |= {"RescaleSlope": chance.choice(("", None, "1")), "RescaleIntercept": None}
    kind = chance.choice(("", "window", "window", "table", "blank"))
    if kind == "window":
        width_ = chance.choice((1.0, 2.0, 100.0, span[1] - span[0], 0.3 * (span[1] - span[0]) + 2))
        center = chance.choice((sum(span) / 2, span[0] + 0.3 * (span[1] - span[0]), 40.0))
        function = chance.choice(("", "LINEAR", "LINEAR_EXACT", "SIGMOID"))
        picture.window = float(f"{center:.8g}"), float(f"{max(width_, 1):.8g}"), function or "LINEAR"
        picture.elements["VOILUTFunction"] = function
    elif kind == "table":
        picture.voi = table(chance, span, span[0] < 0)
    elif kind == "blank":
        picture.elements |= {
            "WindowCenter": "",
            "WindowWidth": chance.choice(("", "5")),
            "VOILUTFunction": " ",
        }
    return picture


def table(chance: random.Random, span: tuple[float, float], signed: bool) -> Table:
    """Draw a table for values of this span; entries may have fewer bits than announced, or be packed."""
    least, most = (-32768, 32767) if signed else (0, 65535)
    first = min(max(int(span[0]) + chance.choice((0, 0, 3, -5)), least), most)
    count = chance.choice((2, 9, 64, 256, min(int(span[1] - span[0]) + 1, 65536)))
    bits = chance.choice((8, 10, 12, 16))
    used = chance.choice((bits, bits, max(bits - chance.randint(1, 4), 5)))
    entries = [chance.randrange(1 << used) for _ in range(count)]
    entries[chance.randrange(count)] = (1 << used) - 1
    return Table(first, entries, bits, chance.choice(("US", "OW", "packed") if bits == 8 else ("US", "OW")))


def expected(picture: Picture) -> list[list[float]]:
    """Compute the pixels, in order."""
    low = -(1 << picture.stored - 1) if picture.signed else 0
    ends = float(low), float(low + (1 << picture.stored) - 1)
    modality: Line = float
    if picture.modality is not None:
        modality, ends = picture.modality, (0.0, float(picture.modality.full))
    elif picture.rescale is not None:
        slope, intercept = picture.rescale

        def modality(value: float) -> float:
            return value * slope + intercept

        ends = min(map(modality, ends)), max(map(modality, ends))
    if picture.voi is not None:
        chosen, full = picture.voi, float(picture.voi.full)

        def shown(value: float) -> float:
            return chosen(value) / full
    elif picture.window is not None:
        center, width, function = picture.window

        def shown(value: float) -> float:
            return windowed(value, center, width, function)
    else:

        def shown(value: float) -> float:
            return (value - ends[0]) / (ends[1] - ends[0])

    inverted = "1" in picture.elements["PhotometricInterpretation"]
    rows = [[shown(modality(value)) for value in row] for row in picture.values]
    return [[1 - value for value in row] for row in rows] if inverted else rows


def windowed(value: float, center: float, width: float, function: str) -> float:
    """Apply a window (PS3.3 C.11.2.1.2.1, C.11.2.1.3.1, C.11.2.1.3.2) for an output from 0 to 1."""
    if function == "SIGMOID":
        power = -4 * (value - center) / width
        return 1 / (1 + math.exp(power)) if power < 700 else 0.0
    if function == "LINEAR_EXACT":
        if value <= center - width / 2:
            return 0.0
        return 1.0 if value > center + width / 2 else (value - center) / width + 0.5
    if value <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if value > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (value - (center - 0.5)) / (width - 1) + 0.5


def written(picture: Picture) -> bytes:
    """Return the case as the bytes of a DICOM file."""
    kind = np.dtype(f"u{picture.allocated // 8}")
    if picture.words:
        flat = [[word(picture, value) for value in row] for row in picture.values]
    else:
        flat = [[value & (1 << picture.stored) - 1 for value in row] for row in picture.values]
    patterns = np.array(flat, kind)
    dataset = coded(picture, patterns)
    dataset.BitsStored, dataset.HighBit = picture.stored, picture.high
    dataset.PixelRepresentation = int(picture.signed)
    for keyword, value in picture.elements.items():
        setattr(dataset, keyword, value)
    if picture.rescale is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept = picture.rescale
    if picture.window is not None:
        dataset.WindowCenter, dataset.WindowWidth = picture.window[:2]
    big = picture.syntax == ExplicitVRBigEndian
    for keyword, one in (("ModalityLUTSequence", picture.modality), ("VOILUTSequence", picture.voi)):
        if one is not None:
            setattr(dataset, keyword, Items([item(one, big, picture.signed)]))
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def word(picture: Picture, value: int) -> int:
    """Return the word of a pixel: the value up to High Bit, garbage in all other bits."""
    shift = picture.high + 1 - picture.stored
    mask = (1 << picture.stored) - 1 << shift
    rest = picture.rubbish & (1 << picture.allocated) - 1 & ~mask
    return ((value << shift) & mask) | rest


def coded(picture: Picture, patterns: np.ndarray[Any, Any]) -> FileDataset:
    """Return a data set with the encoded pixels."""
    height, width = patterns.shape
    precision, size = picture.precision, patterns.itemsize
    if picture.syntax in NATIVE:
        swapped = patterns.astype(
            patterns.dtype.newbyteorder(">" if picture.syntax == ExplicitVRBigEndian else "<")
        )
        return make_dataset(swapped, syntax=picture.syntax)
    if picture.syntax == RLELossless:
        dataset = make_dataset(patterns)
        dataset.compress(RLELossless, generate_instance_uid=False)
        return dataset
    if picture.syntax == JPEGLosslessSV1:
        stream = encode_lossless(patterns, precision, 1)
    elif picture.syntax == JPEGLSLossless:
        small = patterns.astype("u1" if precision <= 8 else "<u2")
        stream = bytes(jpeg_ls.encode_buffer(small.tobytes(), height, width, 1, precision))
    else:
        unused = size * 8 - precision
        form = f"<{'i' if picture.signed else 'u'}{size}"
        extended = (patterns << unused).view(form) >> unused  # as the encoder takes signed values
        small = extended.astype(form if precision > 8 else f"{form[1]}1")
        stream = encode_buffer(
            small.tobytes(), width, height, 1, precision, picture.signed, photometric_interpretation=2
        )
    return encapsulated(patterns, stream, picture.syntax)


def item(one: Table, big: bool, signed: bool) -> Dataset:
    """Return a table as a data set; its first value is a word, written in the form of its VR."""
    dataset = Dataset()
    count, first = len(one.entries) % 65536, one.first % 65536
    if signed and count < 32768 and first >= 32768:
        dataset.add_new("LUTDescriptor", "SS", [count, first - 65536, one.bits])
    else:
        dataset.add_new("LUTDescriptor", "US", [count, first, one.bits])
    if one.encoding == "US":
        dataset.add_new("LUTData", "US", one.entries)
        return dataset
    words: Sequence[int] = one.entries
    if one.encoding == "packed":
        pairs = [*one.entries, 0] if len(one.entries) % 2 else one.entries
        words = [low | high << 8 for low, high in zip(pairs[::2], pairs[1::2], strict=True)]
    dataset.add_new("LUTData", "OW", struct.pack(f"{'>' if big else '<'}{len(words)}H", *words))
    return dataset


@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(max(PICTURES, 4000) // 10)
def test_every_combination(tmp_path: Path) -> None:
    failures, seen = list[str](), Counter[str]()
    for number in range(PICTURES):
        picture = drawn(number)
        path = tmp_path / "image.dcm"
        path.write_bytes(written(picture))
        wanted = expected(picture)
        try:
            found = read_radiograph(path).pixels
        except UnreadableImage as error:
            failures.append(f"{number}: {error.reason}: {picture}")
            continue
        seen[picture.syntax] += 1
        worst = float(np.abs(found - np.array(wanted)).max())
        if worst > 2e-6 or found.dtype != np.float32:
            failures.append(f"{number}: off by {worst:.4f}: {picture}")
    print(f"\n{PICTURES} pictures with seed {SEED}: {dict(seen)}")
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(one[:600] for one in failures[:10])
    assert set(seen) == set(SYNTAXES)
