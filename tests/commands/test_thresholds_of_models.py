"""Every command reports the origin of its thresholds, and uses mirror images as their search did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import prepare, refused, run_here, succeed, train
from tiny_model import SIZE, radiograph, write_model, write_radiograph

from core.prediction.exports import update_thresholds, write_metadata
from core.scoring.thresholds import Thresholds, save_thresholds
from core.scoring.views import PLAIN, Views

ALL_GIVEN = ["--pixel", "0.25", "--area", "3", "--score", "0.75"]
SEARCHED = Thresholds(0.25, 100, 0.5)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two models and three radiographs."""
    for number, name in enumerate(("one", "two")):
        write_model(tmp_path / name, seed=1 + number)
    for number in range(3):
        pixels = radiograph(number, 40 + number, 53, bright=number == 0)
        write_radiograph(tmp_path / "images" / f"{number}.dcm", number, pixels)
    return tmp_path


def predict(place: Path, *words: str) -> tuple[str, Any]:
    """Run `predict`; return the text on the terminal and the JSON."""
    fixed = ["--images", "images", "--workers", "1", "--json", "a.json", "--overwrite"]
    said = succeed("predict", "-f", "reference", *fixed, *words, cwd=place, how=run_here)
    return said, json.loads((place / "a.json").read_text())


def lines(said: str, beginning: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith(beginning)]


def test_a_model_without_thresholds_among_others_is_named(place: Path) -> None:
    save_thresholds(place / "one", SEARCHED, {"flip": False})
    said, answers = predict(place, "--model", "one", "two")
    assert answers["thresholds"] == {"pixel": 0.5, "area": 0, "score": 0.5, "origin": "default"}
    (line,) = lines(said, "thresholds of ")
    assert line.startswith("thresholds of two were never searched")
    assert "so the defaults hold for all models" in line
    assert "run.py tune -f NAME --model two" in line


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["one"], []),
        (["two"], []),
        (["one", "one"], []),
        (["one", "two"], ALL_GIVEN),
    ],
)
def test_nothing_is_said_where_nothing_is_odd(place: Path, models: list[str], words: list[str]) -> None:
    save_thresholds(place / "one", SEARCHED, {"flip": False})
    said, _ = predict(place, "--model", *models, *words)
    assert lines(said, "thresholds of ") == []
    assert "mirror images" not in said


def test_thresholds_that_were_searched_with_mirror_images_are_used_with_them(place: Path) -> None:
    _, plain = predict(place, "--model", "one", *ALL_GIVEN)
    _, asked = predict(place, "--model", "one", *ALL_GIVEN, "--tta")
    existence = [[image["existence"] for image in answers["images"]] for answers in (plain, asked)]
    assert existence[0] != existence[1]
    save_thresholds(place / "one", Thresholds(0.25, 3, 0.75), {"flip": True})
    said, followed = predict(place, "--model", "one")
    assert followed["model"]["mirror_images"] is True
    assert [image["existence"] for image in followed["images"]] == existence[1]
    assert ", with mirror images (as the thresholds were searched)" in said
    assert lines(said, "thresholds of ") == []


def test_what_is_asked_for_goes_before_and_is_remarked_on(place: Path) -> None:
    save_thresholds(place / "one", SEARCHED, {"flip": True, "operating_point": {"sensitivity": 0.95}})
    save_thresholds(place / "two", SEARCHED, {"flip": False})
    for model, option, line, options in (
        (
            "one",
            "--no-tta",
            "thresholds of one were searched with mirror images, and are used without",
            "one --sensitivity 0.95",
        ),
        (
            "two",
            "--tta",
            "thresholds of two were searched without mirror images, and are used with",
            "two --tta",
        ),
    ):
        said, answers = predict(place, "--model", model, option)
        assert answers["model"]["mirror_images"] is (option == "--tta")
        (found,) = lines(said, "thresholds of ")
        assert found.startswith(line)
        assert found.endswith(f"run.py tune -f NAME --model {options}")


def test_scales_are_followed_or_remarked_on_like_mirror_images(place: Path) -> None:
    searched = {"flip": True, "scales": [0.75, 1.0]}
    save_thresholds(place / "one", SEARCHED, searched)
    said, followed = predict(place, "--model", "one")
    assert ", with mirror images and scales 0.75,1 (as the thresholds were searched)" in said
    assert followed["model"]["scales"] == [0.75, 1.0]
    assert lines(said, "thresholds of ") == []
    _, asked = predict(place, "--model", "one", *ALL_GIVEN, "--tta", "--scales", "1,0.75")
    assert [one["existence"] for one in asked["images"]] == [one["existence"] for one in followed["images"]]
    said, answers = predict(place, "--model", "one", "--no-tta", "--scales", "1")
    assert (answers["model"]["mirror_images"], answers["model"]["scales"]) == (False, [1.0])
    (line,) = lines(said, "thresholds of one ")
    assert "with mirror images, and are used without them; with scales 0.75,1, and are used with 1;" in line
    said, _ = predict(place, "--model", "one", "--scales", "1.25,1")
    (line,) = lines(said, "thresholds of one ")
    assert "with scales 0.75,1, and are used with 1,1.25;" in line
    assert "run.py tune -f NAME --model one --tta --scales 1,1.25" in line
    save_thresholds(place / "two", SEARCHED, searched | {"scales": [1.0]})
    said, answers = predict(place, "--model", "one", "two")
    assert answers["model"]["scales"] == [1.0]
    assert len(lines(said, "thresholds of one were searched with scales 0.75,1")) == 1


