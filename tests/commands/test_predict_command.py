"""`run.py predict`: every image once, the same mask in all outputs, and no partial output."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import h5py
import highdicom
import numpy as np
import pydicom
import pytest
from command_line import (
    assert_one_error,
    changed,
    content,
    environment,
    refused,
    run,
    run_here,
    run_with_full_disk,
    succeed,
    words_of,
)
from numpy.typing import NDArray
from PIL import Image
from processes import interruptible
from selected import BACKENDS
from tiny_model import SIZE, radiograph, write_model, write_radiograph

import pneumoseg
from core.backend.registry import load_backend
from core.files.names import file_name
from core.pictures.radiographs import outline
from core.prediction.trained_models import Predictor, find_members
from core.scoring.thresholds import Thresholds, save_thresholds
from data.annotations import rle
from data.hdf5.store import Store
from data.radiographs.clahe import Clahe, equalize
from data.radiographs.resize import resize_image

IMAGES = "images"
SIZES = {"a": (60, 45), "b/b": (33, 70), "b/c": (41, 41), "d": (52, 91), "e": (32, 32)}
BRIGHT = ("a", "b/b", "d")
MODEL = "reference_model"
PREDICT = ["predict", "-f", "reference", "--images", IMAGES, "--workers", "1"]
EVERYTHING = [
    *("--masks", "masks", "--overlays", "look", "--dicom-seg", "seg"),
    *("--probabilities", "maps.h5", "--json", "answers.json"),
]

Truth = dict[str, tuple[NDArray[np.float32], NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five radiographs of odd sizes, three of them with a bright region, and a model."""
    folder = tmp_path_factory.mktemp("original")
    write_model(folder / MODEL)
    for number, (name, size) in enumerate(SIZES.items()):
        extra: dict[str, Any] = {}
        if name == "a":
            extra = {"PixelSpacing": [0.5, 0.25], "PatientOrientation": ["L", "F"]}
        elif name == "b/b":
            extra = {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0, 0], "SeriesInstanceUID": None}
        pixels = radiograph(number, *size, name in BRIGHT)
        write_radiograph(folder / IMAGES / f"{name}.dcm", number, pixels, **extra)
    (folder / IMAGES / "notes.txt").write_text("no image\n")
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path) -> Path:
    """A copy of these files for one test."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def predicted(original: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder with all outputs, and the text on the terminal."""
    folder = tmp_path_factory.mktemp("predicted")
    shutil.copytree(original, folder, dirs_exist_ok=True)
    return folder, succeed(*PREDICT, *EVERYTHING, cwd=folder)


def submission(path: Path) -> dict[str, str]:
    """Return the encoding of each image id; assert that each id has one row."""
    header, *rows = path.read_text().splitlines()
    assert header == "ImageId,EncodedPixels"
    found = dict(row.split(",") for row in rows)
    assert len(found) == len(rows)
    return found


