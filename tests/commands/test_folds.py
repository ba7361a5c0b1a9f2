"""K folds: each equals a run of its own; they are interrupted and resumed as one."""

from __future__ import annotations

import json
import re
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
    content,
    history,
    name_patients,
    prepare,
    refused,
    run,
    run_here,
    succeed,
    train,
)
from event_files import shown
from test_interrupted_training import go_on, killing, started, wait_for_line

from core.experiment.checkpoint import load_checkpoint
from core.prediction.trained_models import find_members
from core.scoring.thresholds import load_thresholds
from data.batches.splits import stratified_folds
from data.hdf5.store import Store

MODEL, LOGS = "reference_model", "reference_logs"
FOLDS = ["--folds", "3"]
BEGIN = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", *FOLDS]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds of an uninterrupted run; `said` is its output."""
    folder = tmp_path_factory.mktemp("whole")
    prepare(folder)
    (folder / "said").write_text(train(*FOLDS, cwd=folder, how=run_here))
    return folder


def assert_same_folds(whole: Path, folder: Path, model: str = MODEL) -> None:
    assert sorted(path.name for path in (folder / model).glob("fold*")) == ["fold0", "fold1", "fold2"]
    for name in ("fold0", "fold1", "fold2"):
        assert_same_run(whole / MODEL / name, folder / model / name)
        for file in ("export/weights.npz", "predictions.png"):
            assert (folder / model / name / file).stat().st_size == (
                whole / MODEL / name / file
            ).stat().st_size
    for name in ("", "fold0", "fold1", "fold2"):
        found = load_thresholds(folder / model / name)
        assert found is not None
        assert found == load_thresholds(whole / MODEL / name)


def test_every_fold_has_a_folder_of_its_own(whole: Path) -> None:
    said = (whole / "said").read_text()
    assert re.findall(r"^fold (\d):\n.* (\d+) to train, (\d+) held out$", said, re.MULTILINE) == [
        ("0", "16", "8"), ("1", "16", "8"), ("2", "16", "8")
    ]  # fmt: skip
    assert f"All 3 folds are trained; together they predict as an ensemble: {MODEL}\n" in said
    for number in range(3):
        name = f"fold{number}"
        model = whole / MODEL / name
        assert {path.name for path in model.iterdir()} == {
            LAST, BEST, "history.json", "export", "predictions.png", "thresholds.json"
        }  # fmt: skip
        settings = load_checkpoint(model / LAST).configuration.training
        assert (settings.folds, settings.fold) == (3, number)
        scalars, _ = shown(whole / LOGS / name)
        assert sorted(scalars["loss/training"]) == [1, 2]
    assert {path.name for path in (whole / MODEL).iterdir()} == {"fold0", "fold1", "fold2", "thresholds.json"}
    found = json.loads((whole / MODEL / "thresholds.json").read_text())
    assert (found["images"], found["positives"]) == (24, 8), "each image by the fold that has not seen it"
    assert [Path(path).parts[0] for path in found["checkpoints"]] == ["fold0", "fold1", "fold2"]
    members = find_members([whole / MODEL])
    assert [member.folder.name for member in members] == ["fold0", "fold1", "fold2"]


def test_each_is_scored_on_its_own_part(whole: Path) -> None:
    with Store.open(whole / "data.h5") as store:
        fold_of = stratified_folds(store.positive, 3, 7)
        for number in range(3):
            share = store.positive[fold_of == number].mean()
            for record in history(whole / MODEL / f"fold{number}"):
                assert record["dice_all_empty"] == pytest.approx(1 - share)
    kernels = [arrays(whole / MODEL / f"fold{number}")["down/kernel"] for number in range(3)]
    assert not np.array_equal(kernels[0], kernels[1])


def test_one_fold_alone_is_what_it_is_among_the_others(whole: Path, folder: Path) -> None:
    for number in ("2", "0", "1"):
        said = train(*FOLDS, "--fold", number, cwd=folder, how=run_here)
        assert "earlier run" not in said
        assert "fold" not in said.replace(f"fold{number}", "")
    assert_same_folds(whole, folder)


