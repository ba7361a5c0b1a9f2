"""`run.py train` on a file of `preprocess.py`: its text, its files, and the earlier runs that it keeps."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import (
    BEST,
    LAST,
    NETWORK,
    arrays,
    assert_same_run,
    content,
    history,
    name_patients,
    refused,
    run_here,
    succeed,
    train,
)
from event_files import shown
from numpy.typing import NDArray
from PIL import Image

from core.experiment.checkpoint import load_checkpoint
from data.batches.splits import stratified_split
from data.hdf5.store import Store

MODEL, LOGS = "reference_model", "reference_logs"
EPOCHS = 3
TAGS = {
    "loss/training": "loss",
    "loss/validation": "validation_loss",
    "dice/all": "dice",
    "dice/all_empty": "dice_all_empty",
    "dice/positive": "dice_positive",
    "auroc": "auroc",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}
EPOCH_LINE = re.compile(
    r"epoch (?P<epoch>\d+)/3  loss (?P<loss>\S+)  validation: loss (?P<validation_loss>\S+)  "
    r"Dice (?P<dice>\S+) \(all-empty (?P<dice_all_empty>\S+)\)  positives (?P<dice_positive>\S+)  "
    r"AUROC (?P<auroc>\S+)  "
    r"(?P<images_per_second>\S+) images/s(?P<best>  best)?"
)


class Chain:
    """Phantoms, preprocessing and training, run once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.logs = folder, folder / MODEL, folder / LOGS
        (folder / "network.yaml").write_text(NETWORK)
        made = ["--out", "demo", "--count", "24", "--size", "64", "--positive-fraction", "0.4", "--seed", "5"]
        found = ["--images", "demo/dicom-images-train", "--annotations", "demo/train-rle.csv"]
        self.drawn = succeed("phantoms", *made, program="preprocess.py", cwd=folder)
        written = [*found, "--out", "data.h5", "--size", "32"]
        self.preprocessed = succeed(*written, program="preprocess.py", cwd=folder)
        self.shown = train("--epochs", str(EPOCHS), cwd=folder)
        self.records = history(self.model)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


def test_the_counts_are_printed(chain: Chain) -> None:
    assert "24 phantoms, 10 with a pneumothorax" in chain.drawn
    assert "python preprocess.py --images demo/dicom-images-train" in chain.drawn
    counts = dict(re.findall(r"^│ (.+?) +│ +([\d,]+) │$", chain.preprocessed, re.MULTILINE))
    assert counts["DICOM files found"] == "24"
    assert counts["images written"] == "23"
    assert counts["skipped: without annotation"] == "1"
    assert counts["skipped: unreadable"] == "0"
    assert (
        "data: data.h5, 23 images of 32x32, 10 positive; 18 to train, 5 held out\nloss: bce + dice\n"
        in chain.shown
    )


def test_the_network_and_the_device_are_printed(chain: Chain) -> None:
    # 3*3*1*4 + 4 and 4*4 + 4, each with two times 4 of batch norm; 3*3*4*1 + 1.
    for name, output, parameters in (
        ("down", "16x16x4", 48),
        ("middle", "16x16x4", 28),
        ("up", "32x32x1", 37),
    ):
        assert re.search(rf"│ {name} +│.*│ {output} +│ +{parameters} │", chain.shown)
    assert "network: 32x32x1 in, 32x32x1 out, 113 parameters" in chain.shown
    assert f"backend: NumPy {np.__version__}, device: cpu\n" in chain.shown


def test_each_epoch_is_a_line_with_the_numbers_of_the_history(chain: Chain) -> None:
    lines = [line for line in chain.shown.splitlines() if line.startswith("epoch ")]
    assert len(lines) == len(chain.records) == EPOCHS
    for line, record in zip(lines, chain.records, strict=True):
        match = EPOCH_LINE.fullmatch(line)
        assert match, line
        for key in set(EPOCH_LINE.groupindex) - {"best"}:
            digits = 1 if key == "images_per_second" else 4
            assert float(match[key]) == pytest.approx(record[key], abs=0.51 * 10**-digits), key
        losses = [earlier["validation_loss"] for earlier in chain.records[: record["epoch"]]]
        assert bool(match["best"]) == (record["validation_loss"] <= min(losses))