def masks(folder: Path) -> dict[str, NDArray[np.uint8]]:
    return {path.stem: np.asarray(Image.open(path)) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def truth(predicted: tuple[Path, str]) -> Truth:
    """Return probabilities and mask of each image, from a data file made by preprocessing."""
    folder, _ = predicted
    words = [
        "--images",
        IMAGES,
        "--no-annotations",
        "--out",
        "data.h5",
        "--size",
        str(SIZE),
        "--workers",
        "1",
    ]
    succeed(*words, cwd=folder, program="preprocess.py")
    _, reference = load_backend("reference")
    found = {}
    with Store.open(folder / "data.h5") as store:
        images = np.empty((store.count, SIZE, SIZE, 1), np.float32)
        store.read(np.arange(store.count), images, None)
        probabilities = Predictor(find_members([folder / MODEL]), reference, "cpu").predict(images)[..., 0]
        for image_id, size, probability in zip(store.ids, store.sizes, probabilities, strict=True):
            found[image_id] = probability, resize_image(probability, *size) >= np.float32(0.5)
    return found


def test_every_output_shows_what_evaluating_a_data_file_would(
    predicted: tuple[Path, str], truth: Truth
) -> None:
    folder, said = predicted
    answers = submission(folder / "submission.csv")
    assert set(answers) == set(truth) == {Path(name).name for name in SIZES}
    pictures = masks(folder / "masks")
    record = {image["id"]: image for image in json.loads((folder / "answers.json").read_text())["images"]}
    positives = set()
    for name, (height, width) in SIZES.items():
        image_id = Path(name).name
        mask = truth[image_id][1]
        assert mask.shape == (height, width)
        assert mask.any() == (name in BRIGHT), name
        assert not mask.all()
        np.testing.assert_array_equal(rle.decode(answers[image_id], height, width), mask)
        assert (answers[image_id] == "-1") == (not mask.any())
        assert pictures[image_id].dtype == np.uint8
        np.testing.assert_array_equal(pictures[image_id], mask * np.uint8(255))
        assert record[image_id]["file"] == f"{name}.dcm"
        assert (record[image_id]["height"], record[image_id]["width"]) == (height, width)
        assert record[image_id]["positive"] == mask.any()
        assert record[image_id]["pixels"] == mask.sum()
        assert record[image_id]["share"] == pytest.approx(mask.mean())
        full = resize_image(truth[image_id][0], height, width)
        assert record[image_id]["existence"] == pytest.approx(float(full.max()), abs=1e-7)
        left = int(mask[:, : width // 2].sum())
        halves = record[image_id]["pixels_in_left_half"], record[image_id]["pixels_in_right_half"]
        assert halves == (left, mask.sum() - left)
        box = record[image_id]["box"]
        if mask.any():
            positives.add(image_id)
            inside = mask[box["top"] :, box["left"] :][: box["height"], : box["width"]]
            assert inside.sum() == mask.sum()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        else:
            assert box is None
    assert "5 images predicted: 3 positive, 2 negative" in said
    assert (folder / "submission.csv").read_bytes().startswith(b"ImageId,EncodedPixels\n")
    # b has no Series Instance UID.
    assert {path.stem for path in (folder / "seg").iterdir()} == positives - {"b"}
    assert "no Segmentation object: b/b.dcm: its header has no SeriesInstanceUID" in said
    for path in (folder / "seg").iterdir():
        mask = truth[path.stem][1]
        source = pydicom.dcmread(folder / IMAGES / f"{path.stem}.dcm")
        found = highdicom.seg.segread(path).get_pixels_by_source_instance([source.SOPInstanceUID])
        np.testing.assert_array_equal(found[0, ..., 0], mask)
        np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, mask)


def test_what_else_is_known_is_in_the_json(predicted: tuple[Path, str]) -> None:
    folder, _ = predicted
    answers = json.loads((folder / "answers.json").read_text())
    assert answers["format"] == "pneumoseg-prediction"
    totals = {"images": 5, "predicted": 5, "positive": 3, "negative": 2, "unreadable": 0, "duplicates": 0}
    assert answers["totals"] == totals
    assert answers["thresholds"] == {"pixel": 0.5, "area": 0.0, "score": 0.5, "origin": "default"}
    assert answers["model"]["framework"] == "reference"
    assert answers["model"]["members"][0]["checkpoint"] == f"{MODEL}/best.safetensors"
    image = {image["id"]: image for image in answers["images"]}
    assert image["a"]["area_mm2"] == pytest.approx(image["a"]["pixels"] * 0.125)
    assert image["a"]["area_at"] == "PixelSpacing"
    assert image["b"]["area_mm2"] == pytest.approx(image["b"]["pixels"] * 0.04)
    assert image["b"]["area_at"] == "ImagerPixelSpacing"
    assert image["d"]["area_mm2"] is None
    # Rows run to the patient's left, so the bright region in the left half is on the patient's right.
    assert image["a"]["pixels_in_right_half"] == 0
    assert image["a"]["sides"] == ["R"]
    assert image["d"]["sides"] is None
    assert image["b"]["no_segmentation"] == "its header has no SeriesInstanceUID"


def test_the_probabilities_are_those_of_the_model(predicted: tuple[Path, str], truth: Truth) -> None:
    folder, _ = predicted
    with h5py.File(folder / "maps.h5", "r") as file:
        assert file.attrs["format"] == b"pneumoseg-probabilities"
        ids = [text.decode() for text in file["ids_0"]]
        assert ids == ["a", "b", "c", "d", "e"]
        assert [tuple(size) for size in file["sizes_0"]] == list(SIZES.values())
        assert file["probabilities_0"].dtype == np.float32
        for image_id, found in zip(ids, file["probabilities_0"], strict=True):
            np.testing.assert_allclose(found[..., 0], truth[image_id][0], atol=1e-6)


def test_pictures_show_image_outline_and_truth(place: Path) -> None:
    truth = np.zeros(SIZES["d"], np.uint8)
    truth[5:30, 10:40] = 1
    (place / "truth.csv").write_text(f"ImageId, EncodedPixels\nd, {rle.encode(truth)}\nc, 9999 1\n")
    words = ["--overlays", "look", "--masks", "masks", "--annotations", "truth.csv"]
    said = succeed(*changed(PREDICT, *words), cwd=place, how=run_here)
    assert "truth not drawn: b/c.dcm: annotation row 3" in said
    picture = np.asarray(Image.open(place / "look" / "d.png"))
    height, width = SIZES["d"]
    factor = 256 // height
    assert picture.shape[1] == factor * (3 * width + 8)
    panels = picture[-factor * height :: factor, ::factor]
    predicted = outline(masks(place / "masks")["d"])
    edge = outline(truth)
    middle = panels[:, width + 4 : 2 * width + 4]
    np.testing.assert_array_equal((middle == (255, 0, 0)).all(axis=-1), predicted & ~edge)
    np.testing.assert_array_equal((middle == (0, 255, 0)).all(axis=-1), edge & ~predicted)
    np.testing.assert_array_equal((middle == (255, 255, 0)).all(axis=-1), edge & predicted)
    np.testing.assert_array_equal(panels[:, :width, 0], radiograph(3, height, width, True))


def test_unreadable_and_double_images_are_named_and_the_rest_goes_on(place: Path) -> None:
    whole = (place / IMAGES / "a.dcm").read_bytes()
    (place / IMAGES / "torn.dcm").write_bytes(whole[:900])
    (place / IMAGES / "text.dcm").write_text("this is no radiograph\n")
    write_radiograph(place / IMAGES / "z" / "a.dcm", 90, radiograph(90, 37, 53, True))  # its own image
    shutil.copy(place / IMAGES / "e.dcm", place / IMAGES / "z" / "e.dcm")  # the same image again
    (place / IMAGES / "0").mkdir()
    (place / IMAGES / "0" / "d.dcm").write_text("nor this\n")  # the other d is a DICOM file
    said = succeed(*PREDICT, "--json", "answers.json", "--masks", "masks", cwd=place, how=run_here, status=3)
    answers = submission(place / "submission.csv")
    uid = "1.2.826.0.1.3680043.8.498.4711.3."
    # Files with the same stem get their SOP Instance UID as id.
    readable = [f"{uid}0", "b", "c", f"{uid}3", f"{uid}4", f"{uid}90"]
    assert list(answers) == [*readable, "d", "text", "torn"]
    assert [answers[name] for name in ("d", "text", "torn")] == ["-1"] * 3
    assert {path.stem for path in (place / "masks").iterdir()} == set(readable)
    for name in ("0/d", "text", "torn"):
        title = r"unreadable \(its row in the submission says -1, no pneumothorax\)"
        assert re.search(rf"^{title}: {name}\.dcm: \S", said, re.MULTILINE), said
    assert f"passed over, its id came before: z/e.dcm: {uid}4" in said
    record = json.loads((place / "answers.json").read_text())
    assert record["totals"]["images"] == 9
    assert [image["file"] for image in record["unreadable"]] == ["0/d.dcm", "text.dcm", "torn.dcm"]
    assert all(image["reason"] for image in record["unreadable"])
    assert record["duplicates"] == [{"id": f"{uid}4", "file": "z/e.dcm"}]
    done = run_here(*PREDICT, "--strict", "--overwrite", cwd=place)
    assert_one_error(done, "3 of 10 files could not be read", "--strict")
    assert submission(place / "submission.csv") == answers


def test_a_readable_copy_wins_over_an_unreadable_one(place: Path) -> None:
    uid = "1.2.826.0.1.3680043.8.498.4711.3.0"
    (place / IMAGES / "a.dcm").rename(place / IMAGES / f"{uid}.dcm")
    (place / IMAGES / "0").mkdir()
    (place / IMAGES / "0" / f"{uid}.dcm").write_bytes((place / IMAGES / f"{uid}.dcm").read_bytes()[:400])
    said = succeed(*PREDICT, cwd=place, how=run_here)
    assert submission(place / "submission.csv")[uid] != "-1"
    assert f"passed over, its id came before: 0/{uid}.dcm" in said


def test_every_name_is_an_id_of_its_own(place: Path) -> None:
    """Names without suffix, with dots, blanks and any letters; `A` and `a` get different files."""
    shutil.rmtree(place / IMAGES)
    numbers = "1.2.276.0.1517875165"
    names = [
        f"{numbers}.878027",
        f"{numbers}.123456",
        "A.dcm",
        "CR.0001",
        "CR.0002",
        "a.DICOM",
        "b c  à日.v2.dcm",
    ]
    for number, name in enumerate(sorted(names)):
        write_radiograph(
            place / IMAGES / name, 1, radiograph(number, 30 + number, 41, True), SOPInstanceUID=None
        )
    (place / IMAGES / "dicomdir").write_bytes((place / IMAGES / "A.dcm").read_bytes())
    words = ["--masks", "masks", "--overlays", "look", "--json", "answers.json"]
    said = succeed(*changed(PREDICT, *words), cwd=place, how=run_here)
    ids = [f"{numbers}.123456", f"{numbers}.878027", "A", "CR.0001", "CR.0002", "a", "b c  à日.v2"]
    assert list(submission(place / "submission.csv")) == ids
    assert [image["id"] for image in json.loads((place / "answers.json").read_text())["images"]] == ids
    assert "passed over" not in said
    files = {name: file_name(name) for name in ids} | {"a": f"a-{hashlib.sha256(b'a').hexdigest()[:8]}"}
    assert f"another id gives the same file name: a.DICOM: its files are called {files['a']}" in said
    assert len({name.casefold() for name in files.values()}) == len(ids)
    heights = {name: mask.shape[0] for name, mask in masks(place / "masks").items()}
    assert heights == {files[name]: 30 + number for number, name in enumerate(ids)}
    assert set(masks(place / "look")) == set(files.values())
    assert "no faults" in succeed("check", "--images", IMAGES, cwd=place, how=run_here)


def test_a_folder_too_deep_to_open_is_named(place: Path) -> None:
    folder = os.open(place / IMAGES, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=folder)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    said = succeed(*PREDICT, cwd=place, how=run_here, status=3)
    assert "File name too long" in said
    assert submission(place / "submission.csv")["d" * 200] == "-1"


def test_what_of_the_annotations_is_not_drawn_is_said(place: Path) -> None:
    truth = np.zeros(SIZES["d"], np.uint8)
    truth[5:30, 10:40] = 1
    rows = [f"d.png,{rle.encode(truth)}", "a.dcm,-1.0", "gone,-1", ",-1", "b,1 x", "c.png.dcm,-1"]
    (place / "truth.csv").write_text("\n".join(["ImageId,EncodedPixels", *rows]))
    words = ["--overlays", "look", "--annotations", "truth.csv"]
    said = succeed(*changed(PREDICT, *words), cwd=place, how=run_here).splitlines()
    assert (
        "truth not drawn: b/b.dcm: annotation row 6: '1 x' is not a list of whole numbers from 0 on" in said
    )
    assert "annotation row without id or value: 5" in said
    assert "annotation row that is no mask: 6: '1 x' is not a list of whole numbers from 0 on" in said
    assert "annotation id taken without its suffix: d.png, a.dcm, c.png.dcm" in said
    assert "image without annotation: e.dcm" in said
    assert "annotation without image: gone" in said
    panels = np.asarray(Image.open(place / "look" / "d.png"))
    assert ((panels == (255, 255, 0)).all(axis=-1) | (panels == (0, 255, 0)).all(axis=-1)).sum() > 100


def test_annotations_of_no_image_are_named_with_what_is_unlike(place: Path) -> None:
    (place / "truth.csv").write_text("ImageId,EncodedPixels\nx/a.dcm,-1\nx/d.dcm,1 2\n")
    words = ["--overlays", "look", "--annotations", "truth.csv"]
    said = succeed(*changed(PREDICT, *words), cwd=place, how=run_here).splitlines()
    near = "The table has 'x/a.dcm', and there is 'a': an id is the file's name alone."
    assert f"no annotation is of any image. {near}" in said


def test_a_folder_where_nothing_can_be_read(place: Path) -> None:
    (place / "torn").mkdir()
    (place / "torn" / "x.dcm").write_text("nothing")
    done = run_here(*changed(PREDICT, "--images", "torn"), cwd=place)
    assert (done.returncode, done.stderr) == (3, "")
    assert submission(place / "submission.csv") == {"x": "-1"}


def probabilities(folder: Path, *words: str) -> NDArray[np.float32]:
    outputs = ["--probabilities", "maps.h5", "--out", "other.csv", "--overwrite"]
    succeed(*changed(PREDICT, *words), *outputs, cwd=folder, how=run_here)
    with h5py.File(folder / "maps.h5", "r") as file:
        found: NDArray[np.float32] = file["probabilities_0"][:]
    return found


def test_ensembles_and_mirror_images_are_means(place: Path) -> None:
    write_model(place / "second", seed=5)
    shutil.copytree(place / "second", place / "folds" / "fold1")
    shutil.copytree(place / MODEL, place / "folds" / "fold0")
    one, two = probabilities(place), probabilities(place, "--model", "second")
    assert np.abs(one - two).max() > 1e-3
    for words in (["--model", MODEL, "second"], ["--model", "folds"]):
        np.testing.assert_allclose(probabilities(place, *words), (one + two) / 2, atol=1e-6)
    mirrored = place / "mirrored"
    for name in SIZES:
        dataset = pydicom.dcmread(place / IMAGES / f"{name}.dcm")
        pixels = np.ascontiguousarray(dataset.pixel_array[:, ::-1])
        write_radiograph(mirrored / f"{name}.dcm", 1, pixels)
    back = probabilities(place, "--images", "mirrored")[:, :, ::-1]
    assert np.abs(one - back).max() > 1e-3
    np.testing.assert_allclose(probabilities(place, "--tta"), (one + back) / 2, atol=1e-6)


def test_a_model_of_equalised_images_gets_such_images(place: Path) -> None:
    """From a DICOM file, from a data file that was equalised in the same way, and in Python."""
    write_model(place / "equal", clahe=(3.0, 4))
    words = ["--images", IMAGES, "--no-annotations", "--size", str(SIZE), "--workers", "1"]
    for name, more in {"plain": [], "equal": ["--clahe", "3", "--clahe-tiles", "4"]}.items():
        succeed(*words, *more, "--out", f"{name}.h5", cwd=place, program="preprocess.py", how=run_here)
    images = {}
    for name in ("plain", "equal"):
        with Store.open(place / f"{name}.h5") as store:
            images[name] = np.empty((store.count, SIZE, SIZE, 1), np.float32)
            store.read(np.arange(store.count), images[name], None)
    for plain, equal in zip(images["plain"][..., 0], images["equal"][..., 0], strict=True):
        np.testing.assert_array_equal(equalize(plain, Clahe(3.0, 4)), equal)
    _, reference = load_backend("reference")
    predictor = Predictor(find_members([place / "equal"]), reference, "cpu")
    expected = predictor.predict(images["equal"])
    np.testing.assert_allclose(probabilities(place, "--model", "equal"), expected, atol=1e-6)
    assert np.abs(predictor.predict(images["plain"]) - expected).max() > 0.05
    found = pneumoseg.load_model(place / "equal", backend="reference").predict(place / IMAGES / "e.dcm")
    np.testing.assert_allclose(found.probability, expected[-1, ..., 0], atol=1e-6)  # of SIZE x SIZE already
    both = ["--model", MODEL, "equal"]
    refused(*PREDICT, *both, cwd=place, how=run_here, says=["contrast", "no CLAHE", "limit 3 and 4x4 tiles"])


def test_thresholds_are_the_models_or_those_given(place: Path) -> None:
    def positives(*words: str) -> set[str]:
        succeed(*changed(PREDICT, *words), "--json", "a.json", "--overwrite", cwd=place, how=run_here)
        return {
            image["id"] for image in json.loads((place / "a.json").read_text())["images"] if image["positive"]
        }

    assert positives() == {"a", "b", "d"}
    save_thresholds(place / MODEL, Thresholds(0.5, 1024**2 / 2, 0.5))
    assert positives() == set()
    save_thresholds(place / MODEL, Thresholds(0.5, 16000, 0.5))
    assert "area 16000," in succeed(*PREDICT, "--overwrite", cwd=place, how=run_here)
    assert positives("--area", "0") == {"a", "b", "d"}
    assert positives("--area", "0", "--pixel", "0.001", "--score", "0.001") == {"a", "b", "c", "d", "e"}


def test_a_second_run_is_refused_or_replaces_its_files_and_gives_the_same_bytes(place: Path) -> None:
    words = [*PREDICT, "--masks", "masks", "--json", "answers.json", "--probabilities", "maps.h5"]
    succeed(*words, cwd=place, how=run_here)
    first = content(place)
    refused(*words, cwd=place, how=run_here, says=["submission.csv exists already", "--overwrite"])
    masks_alone = ["--out", "other.csv", "--masks", "masks"]
    says = ["--masks masks is not empty", "--overwrite"]
    refused(*PREDICT, *masks_alone, cwd=place, how=run_here, says=says)
    (place / "masks" / "a.png").unlink()
    others = changed(words, "--overwrite", "--batch-size", "2", "--workers", "2")
    succeed(*others, cwd=place, how=run_here)
    second = content(place)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} <= {"maps.h5"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "nowhere"], ["the model folder nowhere does not exist", "Train first"]),
        (["--model", IMAGES], [f"the model folder {IMAGES} has no trained model"]),
        (["--images", "nowhere"], ["the images folder nowhere does not exist"]),
        (["--images", "answers.txt"], ["the images folder answers.txt is not a folder"]),
        (["--images", MODEL], [f"no DICOM file (.dcm) below {MODEL}"]),
        (["--pixel", "0.9"], ["thresholds: expected 0 < pixel <= score <= 1", "pixel 0.9, score 0.5"]),
        (["--area", "-1"], ["threshold area"]),
        (["--batch-size", "0"], ["--batch-size must be at least 1. Received: 0"]),
        (["--workers", "0"], ["--workers must be at least 1. Received: 0"]),
        (["--device", "gpu:3"], ["--device gpu:3: NumPy sees no such device"]),
        (["--overlays", "look", "--annotations", "nowhere.csv"], ["cannot read the annotations nowhere.csv"]),
        (["--out", IMAGES], [f"--out {IMAGES}", "is the folder of the images."]),
        (["--out", "answers.txt"], ["--out answers.txt exists", "--overwrite"]),
        (["--json", "answers.txt"], ["--json answers.txt exists", "--overwrite"]),
        (["--probabilities", "answers.txt"], ["--probabilities answers.txt exists", "--overwrite"]),
        (["--masks", "answers.txt"], ["--masks answers.txt is not a folder"]),
        (["--masks", ".", "--overwrite"], ["--masks . would contain the folder of the images"]),
        (["--masks", MODEL, "--overwrite"], [f"--masks {MODEL} is the folder of a model."]),
        (["--masks", "other", "--overwrite"], ["--masks other holds other things than .png files: x.txt"]),
        (["--masks", "new", "--overlays", "new"], ["--overlays new is the place of --masks."]),
        (
            ["--masks", "new", "--out", "new/s.csv"],
            ["--masks new would contain the place of --out new/s.csv"],
        ),
        (["--masks", "answers.txt/new"], ["cannot write answers.txt/new"]),
        (["--json", "answers.txt/a.json"], ["cannot write answers.txt/a.json"]),
        (
            ["--overlays", "look", "--annotations", "truth.csv", "--out", "truth.csv", "--overwrite"],
            ["--out truth.csv is the annotations"],
        ),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_a_mistake_is_one_clear_error(place: Path, words: list[str], says: list[str]) -> None:
    (place / "answers.txt").write_text("precious\n")
    (place / "truth.csv").write_text("ImageId, EncodedPixels\nd, -1\n")
    (place / "other").mkdir()
    (place / "other" / "x.txt").touch()
    refused(*changed(PREDICT, *words), cwd=place, how=run_here, says=says)