LARGE = [*BEGIN, "--batch-size", "3"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and configuration as in `whole`, with longer epochs."""
    folder = tmp_path_factory.mktemp("large")
    prepare(folder, images=180)
    train(*LARGE[4:], cwd=folder, how=run_here)
    return folder


def test_an_interrupted_run_goes_on_with_the_fold_under_way(large: Path, tmp_path: Path) -> None:
    prepare(tmp_path, images=180)
    with started(tmp_path, LARGE) as process:
        wait_for_line(process, "fold 1:")
        wait_for_line(process, "epoch 1/2")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    assert (process.returncode, errors) == (130, ""), output + errors
    assert "Interrupted in fold 1, epoch 2, after " in output
    assert not (tmp_path / MODEL / "fold2" / LAST).exists()
    before = content(tmp_path / MODEL / "fold0")
    go_on(output, tmp_path)
    assert_same_folds(large, tmp_path)
    assert content(tmp_path / MODEL / "fold0") == before


def test_a_fold_alone_is_resumed_alone(large: Path, tmp_path: Path) -> None:
    prepare(tmp_path, images=180)
    with started(tmp_path, [*LARGE, "--fold", "1"]) as process:
        wait_for_line(process, "epoch 1/2")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert "--fold 1 --resume" in output
    go_on(output, tmp_path)
    assert [path.name for path in (tmp_path / MODEL).iterdir()] == ["fold1"], "no thresholds of an ensemble"
    assert_same_run(large / MODEL / "fold1", tmp_path / MODEL / "fold1")


def test_without_its_number_all_folds_are_resumed(whole: Path, folder: Path) -> None:
    train(*FOLDS, "--fold", "1", cwd=folder, how=run_here)
    said = train("--resume", cwd=folder, how=run_here)
    assert "fold 1: finished already" in said
    assert_same_folds(whole, folder)


@pytest.mark.parametrize(
    ("moment", "done"),
    [
        ("predictions.png:1", []),
        ("thresholds.json:1", [0]),
        ("last.safetensors:3", [0]),
    ],
)
def test_a_run_killed_between_two_files_ends_the_same(
    whole: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory, moment: str, done: list[int]
) -> None:
    killed = run(*BEGIN, cwd=folder, env=killing(tmp_path_factory.mktemp("hook"), moment))
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    said = train("--resume", cwd=folder, how=run_here)
    assert [int(number) for number in re.findall(r"^fold (\d): finished already", said, re.MULTILINE)] == done
    assert_same_folds(whole, folder)
    assert {path.name for path in folder.iterdir()} == {"data.h5", "network.yaml", MODEL, LOGS}


def test_finished_folds_go_on_for_longer(whole: Path, folder: Path) -> None:
    train(*FOLDS, "--epochs", "1", cwd=folder, how=run_here)
    said = train("--resume", "--epochs", "2", cwd=folder, how=run_here)
    assert "finished already" not in said
    assert_same_folds(whole, folder)
    said = train("--resume", cwd=folder, how=run_here)
    assert said.count("finished already") == 3


def test_folds_go_on_in_another_folder(whole: Path, folder: Path) -> None:
    train(*FOLDS, "--epochs", "1", "--out", "begun", cwd=folder, how=run_here)
    begun = content(folder / "begun")
    words = ["--resume", f"begun/{MODEL}", "--out", "ended", "--epochs", "2"]
    train(*words, cwd=folder, how=run_here)
    assert_same_folds(whole, folder / "ended")
    assert content(folder / "begun") == begun


def test_an_earlier_run_is_kept_and_a_fold_joins_its_own_kind(folder: Path) -> None:
    train(cwd=folder, how=run_here)
    said = train(*FOLDS, "--fold", "0", cwd=folder, how=run_here)
    assert f"{MODEL} holds an earlier run; it is kept as {MODEL}.1\n" in said
    assert "earlier run" not in train(*FOLDS, "--fold", "1", cwd=folder, how=run_here)
    said = train(*FOLDS, "--fold", "1", cwd=folder, how=run_here)
    assert f"{MODEL}/fold1 holds an earlier run; it is kept as {MODEL}/fold1.1\n" in said
    assert [member.folder.name for member in find_members([folder / MODEL])] == ["fold0", "fold1"]
    said = train("--folds", "2", "--fold", "1", cwd=folder, how=run_here)
    assert f"{MODEL} holds an earlier run; it is kept as {MODEL}.2\n" in said
    assert [path.name for path in (folder / MODEL).iterdir()] == ["fold1"]
    said = train(*FOLDS, "--epochs", "1", cwd=folder, how=run_here)
    assert f"{MODEL} holds an earlier run; it is kept as {MODEL}.3\n" in said


def test_averages_are_brought_along(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The epochs kept for averaging move to another folder with the checkpoints; the result is the same."""
    (folder / "network.yaml").write_text(NETWORK.replace("0.01", "0.05"))
    words = [*FOLDS, "--fold", "0", "--set", "training.average_best=3"]
    train(*words, "--epochs", "4", "--out", "whole", cwd=folder, how=run_here)
    begin = [*BEGIN, *words[2:], "--epochs", "4", "--out", "begun"]
    killed = run(*begin, cwd=folder, env=killing(tmp_path_factory.mktemp("hook"), "history.json:3"))
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    train("--resume", f"begun/{MODEL}", "--fold", "0", "--out", "ended", cwd=folder, how=run_here)
    one, other = (folder / name / MODEL / "fold0" for name in ("whole", "ended"))
    assert_same_run(one, other)
    names = [{path.name for path in where.iterdir()} for where in (one, other)]
    assert names[0] == names[1]
    if "averaged.safetensors" in names[0]:
        for name, array in arrays(one, "averaged.safetensors").items():
            np.testing.assert_array_equal(arrays(other, "averaged.safetensors")[name], array)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fold", "1"], ["training.fold must be one of the folds", "fold=1, folds=None"]),
        (["--folds", "3", "--fold", "3"], ["fold=3, folds=3"]),
        (["--folds", "1"], ["training.folds: ", "received 1"]),
        (["--folds", "three"], ["training.folds: ", "received 'three'"]),
        (["--folds", "25"], ["data.h5: 24 images cannot be divided into training.folds=25"]),
        (["--folds", "3", "--resume"], ["no checkpoint at reference_model/last.safetensors"]),
    ],
)
def test_folds_that_cannot_be_are_named(folder: Path, words: list[str], says: list[str]) -> None:
    given = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
    refused(*given, *words, cwd=folder, says=says, how=run_here)


