"""`evaluate` and `tune` as a user types them, against scores computed by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from command_line import NETWORK, history, prepare, refused, run, run_here, succeed, train, write_data
from numpy.typing import NDArray

import backends.reference
from core.prediction.trained_models import Predictor, find_members
from core.scoring.thresholds import THRESHOLDS_FILE, Thresholds, save_thresholds
from core.scoring.views import Views
from data.annotations import rle
from data.batches.splits import split_store
from data.hdf5.file_writing import ImageMetadata, write
from data.hdf5.store import Store
from data.radiographs.resize import resize_image, resize_mask

SIZE = 32
KEYS = {"dice", "dice_all_empty", "dice_positive", "iou", "auroc", "tp", "fp", "fn", "tn", "thresholds"}


def write_originals(path: Path, images: int, seed: int = 0) -> None:
    """Images of odd sizes with rectangles brighter than the noise; a third is positive."""
    random = np.random.default_rng(seed)
    sizes = random.integers(35, 90, (images, 2)).astype(np.int32)
    pixels = np.zeros((images, SIZE, SIZE), np.float32)
    masks = np.zeros((images, SIZE, SIZE), np.uint8)
    runs = []
    for number, (height, width) in enumerate(sizes):
        truth = np.zeros((height, width), np.uint8)
        if number % 3 == 0:
            top, left = random.integers(0, 20, 2)
            truth[top : top + 7 + number % 5, left : left + 13] = 1
        noise = random.random(truth.shape, np.float32) * 0.5
        pixels[number] = resize_image(noise + 0.5 * truth.astype(np.float32), SIZE, SIZE)
        masks[number] = resize_mask(truth, SIZE, SIZE)
        runs.append(rle.runs(rle.encode(truth)))
    rows = ImageMetadata(
        ids=[f"image-{number}" for number in range(images)],
        sizes=sizes,
        positive=np.array([len(one) > 0 for one in runs]),
        runs=runs,
    )
    write(path, rows, (SIZE, SIZE), iter([(pixels, masks)]), per_dataset=7, storage="float32", attributes={})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data.h5`, `network.yaml` and the `reference_model` that was trained on it."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_originals(folder / "data.h5", 75)
    (folder / "network.yaml").write_text(NETWORK)
    train("--epochs", "8", "--set", "training.validation_fraction=0.4", cwd=folder, how=run_here)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of that folder that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def evaluate(*words: str, cwd: Path) -> Any:
    succeed(
        *("evaluate", "-f", "reference", *words, "--data", "data.h5", "--json", "e.json", "--overwrite"),
        cwd=cwd,
        how=run_here,
    )
    return json.loads((cwd / "e.json").read_text())


def by_hand(
    folder: Path, chosen: NDArray[np.int64], thresholds: Thresholds, flip: bool = False
) -> list[tuple[NDArray[Any], NDArray[Any], float]]:
    """Return mask, truth and existence of images: one image at a time, with the winners' threshold rule."""
    members = find_members([folder / "reference_model"])
    predictor = Predictor(members, backends.reference.backend.load(), "cpu", views=Views(flip))
    found = []
    with Store.open(folder / "data.h5") as store:
        for index in chosen.tolist():
            image = np.empty((1, SIZE, SIZE, 1), np.float32)
            store.read(np.array([index]), image, None)
            truth = store.truth(index)
            p = resize_image(predictor.predict(image)[0, ..., 0], *truth.shape)
            k = max(1, int(np.ceil(thresholds.area * truth.size / 1024**2)))
            certain = (p >= np.float32(thresholds.score)).sum() >= k
            mask = (p >= np.float32(thresholds.pixel)) & certain
            found.append((mask, truth.astype(bool), float(np.sort(p.ravel())[-k])))
    return found


def held_out(folder: Path) -> NDArray[np.int64]:
    with Store.open(folder / "data.h5") as store:
        return split_store(store, 0.4, 7).validation


def check(scores: Any, found: list[tuple[NDArray[Any], NDArray[Any], float]]) -> None:
    """Compare the JSON of an evaluation with masks computed here."""
    dice = [1.0 if not (p | t).any() else 2 * (p & t).sum() / (p.sum() + t.sum()) for p, t, _ in found]
    iou = [1.0 if not (p | t).any() else (p & t).sum() / (p | t).sum() for p, t, _ in found]
    positive = np.array([t.any() for _, t, _ in found])
    said = np.array([p.any() for p, _, _ in found])
    pairs = [
        (a > b) + 0.5 * (a == b) for _, t, a in found for _, other, b in found if t.any() and not other.any()
    ]
    expected = {
        "dice": np.mean(dice),
        "dice_all_empty": 1 - positive.mean(),
        "dice_positive": np.mean([d for d, t in zip(dice, positive, strict=True) if t]),
        "iou": np.mean(iou),
        "auroc": np.mean(pairs),
        "tp": (said & positive).sum(),
        "fp": (said & ~positive).sum(),
        "fn": (~said & positive).sum(),
        "tn": (~said & ~positive).sum(),
    }
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert [row["predicted_pixels"] for row in scores["rows"]] == [int(p.sum()) for p, _, _ in found]
    assert [row["truth_pixels"] for row in scores["rows"]] == [int(t.sum()) for _, t, _ in found]