def test_a_backend_nobody_knows(place: Path) -> None:
    refused("predict", "-f", "refernce", "--images", IMAGES, cwd=place, how=run_here, says=["did you mean"])


@pytest.mark.parametrize(
    "words", [["--out", "new/s.csv"], ["--masks", "masks"], ["--json", "a.json"], ["--probabilities", "p.h5"]]
)
def test_a_full_disk_leaves_everything_as_it_was(place: Path, words: list[str]) -> None:
    succeed(*PREDICT, cwd=place, how=run_here)
    before = content(place)
    done = run_with_full_disk(*changed(PREDICT, *words), "--overwrite", cwd=place, limit=40)
    assert_one_error(done, "cannot write", "File too large")
    after = content(place)
    after.pop("new", None)  # a folder created for the file may stay
    assert after == before


def test_ctrl_c_leaves_everything_as_it_was(place: Path) -> None:
    for number in range(40):
        write_radiograph(
            place / IMAGES / "many" / f"{number}.dcm", 100 + number, radiograph(number, 90, 80, True)
        )
    before = content(place)
    words = words_of("run.py", *PREDICT, *EVERYTHING)
    with interruptible():
        process = subprocess.Popen(
            words, cwd=place, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    while not any(place.glob(".look.*.partial/*.png")):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n"), output + errors
    assert "Nothing was written." in output
    assert content(place) == before


@pytest.mark.parametrize("name", BACKENDS[:2])  # all of them: tests/parity/test_masks.py
def test_every_backend_gives_the_same_masks(
    predicted: tuple[Path, str], truth: Truth, place: Path, name: str
) -> None:
    folder, _ = predicted
    words = [
        "predict",
        "-f",
        name,
        "--model",
        MODEL,
        "--images",
        IMAGES,
        "--masks",
        "masks",
        "--device",
        "cpu",
    ]
    done = run(*words, "--probabilities", "maps.h5", cwd=place)
    assert done.returncode == 0, done.stderr
    found = masks(place / "masks")
    assert found.keys() == truth.keys()
    for image_id, (probability, mask) in truth.items():
        full = resize_image(probability, *mask.shape)
        certain = np.abs(full - 0.5) > 1e-4
        np.testing.assert_array_equal(found[image_id][certain] > 0, mask[certain])
    with h5py.File(folder / "maps.h5") as one, h5py.File(place / "maps.h5") as other:
        np.testing.assert_allclose(one["probabilities_0"], other["probabilities_0"], atol=1e-5)


def test_real_radiographs(place: Path, real_data: Path) -> None:
    shutil.copytree(real_data / "dicom", place / "real")
    shutil.copytree(real_data / "lungs-mini" / "dicom-images-train", place / "real" / "lungs")
    said = succeed(
        *changed(PREDICT, "--images", "real"),
        "--masks",
        "masks",
        "--dicom-seg",
        "seg",
        cwd=place,
        how=run_here,
    )
    answers = submission(place / "submission.csv")
    files = {path.stem: path for path in (place / "real").rglob("*.dcm")}
    assert answers.keys() == files.keys()
    pictures = masks(place / "masks")
    for image_id, path in files.items():
        source = pydicom.dcmread(path, stop_before_pixels=True)
        size = source.Rows, source.Columns
        mask = rle.decode(answers[image_id], *size)
        assert mask.any()  # a radiograph is brighter than the model's phantoms
        np.testing.assert_array_equal(pictures[image_id], mask * np.uint8(255))
        made = place / "seg" / f"{image_id}.dcm"
        if "SeriesInstanceUID" in source:
            np.testing.assert_array_equal(pydicom.dcmread(made).pixel_array, mask)
        else:
            assert not made.exists()
            assert re.search(rf"no Segmentation object: \S*{re.escape(path.name)}: its header has no", said)


def scored_and_evaluated(place: Path, images: str, annotations: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`score` of the output of `predict` equals `evaluate` on a data file of the same images."""
    save_thresholds(place / MODEL, Thresholds(0.3, 500, 0.6))
    sources = ["--images", images, "--annotations", annotations, "--workers", "1"]
    made = ["--size", str(SIZE), "--out", "data.h5"]
    succeed(*sources, *made, cwd=place, how=run_here, program="preprocess.py")
    data = ["--data", "data.h5", "--split", "all"]
    succeed("evaluate", "-f", "reference", *data, "--json", "evaluated.json", cwd=place, how=run_here)
    succeed(*changed(PREDICT, "--images", images), cwd=place, how=run_here)
    assert "no faults" in succeed("check", "submission.csv", "--images", images, cwd=place, how=run_here)
    truth = ["--annotations", annotations, "--json", "scored.json"]
    succeed("score", "submission.csv", *truth, cwd=place, how=run_here)
    scored, evaluated = (json.loads((place / f"{name}.json").read_text()) for name in ("scored", "evaluated"))
    return scored, evaluated


def assert_same_scores(scored: dict[str, Any], evaluated: dict[str, Any]) -> None:
    assert 0 < scored["dice_positive"] < 1
    for key in ("dice", "dice_all_empty", "dice_positive", "iou", "tp", "fp", "fn", "tn"):
        assert scored[key] == pytest.approx(evaluated[key], abs=1e-6), key


def test_the_submission_scores_what_evaluate_prints(place: Path) -> None:
    rows = ["ImageId, EncodedPixels"]
    for name, (height, width) in SIZES.items():
        truth = np.zeros((height, width), np.uint8)
        if name != "b/b":
            truth[height // 4 : height // 2, width // 6 : width // 2] = name != "b/c"
        rows.append(f"{Path(name).name}, {rle.encode(truth)}")
    (place / "truth.csv").write_text("\n".join(rows))
    scored, evaluated = scored_and_evaluated(place, IMAGES, "truth.csv")
    assert_same_scores(scored, evaluated)
    assert (scored["tp"], scored["fp"], scored["fn"], scored["tn"]) == (2, 1, 1, 1)


def test_the_same_on_real_radiographs(place: Path, real_data: Path) -> None:
    lungs = real_data / "lungs-mini"
    found = scored_and_evaluated(place, str(lungs / "dicom-images-train"), str(lungs / "train-rle.csv"))
    assert_same_scores(*found)
