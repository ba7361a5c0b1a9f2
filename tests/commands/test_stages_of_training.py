"""Trainings in stages: each begins with the model before it; they are interrupted, resumed and passed on."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    BEST,
    LAST,
    NETWORK,
    arrays,
    assert_same_run,
    history,
    refused,
    run_here,
    started,
    succeed,
    train,
    write_data,
)
from test_interrupted_training import go_on, wait_for_line

from core.experiment.checkpoint import load_checkpoint

pytestmark = pytest.mark.turns(3)

MODEL = "reference_model"
IMAGES = 210
STAGES = """\
  average_best: 2
  stages:
    - {size: 20, epochs: 2, optimizer: {learning_rate: 0.02}}
    - {size: 32, epochs: 3, batch_size: 3, augmentation: {horizontal_flip: 0.5}}
    - {epochs: 1, optimizer: {name: sgd, learning_rate: 0.001}}
"""
FOLDERS = (f"{MODEL}/stage1", f"{MODEL}/stage2", MODEL)
BEGIN = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]


def prepare(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_data(folder / "data.h5", IMAGES, 32, 0)
    (folder / "network.yaml").write_text(NETWORK + STAGES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in three stages without interruption; `said` is its output."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder)
    (folder / "said").write_text(train(cwd=folder, how=run_here))
    return folder


def assert_same(whole: Path, folder: Path) -> None:
    for name in FOLDERS:
        assert_same_run(whole / name, folder / name)
    of_both = [json.loads((path / MODEL / "thresholds.json").read_text()) for path in (whole, folder)]
    for thresholds in of_both:
        del thresholds["seconds"]
    assert of_both[0] == of_both[1]


def test_each_stage_begins_with_the_best_model_of_the_stage_before(whole: Path) -> None:
    said = (whole / "said").read_text()
    for number, size in ((1, "20x20"), (2, "32x32"), (3, "32x32")):
        assert f"stage {number} of 3:\ndata: data.h5, {IMAGES} images of {size}" in said
    assert [len(history(whole / name)) for name in FOLDERS] == [2, 3, 1]
    for before, name in itertools.pairwise(FOLDERS):
        files = ("averaged.safetensors", BEST)
        chosen = next(file for file in files if (whole / before / file).is_file())
        start = load_checkpoint(whole / name / LAST).progress.start
        assert start is not None
        assert (start.file, start.part) == (chosen, "the whole network")
    stages = [load_checkpoint(whole / name / BEST).configuration.training for name in FOLDERS]
    assert [stage.stage for stage in stages] == [1, 2, 3]
    assert [stage.batch_size for stage in stages] == [5, 3, 3]
    assert (whole / MODEL / "thresholds.json").is_file()
    assert not (whole / MODEL / "stage2" / "thresholds.json").exists()


def test_a_stage_begins_with_the_weights_of_the_model_before(tmp_path: Path) -> None:
    """A learning rate of almost 0 leaves them as they are."""
    prepare(tmp_path)
    stages = "[{epochs: 2}, {epochs: 1, optimizer: {learning_rate: 1e-30}}]"
    train(
        "--set", f"training.stages={stages}", "--set", "training.average_best=0", cwd=tmp_path, how=run_here
    )
    before, after = arrays(tmp_path / MODEL / "stage1", BEST), arrays(tmp_path / MODEL)
    for name in ("down/kernel", "middle/bias", "up/kernel"):
        np.testing.assert_array_equal(after[name], before[name])
    assert not np.array_equal(after["down/moving_mean"], before["down/moving_mean"])


@pytest.mark.parametrize("line", ["epoch 1/2", "epoch 2/3"])
def test_an_interrupted_training_goes_on_in_its_stage_and_ends_the_same(
    whole: Path, tmp_path: Path, line: str
) -> None:
    prepare(tmp_path)
    with started(tmp_path, BEGIN) as process:
        wait_for_line(process, line)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert (process.returncode, errors) == (130, ""), output + errors
    assert "Interrupted in stage " in output
    go_on(output, tmp_path)
    assert_same(whole, tmp_path)


def test_a_killed_training_goes_on_in_its_stage_and_ends_the_same(whole: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    for words, line in ((BEGIN, "Best model"), ([*BEGIN[:4], "--resume"], "epoch 2/3")):
        with started(tmp_path, words) as process:
            wait_for_line(process, line)
            process.kill()
            process.communicate()
    said = train("--resume", cwd=tmp_path, how=run_here)
    assert "stage 1 of 3: finished already" in said
    assert_same(whole, tmp_path)


def test_another_backend_takes_over_in_the_middle_of_a_stage(tmp_path: Path) -> None:
    """In float64, so that what is compared is the arithmetic."""
    prepare(tmp_path)
    options = ["--set", "training.precision=float64", "--set", "training.average_best=0"]
    train(*options, "--out", "whole", cwd=tmp_path, how=run_here)
    with started(tmp_path, [*BEGIN, *options]) as process:
        wait_for_line(process, "epoch 2/3")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert "Interrupted in stage 2 of 3, epoch 3" in output
    succeed("-f", "torch", "--data", "data.h5", "--resume", MODEL, cwd=tmp_path)
    for name in ("stage2", "."):
        found, expected = (
            arrays(path / name) for path in (tmp_path / "torch_model", tmp_path / "whole" / MODEL)
        )
        for array, values in expected.items():
            np.testing.assert_allclose(found[array], values, rtol=1e-7, atol=1e-7, err_msg=array)


def test_tensorflow_takes_over_from_pytorch_in_float16_with_frozen_blocks(tmp_path: Path) -> None:
    """The loss scale is so large that it overflows; losses differ by what float16 rounds."""
    prepare(tmp_path)
    second = (
        "{epochs: 5, freeze: [down], ema: {decay: 0.9}, loss_scale: {initial: 16777216, growth_interval: 9}}"
    )
    options = [
        *("--set", "training.precision=mixed_float16", "--set", "training.average_best=0"),
        *("--set", f"training.stages=[{{size: 20, epochs: 1}}, {second}]"),
    ]
    words = ["-f", "torch", *BEGIN[2:], *options]
    succeed(*words, "--out", "whole", cwd=tmp_path)
    with started(tmp_path, words) as process:
        wait_for_line(process, "epoch 2/5")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert "Interrupted in stage 2 of 2, epoch " in output
    stopped = len(history(tmp_path / "torch_model"))
    succeed("-f", "tf", "--data", "data.h5", "--resume", "torch_model", cwd=tmp_path)
    found, expected = (history(tmp_path / name) for name in ("tf_model", "whole/torch_model"))
    assert 2 <= stopped < 5 == len(found)
    assert sum(epoch["skipped_steps"] for epoch in expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one["loss_scale"] == other["loss_scale"]
        assert one["skipped_steps"] == other["skipped_steps"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-3)
    before, after = arrays(tmp_path / "tf_model/stage1", BEST), arrays(tmp_path / "tf_model")
    np.testing.assert_array_equal(after["down/kernel"], before["down/kernel"])


def test_folds_have_stages(tmp_path: Path) -> None:
    prepare(tmp_path)
    train("--folds", "2", "--set", "training.average_best=0", cwd=tmp_path, how=run_here)
    for fold in ("fold0", "fold1"):
        assert [len(history(tmp_path / MODEL / fold / name)) for name in ("stage1", "stage2", ".")] == [
            2,
            3,
            1,
        ]
    # A fold that was not begun, and one whose last stage was not.
    shutil.copytree(tmp_path / MODEL, tmp_path / "kept")
    shutil.rmtree(tmp_path / MODEL / "fold1")
    for name in ("last.safetensors", "best.safetensors"):
        (tmp_path / MODEL / "fold0" / name).unlink()
    said = train("--resume", cwd=tmp_path, how=run_here)
    assert "fold 0, stage 2 of 3: finished already" in said
    assert "fold 1, stage 1 of 3:\ndata" in said
    for fold in ("fold0", "fold1"):
        for name in ("stage1", "stage2", "."):
            assert_same_run(tmp_path / "kept" / fold / name, tmp_path / MODEL / fold / name)


def test_the_model_is_evaluated_on_the_larger_images_of_its_file(tmp_path: Path) -> None:
    prepare(tmp_path)
    train("--set", "training.stages=[]", "--set", "training.size=20", cwd=tmp_path, how=run_here)
    words = ["evaluate", "-f", "reference", "--data", "data.h5", "--json", "told.json"]
    succeed(*words, cwd=tmp_path, how=run_here)
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["origin"]["height"], told["origin"]["width"]) == (20, 20)


def test_what_cannot_be_resumed_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    place = tmp_path / "copy"
    resume = [*BEGIN[:4], "--resume"]
    for key, says in (
        (
            "training.stages[0].epochs=5",
            "stage 1 of 3 is finished, and training.epochs was 2 in it and is now 5",
        ),
        ("training.stages[0].optimizer.learning_rate=9", "training.optimizer.learning_rate was 0.02 in it"),
        ("training.stages=[{}]", "training.size was"),
        ("training.stages=[{}, {}, {}, {}]", "holds stage 3, not stage 4 of 4"),
    ):
        refused(*resume, "--set", key, cwd=place, says=[says], how=run_here)
    refused(*resume, f"{MODEL}/stage1", cwd=place, says=["one of several stages"], how=run_here)
    refused(
        *BEGIN,
        "--set",
        "training.stages[1].size=64",
        cwd=place,
        says=["stage 2: ", "32x32, smaller"],
        how=run_here,
    )
    for file in (LAST, BEST, "averaged.safetensors"):
        (place / MODEL / file).unlink(missing_ok=True)
    says = ["has come to stage2 and is not finished", "--resume"]
    refused("evaluate", "-f", "reference", "--data", "data.h5", cwd=place, says=says, how=run_here)


def test_thresholds_of_a_continued_training_are_searched_for_the_same_operating_point(tmp_path: Path) -> None:
    prepare(tmp_path)
    keys = ("training.stages=[]", "training.average_best=0")
    train(*(word for key in keys for word in ("--set", key)), cwd=tmp_path, how=run_here)
    tune = ["tune", "-f", "reference", "--data", "data.h5", "--sensitivity", "0.25", "--tta"]
    succeed(*tune, cwd=tmp_path, how=run_here)
    said = train("--resume", "--epochs", "3", cwd=tmp_path, how=run_here)
    found = json.loads((tmp_path / MODEL / "thresholds.json").read_text())
    assert (found["operating_point"], found["flip"]) == ({"sensitivity": 0.25}, True)
    assert found["sensitivity"]["value"] >= 0.25
    assert "ensitivity" in said