@pytest.mark.parametrize("batch", ["1", "4", "100"])
def test_scores_are_those_of_masks_at_the_original_size(trained: Path, folder: Path, batch: str) -> None:
    scores = evaluate("--batch-size", batch, cwd=folder)
    assert scores.keys() >= KEYS
    saved = json.loads((trained / "reference_model" / THRESHOLDS_FILE).read_text())
    assert scores["thresholds"] == {key: saved[key] for key in ("pixel", "area", "score")}
    assert scores["origin"]["thresholds"] == "tuned"
    check(scores, by_hand(folder, held_out(folder), Thresholds(**scores["thresholds"])))
    assert scores["images"] == 30
    assert scores["dice_positive"] > 0.1


def test_all_images_with_given_thresholds_and_mirror_images(folder: Path) -> None:
    given = ["--pixel", "0.4", "--area", "9000", "--score", "0.55", "--tta", "--split", "all"]
    scores = evaluate(*given, cwd=folder)
    check(scores, by_hand(folder, np.arange(75), Thresholds(0.4, 9000, 0.55), flip=True))
    assert min(scores[key] for key in ("tp", "tn")) > 0
    assert scores["origin"]["thresholds"] == "given"
    assert scores["origin"]["flip"] is True


def test_an_old_model_has_the_default_thresholds(folder: Path) -> None:
    (folder / "reference_model" / THRESHOLDS_FILE).unlink()
    scores = evaluate(cwd=folder)
    assert scores["thresholds"] == {"pixel": 0.5, "area": 0.0, "score": 0.5}
    check(scores, by_hand(folder, held_out(folder), Thresholds()))


def test_the_record_tells_where_it_comes_from(folder: Path) -> None:
    origin = evaluate(cwd=folder)["origin"]
    assert (origin["backend"], origin["data"], origin["split"]) == ("reference", "data.h5", "validation")
    (member,) = origin["members"]
    assert (member["folder"], member["checkpoint"]) == ("reference_model", "best.safetensors")
    assert member["history"] == history(folder / "reference_model")
    assert 1 <= member["epoch"] <= 8


def test_several_models_stand_side_by_side(folder: Path) -> None:
    shutil.copytree(folder / "reference_model", folder / "other")
    (folder / "other" / THRESHOLDS_FILE).unlink()
    names = ("reference_model", "other")
    words = ["evaluate", "-f", "reference", "--model", names[0], "--model", names[1], "--data", "data.h5"]
    text = succeed(*words, "--json", "e.json", "--report", "e.html", cwd=folder, how=run_here)
    first, second = json.loads((folder / "e.json").read_text())
    assert second["thresholds"]["area"] == 0
    assert first["auroc"] != 0
    page = (folder / "e.html").read_text(encoding="utf-8")
    shown = [set(re.findall(f'alt="Probability of reference: {name} for ([^"]+)"', page)) for name in names]
    assert shown[0] <= shown[1], "the same images for both"
    assert len(shown[0]) > 4
    for scores in (first, second):
        assert f"{scores['dice']:.4f} ({scores['dice_all_empty']:.4f})" in text


def test_an_ensemble_is_judged_out_of_fold(folder: Path) -> None:
    """Two runs with other held-out images: each image is predicted by the models that held it out."""
    train("--seed", "8", "--epochs", "1", "--out", "second", cwd=folder, how=run_here)
    both = ["--model", "reference_model", "second/reference_model"]
    scores = evaluate(*both, "--pixel", "0.3", "--score", "0.3", "--area", "0", cwd=folder)
    with Store.open(folder / "data.h5") as store:
        sides = [set(split_store(store, *of).validation.tolist()) for of in ((0.4, 7), (0.2, 8))]
    assert scores["images"] == len(sides[0] | sides[1])
    assert sides[0] & sides[1]
    alone = evaluate("--pixel", "0.3", "--score", "0.3", "--area", "0", cwd=folder)
    own = {row["id"]: row for row in alone["rows"]}
    same = [row == own[row["id"]] for row in scores["rows"] if int(row["id"][6:]) in sides[0] - sides[1]]
    assert all(same)
    assert len(same) > 5