@pytest.mark.parametrize(
    ("scales", "says"),
    [
        ("1,1", ["scales", "different numbers", "1.0, 1.0"]),
        ("0", ["from 0.1 to 10", "0.0"]),
        ("nan", ["nan"]),
        ("1,1.01", ["scales 1 and 1.01 both give images of 32x32"]),
    ],
)
def test_scales_that_cannot_be(place: Path, scales: str, says: list[str]) -> None:
    words = ["predict", "-f", "reference", "--images", "images", "--model", "one", "--scales", scales]
    refused(*words, cwd=place, how=run_here, says=says)


@pytest.mark.parametrize("scales", [[0.0], 3, ["x"], []])
def test_damaged_scales_are_named(place: Path, scales: object) -> None:
    save_thresholds(place / "one", SEARCHED, {"flip": True, "scales": scales})
    words = ["predict", "-f", "reference", "--images", "images", "--model", "one"]
    refused(*words, cwd=place, how=run_here, says=["one/thresholds.json", "scales"])


def test_models_that_disagree_are_told(place: Path) -> None:
    save_thresholds(place / "one", SEARCHED, {"flip": True})
    save_thresholds(place / "two", SEARCHED, {"flip": False})
    said, answers = predict(place, "--model", "two", "one")
    assert answers["model"]["mirror_images"] is False
    (line,) = lines(said, "thresholds of ")
    assert line.startswith("thresholds of one were searched with mirror images, and are used without")


def test_a_file_that_does_not_say_is_taken_as_before(place: Path) -> None:
    save_thresholds(place / "one", SEARCHED)
    for words, mirrored in (([], False), (["--tta"], True)):
        said, answers = predict(place, "--model", "one", *words)
        assert answers["model"]["mirror_images"] is mirrored
        assert lines(said, "thresholds of ") == []


def test_given_thresholds_owe_nothing_to_the_file(place: Path) -> None:
    save_thresholds(place / "one", SEARCHED, {"flip": True})
    said, answers = predict(place, "--model", "one", *ALL_GIVEN)
    assert answers["model"]["mirror_images"] is False
    assert lines(said, "thresholds of ") == []


def test_a_damaged_word_about_mirror_images_is_named(place: Path) -> None:
    save_thresholds(place / "one", SEARCHED, {"flip": "yes"})
    words = ["predict", "-f", "reference", "--images", "images", "--model", "one"]
    refused(*words, cwd=place, how=run_here, says=["one/thresholds.json", "flip", "'yes'"])


def test_tune_evaluate_and_the_export_agree(tmp_path: Path) -> None:
    prepare(tmp_path)
    train("--epochs", "2", "--set", "training.validation_fraction=0.4", cwd=tmp_path, how=run_here)
    folder, given = tmp_path / "reference_model", ["-f", "reference", "--data", "data.h5"]
    write_metadata(folder / "export", {"format": "pneumoseg-export", "white": "1"})
    for words, mirrored in ((["--tta", "--scales", "0.5,1"], True), ([], False)):
        succeed("tune", *given, *words, cwd=tmp_path, how=run_here)
        said = succeed("evaluate", *given, "--json", "e.json", "--overwrite", cwd=tmp_path, how=run_here)
        assert json.loads((tmp_path / "e.json").read_text())["origin"]["flip"] is mirrored
        assert lines(said, "thresholds of ") == []
        facts = json.loads((folder / "export" / "metadata.json").read_text())
        assert facts.get("mirror_images") == ("true" if mirrored else None)
        assert facts.get("scales") == ("[0.5, 1.0]" if mirrored else None)
        assert json.loads((folder / "thresholds.json").read_text())["scales"] == [0.5] * mirrored + [1.0]
        assert ("0.5,1" in said) is mirrored
        assert facts["white"] == "1"
    said = succeed("evaluate", *given, "--tta", cwd=tmp_path, how=run_here)
    assert len(lines(said, "thresholds of reference_model were searched without mirror images")) == 1


def test_an_export_says_that_its_thresholds_want_mirror_images(place: Path) -> None:
    for flip in (True, False):
        save_thresholds(place / "one", SEARCHED, {"flip": flip})
        words = ["export", "--model", "one", "--to", "onnx", "--out", f"out{flip}"]
        said = succeed(*words, cwd=place, how=run_here)
        facts = json.loads((place / f"out{flip}" / "metadata.json").read_text())
        assert facts.get("mirror_images") == ("true" if flip else None)
        assert ("mirror image" in said) is flip
        assert "clahe" not in facts
    write_model(place / "equalised", clahe=(3.0, 4))
    succeed("export", "--model", "equalised", "--to", "onnx", "--out", "equal", cwd=place, how=run_here)
    assert (
        json.loads((place / "equal" / "metadata.json").read_text())["clahe"] == '{"limit": 3.0, "tiles": 4}'
    )
    write_metadata(place / "bare", {"format": "pneumoseg-export"})
    update_thresholds(place / "bare", SEARCHED, Views(flip=True, scales=(0.5, 1.0)))
    facts = json.loads((place / "bare" / "metadata.json").read_text())
    assert (facts["mirror_images"], facts["scales"]) == ("true", "[0.5, 1.0]")
    update_thresholds(place / "bare", SEARCHED, PLAIN)
    assert not {"mirror_images", "scales"} & set(json.loads((place / "bare" / "metadata.json").read_text()))
    assert SIZE == 32
