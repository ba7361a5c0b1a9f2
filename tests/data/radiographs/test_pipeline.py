"""Tests of the conversion from stored values to [0, 1] against pydicom's functions, step by step."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import lut, make_dataset
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from data.radiographs.dicom import UnreadableImage, radiograph

NOWHERE = Path("in memory")
FIRST, ENTRIES = 20, 301

RESCALES: dict[str, dict[str, Any]] = {
    "none": {},
    "identity": {"RescaleSlope": 1, "RescaleIntercept": 0},
    "line": {"RescaleSlope": "0.37", "RescaleIntercept": "-1024.5"},
    "negative": {"RescaleSlope": -2, "RescaleIntercept": 700},
    "half": {"RescaleSlope": 3},  # without an intercept it does not count
    "table": {"ModalityLUTSequence": lut(np.arange(ENTRIES) ** 2 // 2, FIRST, 16)},
}
WINDOW = {"WindowCenter": "110.5", "WindowWidth": 300}
WINDOWS: dict[str, dict[str, Any]] = {
    "none": {},
    "linear": WINDOW,
    "exact": WINDOW | {"VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": WINDOW | {"VOILUTFunction": "SIGMOID"},
    "several": {"WindowCenter": [90, 5, 7], "WindowWidth": [200, 7, 9]},
    "table": WINDOW | {"VOILUTSequence": lut(4000 - np.arange(ENTRIES) ** 2 // 25, FIRST, 12)},
}


def stored_values(bits: int, signed: bool) -> NDArray[Any]:
    """Return (9, 31) values: both ends, and half of them where tables and windows matter."""
    low = -(1 << bits - 1) if signed else 0
    high = low + (1 << bits) - 1
    random = np.random.default_rng([bits, signed])
    values = random.integers(low, high, (9, 31), endpoint=True)
    values[::2] = random.integers(max(low, -50), min(high, 400), values[::2].shape, endpoint=True)
    values[0, :2] = low, high
    return values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def by_pydicom(dataset: FileDataset) -> NDArray[np.float64]:
    """Apply pydicom's modality and VOI functions, scale by their range, and invert last."""
    bits, signed = dataset.BitsStored, dataset.PixelRepresentation
    ends = np.array([-(1 << bits - 1), (1 << bits - 1) - 1] if signed else [0, (1 << bits) - 1])
    values = dataset.pixel_array.astype(np.int32)  # pydicom subtracts in the type that it gets
    low, high = sorted(apply_modality_lut(ends, dataset).astype(float))
    values = apply_modality_lut(values, dataset)
    if "ModalityLUTSequence" in dataset:
        low, high = 0, 65535
    if "VOILUTSequence" in dataset:
        values = values.clip(FIRST - 1, FIRST + ENTRIES)  # and wraps round far beyond a table
        low, high = 0, 4095
    elif "WindowCenter" in dataset and dataset.get("RescaleSlope", 1) < 0:
        low, high = high, low  # a turned picture stays turned
    pixels = (apply_voi_lut(values, dataset).astype(np.float64) - low) / (high - low)
    return 1 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


@pytest.mark.filterwarnings("ignore:overflow encountered in exp", "ignore:Applying a VOI LUT on a float")
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
def test_every_combination(bits: int, signed: bool) -> None:
    stored = stored_values(bits, signed)
    for rescale, window, photometric in itertools.product(RESCALES, WINDOWS, ("MONOCHROME1", "MONOCHROME2")):
        dataset = make_dataset(stored, stored=bits)
        dataset.PhotometricInterpretation = photometric
        for keyword, value in (RESCALES[rescale] | WINDOWS[window]).items():
            setattr(dataset, keyword, value)
        found = radiograph(NOWHERE, dataset).pixels
        assert (found.shape, found.dtype) == ((9, 31), np.float32)
        np.testing.assert_allclose(
            found, by_pydicom(dataset), atol=2e-7, err_msg=f"{rescale}, {window}, {photometric}"
        )


@pytest.mark.parametrize("bits", [8, 10, 16])
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_longer_than_its_entries_are_wide(bits: int, packed: bool) -> None:
    """Pydicom's index into a table of 8-bit entries has 8 bits: value 300 finds the entry of 44."""
    stored = stored_values(12, signed=False)
    table = (np.arange(1000) * 7 + 3) % (1 << bits)
    dataset = make_dataset(stored, stored=12)
    dataset.VOILUTSequence = lut(table, 100, bits)
    if packed:
        words = table.astype(np.uint8 if bits == 8 else "<u2").tobytes()
        dataset.VOILUTSequence[0].add_new("LUTData", "OW", words)
    found = radiograph(NOWHERE, dataset).pixels
    full = {8: 255, 10: 1023, 16: 8191}[
        bits
    ]  # the entries of the last have 13 bits: data.radiographs.grayscale
    expected = table[(stored.astype(int) - 100).clip(0, 999)] / full
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_eight_bits_are_divided_by_255_exactly(photometric: str) -> None:
    stored = np.random.default_rng(3).permutation(np.arange(256, dtype=np.uint8)).reshape(8, 32)
    dataset = make_dataset(stored)
    dataset.PhotometricInterpretation = photometric
    shown = 255 - stored if photometric == "MONOCHROME1" else stored
    np.testing.assert_array_equal(radiograph(NOWHERE, dataset).pixels, (shown / 255).astype(np.float32))


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"VOILUTSequence": lut(np.arange(30), 0, 7)}, "entries of 7 bits"),
        ({"ModalityLUTSequence": lut(np.arange(30), 0, 17)}, "entries of 17 bits"),
        ({"VOILUTSequence": lut(np.arange(30), 0, 12)}, "30 entries, its descriptor says 40"),
        ({"ModalityLUTSequence": lut(np.arange(30), 0, 12), "RescaleSlope": 2}, "both"),
        ({"WindowCenter": 5, "WindowWidth": 7, "VOILUTFunction": "CUBIC"}, "CUBIC"),
        ({"RescaleSlope": 1e306}, "span 0.0 to inf"),
    ],
)
def test_what_makes_no_sense_has_a_reason(elements: dict[str, Any], says: str) -> None:
    dataset = make_dataset(stored_values(12, signed=False), stored=12)
    for keyword, value in ({"RescaleIntercept": 0} | elements).items():
        setattr(dataset, keyword, value)
    if "40" in says:
        dataset.VOILUTSequence[0].LUTDescriptor = [40, 0, 12]
    with pytest.raises(UnreadableImage, match=says):
        radiograph(NOWHERE, dataset)
