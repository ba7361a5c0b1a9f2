"""`train --dry-run` and `train --rate-test`: what they show, and that they write no model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import content, refused, run_here, succeed

TRAIN = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
STAGES = "training.stages=[{size: 16, epochs: 30}, {size: 32, batch_size: 8, epochs: 7}]"


def test_a_dry_run_tells_the_time_of_each_stage_and_writes_nothing(folder: Path) -> None:
    before = content(folder)
    said = succeed(*TRAIN, "--set", STAGES, "--folds", "3", "--dry-run", cwd=folder, how=run_here)
    assert content(folder) == before
    columns = {
        name.strip(): [cell.strip() for cell in cells]
        for line in said.splitlines()
        if line.startswith("│")
        for name, *cells in [line.strip("│").split("│")]
    }
    assert columns["images"] == ["16x16", "32x32"]
    assert columns["batch"] == ["5", "8"]
    assert columns["updates"] == ["30 epochs of 4", "7 epochs of 2"]  # of 16 images to train on
    assert all(re.fullmatch(r"[0-9.]+ images/s", cell) for cell in columns["speed"])
    assert "for each of 3 folds" in said
    assert "No model was written" in said


def test_the_range_test_draws_its_plot(folder: Path) -> None:
    said = succeed(*TRAIN, "--rate-test", "rates.png", cwd=folder, how=run_here)
    assert "Written: rates.png" in said
    assert (folder / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert not (folder / "reference_model").exists()
    says = ["rates.png", "exists"]
    refused(*TRAIN, "--rate-test", "rates.png", cwd=folder, says=says, how=run_here)
    refused(*TRAIN, "--rate-test", "rates.txt", cwd=folder, says=["must end in one of .png"], how=run_here)


@pytest.mark.parametrize("option", [["--dry-run"], ["--rate-test", "rates.png"]])
def test_what_a_training_would_refuse_a_trial_refuses(folder: Path, option: list[str]) -> None:
    refused(
        *TRAIN, *option, "--set", "training.size=64", cwd=folder, says=["smaller than 64x64"], how=run_here
    )
    refused(*TRAIN, *option, "--workers", "2", cwd=folder, says=["run one worker"], how=run_here)
