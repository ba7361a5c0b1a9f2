"""Tests of radiographs against pydicom's pipeline and values worked out from the standard."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_files import encapsulated, jpeg, lut, make_dataset
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

import data.radiographs.dicom
from core.base.errors import UserError
from data.radiographs.dicom import UnreadableImage, find, read_radiograph

WriteDicom = Callable[..., Path]


def ramp(kind: type[np.generic], low: int, high: int) -> NDArray[Any]:
    """Return (7, 11) values from low to high, inclusive, in an asymmetric order."""
    values = np.linspace(low, high, 77).round().astype(kind)
    return np.random.default_rng(5).permutation(values).reshape(7, 11)


def by_pydicom(path: Path, low: float, high: float) -> NDArray[np.float64]:
    """Apply pydicom's modality and VOI functions, and scale from [low, high] to [0, 1]."""
    dataset = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    pixels = (values.astype(np.float64) - low) / (high - low)
    return 1 - pixels if dataset.PhotometricInterpretation == "MONOCHROME1" else pixels


def test_eight_bits_are_divided_by_255_exactly(write_dicom: WriteDicom) -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(8, 32)
    pixels = read_radiograph(write_dicom(stored)).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, (stored / 255).astype(np.float32))
    same = read_radiograph(write_dicom(stored, RescaleSlope=1, RescaleIntercept=0)).pixels
    np.testing.assert_array_equal(same, pixels)


WINDOW = {"WindowCenter": 1000, "WindowWidth": 1500}
LINE = {"RescaleSlope": 2, "RescaleIntercept": -1000}