def test_the_history_has_a_record_of_each_epoch(chain: Chain) -> None:
    for number, record in enumerate(chain.records, start=1):
        scaling = {"skipped_steps", "loss_scale"}
        assert record.keys() == {"epoch", "scored_on", "step", *scaling, *TAGS.values()}
        assert all(record[key] is None for key in scaling)
        assert (record["epoch"], record["scored_on"]) == (number, "validation")
        assert record["step"] == number * 4  # 18 images, 5 in a batch
        assert record["learning_rate"] == 0.01
        assert record["images_per_second"] > 0
        assert 0 <= record["dice"] <= 1
        assert 0 <= record["dice_positive"] <= 1
        assert 0 <= record["auroc"] <= 1
        assert record["loss"] > 0
    assert chain.records[-1]["loss"] < chain.records[0]["loss"]


def held_out(chain: Chain) -> NDArray[np.bool_]:
    """Return for each held-out image whether it is positive."""
    with Store.open(chain.folder / "data.h5") as store:
        chosen = stratified_split(store.positive, 0.2, seed=7).validation
        masks = np.empty((len(chosen), 32, 32, 1), np.uint8)
        store.read(chosen, np.empty(masks.shape, np.float32), masks)
    positive: NDArray[np.bool_] = masks.any(axis=(1, 2, 3))
    assert positive.any()
    assert not positive.all()
    return positive


def test_the_floor_is_the_share_of_empty_masks_held_out(chain: Chain) -> None:
    for record in chain.records:
        assert record["dice_all_empty"] == pytest.approx(1 - held_out(chain).mean())


def test_the_checkpoints_are_of_the_last_and_the_best_epoch(chain: Chain) -> None:
    best = min(chain.records, key=lambda record: float(record["validation_loss"]))
    for name, epochs in ((LAST, EPOCHS), (BEST, best["epoch"])):
        checkpoint = load_checkpoint(chain.model / name)
        assert len(checkpoint.progress.history) == epochs
        assert (checkpoint.progress.step, checkpoint.progress.batch) == (epochs * 4, 0)
        assert checkpoint.configuration.training.epochs == EPOCHS
        assert all(np.isfinite(array).all() for array in checkpoint.arrays.values())
    assert (
        f"Best model: Dice {best['dice']:.4f} (all-empty floor {best['dice_all_empty']:.4f})" in chain.shown
    )


def test_the_export_is_of_the_best_epoch(chain: Chain) -> None:
    best = arrays(chain.model, BEST)
    with np.load(chain.model / "export" / "weights.npz") as exported:
        assert exported.files
        for name in exported.files:
            np.testing.assert_array_equal(exported[name], best[name], err_msg=name)


def samples(chain: Chain) -> int:
    """Return the number of held-out images that are shown: at most four positive and two negative ones."""
    positives = int(held_out(chain).sum())
    return min(positives, 4) + min(len(held_out(chain)) - positives, 2)


