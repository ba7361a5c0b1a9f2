"""`-f NAME` may stand before or after `train`, and `train` may be left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import assert_same_run, prepare, refused, run, run_here, succeed

from core.backend.registry import backend_names

OPTIONS = ["--data", "data.h5", "--config", "network.yaml", "--epochs", "1"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model of the shortest command line."""
    folder = tmp_path_factory.mktemp("plain")
    prepare(folder)
    succeed("train", "-f", "reference", *OPTIONS, cwd=folder, how=run_here)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["-f", "reference", *OPTIONS],
        ["-f", "reference", "train", *OPTIONS],
        [*OPTIONS, "-f", "reference"],
        ["train", *OPTIONS, "-f", "reference"],
        ["--framework=reference", *OPTIONS],
        ["--framework=reference", "train", *OPTIONS],
        ["--framework", "reference", "train", *OPTIONS],
        ["train", "--framework=reference", *OPTIONS],
        ["-f=reference", "train", *OPTIONS],
        ["-freference", *OPTIONS],
        ["-freference", "train", *OPTIONS],
    ],
    ids=lambda words: " ".join(word for word in words if word not in OPTIONS),
)
def test_every_way_to_write_it_trains_the_same(plain: Path, folder: Path, words: list[str]) -> None:
    succeed(*words, cwd=folder, how=run_here)
    assert_same_run(plain / "reference_model", folder / "reference_model")


@pytest.mark.parametrize(("name", "nearest"), [("tff", "tf"), ("mxnett", "mxnet"), ("referenz", "reference")])
def test_an_unknown_name_is_answered_with_the_nearest_known_one(
    folder: Path, name: str, nearest: str
) -> None:
    words = ["-f", name, "--config", "network.yaml"]
    message = refused(*words, cwd=folder, how=run_here, says=[repr(name), "mxnet, "])
    assert f"did you mean '{nearest}'?" in message
    assert len(message.splitlines()) == 1


def test_a_name_like_no_other_is_answered_with_the_list(folder: Path) -> None:
    message = refused("-f", "xyz", cwd=folder, how=run_here, says=["'xyz'", ", ".join(backend_names())])
    assert "did you mean" not in message


def test_an_unknown_name_is_said_before_the_data_are_missed(tmp_path: Path) -> None:
    done = run("-f", "tff", cwd=tmp_path)
    assert "did you mean 'tf'?" in done.stderr