@pytest.mark.parametrize(
    ("pixels", "stored", "elements", "span"),
    [
        (ramp(np.uint16, 0, 4095), 12, {}, (0, 4095)),
        (ramp(np.uint16, 3, 65530), 16, {}, (0, 65535)),
        (ramp(np.uint16, 3, 900), 10, {"PhotometricInterpretation": "MONOCHROME1"}, (0, 1023)),
        (ramp(np.int16, -2048, 2047), 12, {}, (-2048, 2047)),
        (ramp(np.int16, -2000, 2047), 12, LINE, (-5096, 3094)),
        (ramp(np.uint16, 0, 4095), 12, WINDOW, (0, 4095)),
        (ramp(np.uint16, 0, 4095), 12, WINDOW | LINE, (-1000, 7190)),
        (ramp(np.int16, -2000, 2047), 12, WINDOW, (-2048, 2047)),
        (ramp(np.uint8, 0, 255), 8, {"WindowCenter": 100, "WindowWidth": 80}, (0, 255)),
        (ramp(np.uint16, 0, 4095), 12, WINDOW | {"VOILUTFunction": "LINEAR_EXACT"}, (0, 4095)),
        (ramp(np.uint16, 0, 4095), 12, WINDOW | {"VOILUTFunction": "SIGMOID"}, (0, 4095)),
        (
            ramp(np.uint16, 0, 4095),
            12,
            {"WindowCenter": [900, 5], "WindowWidth": [300, 7]},
            (0, 4095),
        ),
        (
            ramp(np.uint16, 0, 300),
            12,
            {"VOILUTSequence": lut(np.arange(256) ** 2 // 16, 20, 12)} | WINDOW,
            (0, 4095),
        ),
        (
            ramp(np.uint16, 0, 300),
            12,
            {"ModalityLUTSequence": lut(np.arange(200) * 300, 20, 16)},
            (0, 65535),
        ),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_the_pipeline_is_pydicoms(
    write_dicom: WriteDicom,
    pixels: NDArray[Any],
    stored: int,
    elements: dict[str, Any],
    span: tuple[float, float],
    photometric: str,
) -> None:
    path = write_dicom(pixels, stored=stored, **({"PhotometricInterpretation": photometric} | elements))
    found = read_radiograph(path).pixels
    assert found.shape == (7, 11)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_pydicom(path, *span), atol=1e-6)


def test_a_window_by_hand(write_dicom: WriteDicom) -> None:
    """PS3.3 C.11.2.1.2.1: the example of a window 2048/4096, and one of a window of 100."""
    stored = np.array([[0, 49, 50, 99, 100, 255]], np.uint8)
    found = read_radiograph(write_dicom(stored, WindowCenter=100, WindowWidth=101)).pixels
    expected = ((stored.astype(float) - 99.5) / 100 + 0.5).clip(0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_negative_slope_keeps_the_standards_direction(write_dicom: WriteDicom) -> None:
    """A negative slope inverts the picture, with or without a window: low values are dark."""
    stored = ramp(np.uint16, 0, 4095)
    turned = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    found = read_radiograph(write_dicom(stored, stored=12, **turned)).pixels
    np.testing.assert_allclose(found, 1 - stored / 4095, atol=1e-6)
    windowed = read_radiograph(write_dicom(stored, stored=12, **turned, **WINDOW)).pixels
    expected = ((4095.0 - stored - 999.5) / 1499 + 0.5).clip(0, 1)
    np.testing.assert_allclose(windowed, expected, atol=1e-6)


def test_bits_above_the_stored_ones_are_ignored(write_dicom: WriteDicom) -> None:
    """Old files have overlays in these bits."""
    stored = ramp(np.uint16, 0, 4095)
    found = read_radiograph(write_dicom(stored | np.uint16(0x8000), stored=12)).pixels
    np.testing.assert_allclose(found, stored / 4095, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 12])
def test_lossless_jpeg_2000_changes_nothing(write_dicom: WriteDicom, bits: int) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.random.default_rng(2).integers(0, 2**bits, (37, 50)).astype(kind)
    stream = encode_array(stored, bits_stored=bits)
    dataset = encapsulated(stored, stream, JPEG2000Lossless, stored=bits)
    plain = write_dicom(stored, stored=bits)
    dataset.save_as(plain.with_name("j2k.dcm"))
    found = read_radiograph(plain.with_name("j2k.dcm")).pixels
    np.testing.assert_array_equal(found, read_radiograph(plain).pixels)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("bits", [8, 12])
def test_lossless_compression_changes_nothing(write_dicom: WriteDicom, syntax: str, bits: int) -> None:
    kind = np.uint8 if bits == 8 else np.uint16
    stored = np.random.default_rng(2).integers(0, 2**bits, (37, 50)).astype(kind)
    path = write_dicom(stored, stored=bits, compress=syntax, **WINDOW)
    plain = write_dicom(stored, "plain.dcm", stored=bits, **WINDOW)
    np.testing.assert_array_equal(read_radiograph(path).pixels, read_radiograph(plain).pixels)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRBigEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_other_ways_of_writing(tmp_path: Path, syntax: str) -> None:
    stored = ramp(np.uint16, 0, 4095)
    written = stored.astype(">u2") if syntax == ExplicitVRBigEndian else stored
    path = tmp_path / "image.dcm"
    make_dataset(written, stored=12, syntax=syntax).save_as(path)
    np.testing.assert_allclose(read_radiograph(path).pixels, stored / 4095, atol=1e-6)


@pytest.mark.parametrize("implicit", [True, False])
def test_without_preamble_and_meta_header(tmp_path: Path, implicit: bool) -> None:
    stored = ramp(np.uint16, 0, 4095)
    dataset = make_dataset(stored, stored=12)
    del dataset.file_meta
    dataset.preamble = None
    path = tmp_path / "image.dcm"
    pydicom.dcmwrite(path, dataset, implicit_vr=implicit, little_endian=True)
    np.testing.assert_allclose(read_radiograph(path).pixels, stored / 4095, atol=1e-6)


def test_baseline_jpeg_is_pydicoms(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    jpeg(np.random.default_rng(4).integers(0, 256, (41, 67), dtype=np.uint8)).save_as(path)
    expected = (pydicom.dcmread(path).pixel_array / 255).astype(np.float32)
    np.testing.assert_array_equal(read_radiograph(path).pixels, expected)


def test_the_first_of_several_frames(write_dicom: WriteDicom) -> None:
    stored = np.random.default_rng(4).integers(0, 256, (3, 8, 6), dtype=np.uint8)
    found = read_radiograph(write_dicom(stored, NumberOfFrames=3))
    np.testing.assert_array_equal(found.pixels, (stored[0] / 255).astype(np.float32))
    assert found.note == "the first of 3 frames"


@pytest.mark.parametrize(
    ("elements", "says"),
    [
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "RGB"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
        ({"Rows": 60000, "Columns": 60000}, "60000x60000"),
        ({"Rows": 0}, "0 pixels"),
        ({"Rows": 5000}, ""),
        ({"BitsAllocated": 32}, "32 bits"),
        ({"BitsStored": 12}, "12 of 8"),
        ({"RescaleSlope": 0, "RescaleIntercept": 4}, "span"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "Window Width"),
        ({"PixelData": b"\0"}, ""),
    ],
)
def test_what_cannot_be_read_has_a_reason(
    write_dicom: WriteDicom, elements: dict[str, Any], says: str
) -> None:
    path = write_dicom(ramp(np.uint8, 0, 255), **elements)
    with pytest.raises(UnreadableImage) as caught:
        read_radiograph(path)
    assert caught.value.path == path
    assert says in caught.value.reason
    assert "\n" not in caught.value.reason


def test_files_that_are_no_dicom(tmp_path: Path, write_dicom: WriteDicom) -> None:
    whole = write_dicom(np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8))
    wrecks = {
        "empty.dcm": b"",
        "text.dcm": b"not a radiograph at all\n" * 50,
        "cut.dcm": whole.read_bytes()[:2000],
        "head.dcm": whole.read_bytes()[:300],
    }
    for name, content in wrecks.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage) as caught:
            read_radiograph(tmp_path / name)
        assert caught.value.reason
    with pytest.raises(UnreadableImage, match="No such file"):
        read_radiograph(tmp_path / "nowhere.dcm")


def test_a_cut_or_lying_jpeg_is_no_half_grey_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (64, 48), dtype=np.uint8)
    whole = jpeg(pixels)
    frame = next(pydicom.encaps.generate_frames(whole.PixelData, number_of_frames=1))
    datasets = [
        jpeg(pixels, PixelData=encapsulate([frame[: len(frame) // 2]])),
        jpeg(pixels, Rows=65),
        jpeg(pixels, Columns=64, Rows=48),
        jpeg(np.stack([pixels] * 3, axis=2)),
    ]
    for dataset in datasets:
        path = tmp_path / "image.dcm"
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        with pytest.raises(UnreadableImage):
            read_radiograph(path)


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage(Path("a.dcm"), "because")))
    assert (error.path, error.reason) == (Path("a.dcm"), "because")


def test_find_goes_deep_and_not_in_circles(tmp_path: Path, write_dicom: WriteDicom) -> None:
    stored = ramp(np.uint8, 0, 255)
    wanted = [
        write_dicom(stored, "images/b/x/1.dcm"),
        write_dicom(stored, "images/a/10.DCM"),
        write_dicom(stored, "images/a/2.dicom"),
        write_dicom(stored, "images/b/no suffix"),
        write_dicom(stored, "elsewhere/linked.dcm"),
    ]
    images = tmp_path / "images"
    write_dicom(stored, "images/a/._10.dcm")
    write_dicom(stored, "images/DICOMDIR")
    (images / "a" / "notes.txt").write_text("DICM is not here")
    (images / "b" / "loop").symlink_to(images, target_is_directory=True)
    (images / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (images / "dangling").symlink_to(tmp_path / "nowhere")
    wanted[4] = images / "c" / "linked.dcm"
    assert find(images) == sorted(wanted)


def test_indexes_are_no_images(tmp_path: Path, write_dicom: WriteDicom) -> None:
    """A DICOMDIR is recognised by its name in any case, or by its meta header."""
    stored = ramp(np.uint8, 0, 255)
    for name in ("dicomdir", "a/DicomDir", "b/DICOMDIR"):
        write_dicom(stored, f"images/{name}")
    for name in ("DICOMDIR.dcm", "DICOMDIR;1", "index.bak"):
        path = write_dicom(stored, f"images/c/{name}")
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = MediaStorageDirectoryStorage  # saving puts it into the meta header
        dataset.save_as(path, enforce_file_format=True)
    wanted = [
        write_dicom(stored, "images/d/dicomdir.dcm"),  # an image with an odd name
        write_dicom(stored, "images/d/my dicomdir"),
        write_dicom(stored, "images/d/x.DiCoM"),
    ]
    assert find(tmp_path / "images") == wanted


def test_find_a_very_deep_folder(tmp_path: Path, write_dicom: WriteDicom) -> None:
    deep = "/".join(["d"] * 400)
    path = write_dicom(ramp(np.uint8, 0, 255), f"images/{deep}/1.dcm")
    assert find(tmp_path / "images") == [path]


def test_find_a_folder_too_deep_to_open(tmp_path: Path) -> None:
    """A path of more than 4096 bytes cannot be read; this is reported."""
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=place)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    (found,) = find(tmp_path)
    with pytest.raises(UnreadableImage, match="File name too long"):
        read_radiograph(found)


def test_what_bears_the_suffix_is_found_and_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a pipe.dcm")
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "device.dcm").symlink_to("/dev/zero")
    (tmp_path / "itself.dcm").symlink_to(tmp_path / "itself.dcm")
    (tmp_path / "nowhere.dcm").symlink_to(tmp_path / "is not here")
    with (tmp_path / "sparse.dcm").open("wb") as file:
        file.truncate(1 << 40)
    reasons = ("pipe", "device", "symbolic links", "No such file", "1,099,511,627,776 bytes")
    for path, reason in zip(find(tmp_path), reasons, strict=True):
        with pytest.raises(UnreadableImage, match=reason):
            read_radiograph(path)


@pytest.mark.parametrize("meta", ["whole", "without length"])
def test_a_deflated_bomb_is_not_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meta: str) -> None:
    dataset = make_dataset(np.zeros((1000, 3000), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    path = tmp_path / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    if meta == "without length":
        content = path.read_bytes()
        path.write_bytes(content[:132] + content[144:])
    assert path.stat().st_size < 10_000
    assert read_radiograph(path).pixels.shape == (1000, 3000)
    monkeypatch.setattr(data.radiographs.dicom, "MOST_BYTES", 1_000_000)
    with pytest.raises(UnreadableImage, match="deflated content is longer than 1,000,000"):
        read_radiograph(path)


def test_find_names_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        find(tmp_path / "nowhere")


def test_names_that_are_no_text(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(ramp(np.uint8, 0, 255))
    odd = os.fsencode(tmp_path) + b"/odd \xff\n\xc3\xa9.dcm"
    os.rename(path, odd)  # noqa: PTH104  bytes, which Path does not take
    (found,) = find(tmp_path)
    assert read_radiograph(found).pixels.shape == (7, 11)


def test_real_files_are_read_as_pydicom_reads_them(real_data: Path) -> None:
    spans = {8: (0, 255), 15: (0, 32767)}
    paths = find(real_data)
    assert len(paths) == 13
    for path in paths:
        dataset = pydicom.dcmread(path)
        found = read_radiograph(path).pixels
        assert found.shape == (dataset.Rows, dataset.Columns)
        expected = by_pydicom(path, *spans[dataset.BitsStored])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        if dataset.BitsStored == 8:
            stored = dataset.pixel_array
            np.testing.assert_array_equal(found, (stored / 255).astype(np.float32))
