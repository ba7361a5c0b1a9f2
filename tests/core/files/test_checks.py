"""Checks of outputs: they are free, can be written, and replace no input."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.base.errors import UserError
from core.files.checks import Input, check_apart, check_inputs_stay, check_place, entries


def test_a_place_that_cannot_be_written_is_refused_in_advance(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_place(tmp_path / "new" / "folder" / "a.json")
    check_place(tmp_path / "file")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="it is a folder"):
        check_place(tmp_path)
    with pytest.raises(UserError, match="file is no folder"):
        check_place(tmp_path / "file" / "a.json")


def test_a_folders_own_lock_is_none_of_its_entries(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", ".x.lock"):
        (tmp_path / name).touch()
    (tmp_path / ".lock").write_text('{"host": "a"')
    assert [path.name for path in entries(tmp_path)] == [".x.lock", "a.png", "b.png"]
    (tmp_path / ".lock").write_text("precious")
    assert ".lock" in {path.name for path in entries(tmp_path)}


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Input]:
    """Return three inputs: a table, a folder whose `.dcm` files belong to the input, and a circular link."""
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("table.csv", "images/1.dcm", "images/deep/2.dcm", "images/notes.txt", "other.csv"):
        (tmp_path / name).write_text("there")
    (tmp_path / "link.csv").symlink_to("table.csv")
    (tmp_path / "link").symlink_to("images")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)
    return [
        Input("the table", Path("table.csv")),
        Input("the folder of the images", Path("link"), lambda file: file.suffix == ".dcm"),
        Input("the key", Path("circle")),
    ]


@pytest.mark.parametrize(
    ("output", "says"),
    [
        *(
            (path, "is the table.")
            for path in ("table.csv", "./table.csv", "link.csv", "images/../table.csv")
        ),
        *((path, "is the folder of the images.") for path in ("images", "link")),
        ("circle", "is the key."),
        *(
            (f"{folder}/1.dcm", "would replace a file of the folder of the images")
            for folder in ("images", "link")
        ),
        ("link/deep/2.dcm", "would replace a file of the folder of the images"),
        (".", "would contain the table table.csv."),
        ("..", "would contain the table table.csv."),
    ],
)
def test_an_output_that_would_cost_an_input_is_refused(inputs: list[Input], output: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        check_inputs_stay("--out", Path(output), inputs)
    assert caught.value.message.startswith(f"--out {Path(output)} {says}")


@pytest.mark.parametrize(
    "output",
    [
        "other.csv",
        "new.csv",
        "images/notes.txt",
        "images/3.dcm",
        "link/new/a.csv",
        "new/images",
        "-",
        "/dev/null",
    ],
)
def test_any_other_output_is_let_be(inputs: list[Input], output: str) -> None:
    check_inputs_stay("--out", Path(output), inputs)


def test_two_outputs_are_apart(inputs: list[Input], tmp_path: Path) -> None:
    del inputs
    for output, other, relation in (
        ("a", "./a", "is"),
        ("link/a", "images/a", "is"),
        ("a", "a/b/c", "would contain"),
        ("link/a/b", "images", "would lie in"),
        ("-", "-", "is"),
    ):
        with pytest.raises(UserError, match=rf"--out {Path(output)} {relation} the place of --json"):
            check_apart("--out", Path(output), "the place of --json", Path(other))
    for output, other in (("a", "b"), ("a/b", "a/c"), ("ab", "a"), ("/dev/null", "/dev/null"), ("-", "a")):
        check_apart(
            "--out", Path(output), "the place of --json", tmp_path / other if other != "-" else Path(other)
        )
    check_apart("--out", Path("a/b"), "the data", Path("a"), ("is", "would contain"))