def test_the_picture_shows_the_held_out_images(chain: Chain) -> None:
    with Image.open(chain.model / "predictions.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        pixels = np.asarray(picture)
    assert pixels.shape[0] % samples(chain) == 0
    assert pixels.shape[1] >= 3 * 32
    assert ((pixels[..., 1] == 255) & (pixels[..., 2] == 0)).any(), "no outline of a true mask"


def test_tensorboard_shows_every_epoch(chain: Chain) -> None:
    scalars, pictures = shown(chain.logs)
    assert scalars.keys() == TAGS.keys()
    for tag, key in TAGS.items():
        assert scalars[tag] == {
            record["epoch"]: pytest.approx(record[key], rel=1e-6) for record in chain.records
        }
    assert pictures.keys() == {f"validation/{number}" for number in range(1, samples(chain) + 1)}
    for steps in pictures.values():
        assert steps.keys() <= {1, 2, 3}
        for encoded in steps.values():
            with Image.open(io.BytesIO(encoded)) as picture:
                assert picture.size[0] >= 3 * 32


def test_nothing_else_is_written(chain: Chain) -> None:
    assert {path.name for path in chain.model.iterdir()} == {
        *(LAST, BEST, "history.json", "export", "predictions.png", "thresholds.json")
    }
    assert {path.name for path in chain.folder.iterdir()} == {
        *("demo", "data.h5", "network.yaml", MODEL, LOGS)
    }


@pytest.mark.parametrize("out", [".", "deep/er"])
def test_an_earlier_run_is_kept_under_another_name(folder: Path, out: str) -> None:
    kept: list[dict[str, Any]] = []
    for number in range(3):
        said = train("--out", out, "--epochs", "1", "--seed", str(number), cwd=folder, how=run_here)
        if number:
            for name in (MODEL, LOGS):
                path = Path(out, name)
                assert f"{path} holds an earlier run; it is kept as {path}.{number}\n" in said
        kept.append({name: content(folder / out / name) for name in (MODEL, LOGS)})
    for name in (MODEL, LOGS):
        contents = [content(folder / out / f"{name}{suffix}") for suffix in (".1", ".2", "")]
        assert contents == [found[name] for found in kept]
        assert contents[0] != contents[1] != contents[2]


def test_a_finished_run_goes_on_for_longer(folder: Path) -> None:
    train("--epochs", "4", "--out", "whole", cwd=folder, how=run_here)
    train("--epochs", "1", cwd=folder, how=run_here)
    said = train("--resume", "--epochs", "4", cwd=folder, how=run_here)
    assert "earlier run" not in said
    assert_same_run(folder / "whole" / MODEL, folder / MODEL)


def test_tensorboard_shows_all_epochs_of_a_run_that_went_on_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    train("--epochs", "1", cwd=folder, how=run_here)
    train("--resume", "--epochs", "3", cwd=folder, how=run_here)
    scalars, _ = shown(folder / LOGS)
    assert scalars.keys() == TAGS.keys()
    for steps in scalars.values():
        assert sorted(steps) == [1, 2, 3]


def test_a_run_goes_on_in_another_folder(folder: Path) -> None:
    train("--epochs", "3", "--out", "whole", cwd=folder, how=run_here)
    train("--epochs", "2", "--out", "begun", cwd=folder, how=run_here)
    begun = content(folder / "begun")
    train("--resume", f"begun/{MODEL}", "--out", "ended", "--epochs", "3", cwd=folder, how=run_here)
    assert_same_run(folder / "whole" / MODEL, folder / "ended" / MODEL)
    assert content(folder / "begun") == begun


def test_a_finished_run_is_whole_in_another_folder_too(folder: Path) -> None:
    train("--out", "begun", cwd=folder, how=run_here)
    train("--resume", f"begun/{MODEL}", "--out", "ended", cwd=folder, how=run_here)
    assert_same_run(folder / "begun" / MODEL, folder / "ended" / MODEL)


def test_without_held_out_images_the_training_images_are_scored(folder: Path) -> None:
    said = train("--set", "training.validation_fraction=0", cwd=folder, how=run_here)
    assert "all to train; none is held out, so the scores below are of the training images" in said
    assert [line for line in said.splitlines() if "  training: loss " in line and "all-empty 0.6667" in line]
    assert {record["scored_on"] for record in history(folder / MODEL)} == {"training"}


def test_a_run_that_no_longer_improves_stops_early(folder: Path) -> None:
    words = ["--set", "training.early_stop.patience=2", "--set", "training.early_stop.min_delta=10"]
    said = train("--epochs", "50", *words, cwd=folder, how=run_here)
    assert "Stopped after epoch 3: no improvement for 2 epochs\n" in said
    assert len(history(folder / MODEL)) == 3
    assert len(load_checkpoint(folder / MODEL / BEST).progress.history) == 1


def test_the_seed_decides_everything(folder: Path) -> None:
    for out, seed in (("one", "3"), ("same", "3"), ("other", "4")):
        train("--seed", seed, "--out", out, cwd=folder, how=run_here)
    assert_same_run(folder / "one" / MODEL, folder / "same" / MODEL)
    with pytest.raises(AssertionError):
        assert_same_run(folder / "one" / MODEL, folder / "other" / MODEL)


@pytest.mark.parametrize("name", ["scans[old].h5", "scans[/old].h5"])
def test_a_name_is_printed_as_it_is(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "data.h5").rename(folder / name)
    said = train("--data", name, "--out", f"{name}.out", "--epochs", "1", cwd=folder, how=run_here)
    assert f"data: {name}, 24 images" in said
    assert f"Written: {name}.out/{MODEL}/" in said


def test_an_out_that_is_a_file_is_left_alone(folder: Path) -> None:
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
    for name in ("data.h5", "network.yaml"):
        says = [f"cannot write {name}/{MODEL}", "Not a directory"]
        refused(*words, "--out", name, cwd=folder, how=run_here, says=says)


def test_a_patient_is_not_held_out_in_part(folder: Path) -> None:
    """All images of a patient are on one side.

    There are four patients with six images each, two positive. Without patients 2 + 3 images are held out,
    with them one patient.
    """
    assert "19 to train, 5 held out" in train("--epochs", "1", cwd=folder, how=run_here)
    name_patients(folder / "data.h5", [f"{number // 6}" for number in range(24)])
    assert "18 to train, 6 held out" in train("--epochs", "1", cwd=folder, how=run_here)
