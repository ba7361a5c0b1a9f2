"""A full or read-only disk ends a run with one error, and no finished file changes.

A limit on file size stands for a full disk: the system rejects bytes beyond it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import (
    BEST,
    LAST,
    assert_one_error,
    assert_same_run,
    content,
    history,
    launcher,
    refused,
    run,
    run_here,
    run_with_full_disk,
    train,
)
from safetensors.numpy import load_file

from core.experiment.checkpoint import load_checkpoint

MODEL, LOGS = "reference_model", "reference_logs"
OPTIONS = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
# The network is so wide that a checkpoint is much larger than the pictures in the log.
WIDE = ["--set", "network.blocks[0].filters=96"]


def assert_only_whole_files(folder: Path) -> None:
    """Assert that no file of a model is incomplete."""
    for path in folder.glob(f"{MODEL}/*"):
        assert path.name in {LAST, BEST, "history.json"}
        if path.suffix == ".safetensors":
            load_checkpoint(path)
        else:
            history(path.parent)


@pytest.mark.parametrize(("limit", "refusing"), [(16, LOGS), (1024, BEST), (4096, BEST)])
def test_the_first_file_that_does_not_fit_ends_the_run(folder: Path, limit: int, refusing: str) -> None:
    done = run_with_full_disk(*OPTIONS, cwd=folder, limit=limit)
    assert_one_error(done, "cannot write", refusing, "File too large")
    assert_only_whole_files(folder)
    assert not (folder / MODEL / LAST).exists()
    train(cwd=folder, how=run_here)


def test_a_log_that_does_not_fit_ends_the_run_with_a_checkpoint(folder: Path) -> None:
    train("--out", "whole", cwd=folder, how=run_here)
    limit = (folder / "whole" / MODEL / LAST).stat().st_size + 1
    done = run(*OPTIONS, cwd=folder, before=launcher("limit", limit))
    assert_one_error(done, f"cannot write {LOGS}", "File too large")
    assert_only_whole_files(folder)
    assert len(load_checkpoint(folder / MODEL / LAST).progress.history) == 1
    train("--resume", cwd=folder, how=run_here)
    assert_same_run(folder / "whole" / MODEL, folder / MODEL)


def test_a_disk_that_fills_up_later_costs_the_epochs_since(folder: Path) -> None:
    train(*WIDE, "--epochs", "1", cwd=folder, how=run_here)
    train(*WIDE, "--epochs", "3", "--out", "whole", cwd=folder, how=run_here)
    first = (folder / MODEL / LAST).read_bytes()
    # A checkpoint grows with the history that it holds, so the next one does not fit.
    words = ["-f", "reference", "--data", "data.h5", "--resume", "--epochs", "3"]
    done = run_with_full_disk(*words, cwd=folder, limit=len(first) + 50)
    assert_one_error(done, "cannot write", ".safetensors", "File too large")
    assert (folder / MODEL / LAST).read_bytes() == first
    assert {path.name for path in (folder / MODEL).iterdir()} == {
        *(LAST, BEST, "history.json", "export", "predictions.png", "thresholds.json")
    }
    train("--resume", "--epochs", "3", cwd=folder, how=run_here)
    assert_same_run(folder / "whole" / MODEL, folder / MODEL)


def test_a_folder_that_must_not_be_written(folder: Path) -> None:
    (folder / "sealed").mkdir(mode=0o555)
    says = [f"cannot write sealed/{MODEL}", "Permission denied"]
    refused(*OPTIONS, "--out", "sealed", cwd=folder, says=says, before=launcher("bound"))


def test_a_model_that_must_not_be_changed(folder: Path) -> None:
    train(cwd=folder, how=run_here)
    before = content(folder / MODEL)
    (folder / MODEL).chmod(0o555)
    words = ["-f", "reference", "--data", "data.h5", "--resume", "--epochs", "3"]
    done = run(*words, cwd=folder, before=launcher("bound"))
    assert_one_error(done, f"cannot write {MODEL}/", "Permission denied")
    (folder / MODEL).chmod(0o755)
    assert content(folder / MODEL) == before


def test_an_earlier_run_that_cannot_be_moved_aside_is_left_alone(folder: Path) -> None:
    train("--out", "out", cwd=folder, how=run_here)
    (folder / "out").chmod(0o555)
    says = [f"cannot rename out/{MODEL}", "Permission denied"]
    refused(*OPTIONS, "--out", "out", cwd=folder, says=says, before=launcher("bound"))
    (folder / "out").chmod(0o755)
    assert load_file(folder / "out" / MODEL / LAST)