def test_folds_do_not_go_on_as_one_run(whole: Path, folder: Path) -> None:
    shutil.copytree(whole / MODEL, folder / MODEL)
    words = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml", "--resume"]
    refused(*words, cwd=folder, how=run_here, says=[f"{MODEL} holds folds", "Leave --config out"])


def test_a_missing_fold_is_named(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    remark = f"missing, so the ensemble is without: {MODEL}/fold1\n"
    words = ["-f", "reference", "--data", "data.h5"]
    assert "missing" not in succeed("evaluate", *words, cwd=tmp_path, how=run_here)
    shutil.rmtree(tmp_path / MODEL / "fold1")
    assert remark in succeed("evaluate", *words, cwd=tmp_path, how=run_here)
    assert remark in succeed("tune", *words, cwd=tmp_path, how=run_here)
    one = ["--model", f"{MODEL}/fold0"]
    assert "missing" not in succeed("evaluate", *words, *one, cwd=tmp_path, how=run_here)


def test_a_whole_run_does_not_go_on_in_folds(folder: Path) -> None:
    train("--epochs", "1", cwd=folder, how=run_here)
    words = ["-f", "reference", "--data", "data.h5", "--resume", *FOLDS]
    refused(*words, cwd=folder, how=run_here, says=["training.folds was None in the checkpoint and is now 3"])


def test_a_patient_is_in_one_fold(folder: Path) -> None:
    name_patients(folder / "data.h5", [f"{number // 6}" for number in range(24)])
    said = train(*FOLDS, "--epochs", "1", cwd=folder, how=run_here)
    assert sorted(re.findall(r"(\d+) held out", said)) == ["12", "6", "6"]