def test_tune_writes_what_it_found(folder: Path) -> None:
    model = folder / "reference_model"
    before = (model / THRESHOLDS_FILE).read_text()
    (model / THRESHOLDS_FILE).unlink()
    text = succeed("tune", "-f", "reference", "--data", "data.h5", cwd=folder, how=run_here)
    saved = json.loads((model / THRESHOLDS_FILE).read_text())
    assert saved.pop("seconds") < 60
    assert saved == {key: value for key, value in json.loads(before).items() if key != "seconds"}
    assert saved["dice"] >= saved["dice_default"]
    assert (saved["images"], saved["positives"], saved["flip"]) == (30, 10, False)
    assert f"{saved['dice']:.4f}" in text
    assert f"{saved['dice_all_empty']:.4f}" in text
    scores = evaluate(cwd=folder)
    assert scores["dice"] == pytest.approx(saved["dice"], abs=1e-9)
    default = Thresholds()
    words = [f"--{name}={getattr(default, name)}" for name in ("pixel", "area", "score")]
    assert evaluate(*words, cwd=folder)["dice"] == pytest.approx(saved["dice_default"], abs=1e-9)


def test_training_without_held_out_images_searches_nothing(tmp_path: Path) -> None:
    prepare(tmp_path)
    text = train("--set", "training.validation_fraction=0", cwd=tmp_path, how=run_here)
    assert "Thresholds were not searched" in text
    assert not (tmp_path / "reference_model" / THRESHOLDS_FILE).exists()
    words = ["evaluate", "-f", "reference", "--data", "data.h5"]
    refused(*words, cwd=tmp_path, how=run_here, says=["was trained on all images", "--split all"])
    refused("tune", *words[1:], cwd=tmp_path, how=run_here, says=["was trained on all images"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "nowhere"], ["the model folder nowhere does not exist"]),
        (["--data", "nothing.h5"], ["nothing.h5 does not exist"]),
        (["--data", "other.h5"], ["trained on 75 images", "holds 24", "--split all"]),
        *(
            (
                ["--data", f"{size}.h5", *split],
                ["takes images of 32x32", f"{size}.h5 holds {size}.", "--size 32"],
            )
            for size in ("48x48", "16x16", "32x48", "48x32", "32x20", "20x32", "20x40")
            for split in ([], ["--split", "all"])
        ),
        *(
            (
                ["--data", "equalised.h5", *split],
                [
                    "takes images with no CLAHE",
                    "equalised.h5 have CLAHE with limit 2 and 8x8 tiles",
                    "without",
                ],
            )
            for split in ([], ["--split", "all"])
        ),
        (["--json", "reference_model"], ["cannot write reference_model: it is a folder"]),
        (["--json", "data.h5/e.json"], ["cannot write data.h5/e.json"]),
        (["--json", "data.h5"], ["--json data.h5 is the data file"]),
        (["--report", "./data.h5"], ["--report data.h5 is the data file"]),
        (["--json", "one", "--report", "one"], ["--report one is the place of --json"]),
        (["--pixel", "0.9", "--score", "0.5"], ["pixel 0.9, score 0.5"]),
        (["--batch-size", "0"], ["--batch-size must be at least 1. Received: 0"]),
        (["--device", "gpu:7"], ["gpu:7"]),
        (["-f", "tenserflow"], ["unknown backend 'tenserflow'; did you mean 'tf'?"]),
    ],
)
def test_bad_input_is_one_clear_error(trained: Path, folder: Path, words: list[str], says: list[str]) -> None:
    prepare(folder, images=24)
    (folder / "data.h5").rename(folder / "other.h5")
    if len(words) > 1 and (found := re.fullmatch(r"(\d+)x(\d+)\.h5", words[1])):
        write_data(folder / words[1], 12, int(found[1]), 0, width=int(found[2]))
    shutil.copy(trained / "data.h5", folder / "data.h5")
    shutil.copy(trained / "data.h5", folder / "equalised.h5")
    with h5py.File(folder / "equalised.h5", "a") as file:
        file.attrs.update({"clahe_limit": 2.0, "clahe_tiles": 8})
    data = [] if "--data" in words else ["--data", "data.h5"]
    refused("evaluate", "-f", "reference", *data, *words, cwd=folder, how=run_here, says=says)


def test_other_images_of_the_same_size_are_an_external_test_set(folder: Path) -> None:
    write_originals(folder / "outside.h5", 20, seed=9)
    (folder / "data.h5").unlink()
    (folder / "outside.h5").rename(folder / "data.h5")
    scores = evaluate("--split", "all", cwd=folder)
    check(scores, by_hand(folder, np.arange(20), Thresholds(**scores["thresholds"])))


def test_damaged_thresholds_are_named(folder: Path) -> None:
    (folder / "reference_model" / THRESHOLDS_FILE).write_text("{")
    says = [f"reference_model/{THRESHOLDS_FILE} is damaged"]
    refused("evaluate", "-f", "reference", "--data", "data.h5", cwd=folder, how=run_here, says=says)


def test_it_runs_as_a_program(folder: Path) -> None:
    save_thresholds(folder / "reference_model", Thresholds(0.25, 100, 0.5))
    done = run("evaluate", "-f", "reference", "--data", "data.h5", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pixel 0.25, area 100, score 0.5 (tuned)" in done.stdout
    assert "30 held-out images, 10 positive" in done.stdout
