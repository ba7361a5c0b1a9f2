"""`import pneumoseg`: light, typed, with the same predictions, scores and trainings as the commands."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import pickle
import re
import shlex
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
import pytest
from command_line import (
    ROOT,
    assert_same_run,
    environment,
    prepare,
    run_here,
    succeed,
    train,
    write_data,
)
from numpy.typing import NDArray
from PIL import Image
from selected import BACKENDS, PREDICTORS
from tiny_model import SIZE, radiograph, write_model, write_radiograph

import pneumoseg
from core.backend.registry import backend_names, find_backend
from core.base.errors import UserError
from core.base.programs import INSTALLED
from core.commands import main
from core.scoring.thresholds import save_thresholds

DOCUMENT = ROOT / "docs" / "python.md"
NAMES = [name for name in pneumoseg.__all__ if name != "__version__"]
SIZES = {"a": (60, 45), "b": (33, 70), "deeper/c": (41, 41), "d": (52, 91), "e": (32, 32)}
BRIGHT = ("a", "b", "d")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radiographs of odd sizes, two models with thresholds of their own, and a data file."""
    folder = tmp_path_factory.mktemp("place")
    for seed, name in enumerate(("one", "other")):
        write_model(folder / name, seed)
    save_thresholds(folder / "one", pneumoseg.Thresholds(0.3, 900, 0.6))
    save_thresholds(folder / "other", pneumoseg.Thresholds(0.5, 100, 0.7))
    for number, (name, size) in enumerate(SIZES.items()):
        spacing = {"PixelSpacing": [0.5, 0.25]} if name in "ab" else {}
        write_radiograph(
            folder / "images" / f"{name}.dcm", number, radiograph(number, *size, name in BRIGHT), **spacing
        )
    write_data(folder / "data.h5", images=11, size=SIZE, seed=3)
    return folder


def run_document(folder: Path, text: str, backend: str) -> dict[str, Any]:
    """Run the fenced blocks of a document in order, in a folder; return their global names."""
    names: dict[str, Any] = {}
    blocks = list(re.finditer(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) == text.count("```") // 2
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        for block in blocks:
            language, content = block.groups()
            if language == "python":
                above = "\n" * text.count("\n", 0, block.start(2))  # so that a traceback has the line
                content = above + content.replace('"torch"', f'"{backend}"')
                exec(compile(content, str(DOCUMENT), "exec"), names)
            else:
                for line in content.strip().splitlines():
                    program, *words = shlex.split(line)
                    assert program == "pneumoseg"
                    assert main(program, "", INSTALLED.commands, words) == 0
    return names


def test_the_examples_of_the_document_run(tmp_path: Path) -> None:
    backend = "torch" if "torch" in BACKENDS else BACKENDS[0]
    names = run_document(tmp_path, DOCUMENT.read_text(), backend)
    assert names["trained"].folder == Path("demo") / f"{backend}_model"
    assert names["model"].backend == PREDICTORS[-1]  # ONNX Runtime, if it is under test
    assert names["radiograph"].image.shape == (200, 200)
    assert not names["radiograph"].image.flags.writeable
    assert len(names["everything"].rows) == 39  # one of the phantoms has no annotation


def test_every_name_is_documented() -> None:
    text = DOCUMENT.read_text()
    documented = {name for name in NAMES if name in text}
    assert documented >= {
        name for name in NAMES if name[0].islower() or name in ("Error", "Thresholds", "UnreadableImage")
    }
    for name in NAMES:
        assert getattr(pneumoseg, name).__doc__, name


def test_types_and_names_are_the_same_list() -> None:
    """Type checkers, `__getattr__`, `import *` and `dir` agree on the public names."""
    tree = ast.parse((ROOT / "pneumoseg" / "__init__.py").read_text())
    (checked,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    seen = {
        alias.asname or alias.name
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(NAMES)
    assert dir(pneumoseg) == sorted(pneumoseg.__all__)
    for name in NAMES:
        found = getattr(pneumoseg, name)
        assert found.__name__ == ("UserError" if name == "Error" else name)
    for name in ("UserError", "nonsense"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(pneumoseg, name)
    assert issubclass(pneumoseg.UnreadableImage, pneumoseg.Error)
    assert pneumoseg.Error is UserError


def fresh(code: str, *words: str, cwd: Path) -> str:
    """Run code in a new Python with this checkout and the tests' environment; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_the_standard_library_alone(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules); import pneumoseg; pneumoseg.__version__, dir(pneumoseg)\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    found = set(fresh(code, cwd=tmp_path).split())
    assert "pneumoseg" in found
    assert found - set(sys.stdlib_module_names) == {"pneumoseg"}


def test_reading_a_radiograph_imports_no_framework(place: Path) -> None:
    code = (
        "import sys, pneumoseg; pneumoseg.read_radiograph('images/a.dcm'); pneumoseg.open_data('data.h5')\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    found = set(fresh(code, cwd=place).split())
    frameworks = {find_backend(name).module for name in backend_names()} - {None}
    assert "pydicom" in found
    assert not found & {*frameworks, "matplotlib"}


@pytest.mark.parametrize("hides", ["core.py", "data.py", "backends/__init__.py"])
def test_modules_of_the_same_names_are_refused_by_name(tmp_path: Path, hides: str) -> None:
    file = tmp_path / hides
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('not this one')\n")
    code = (
        "import sys, pneumoseg\n"
        "try: pneumoseg.load_model\n"
        "except ImportError as error: print(error)\n"
        "sys.path.remove(''); pneumoseg.load_model; print('now')"
    )
    said, now = fresh(code, cwd=tmp_path).splitlines()
    assert str(file) in said
    assert repr(hides.removesuffix(".py").split("/")[0]) in said
    assert now == "now"


@pytest.mark.parametrize(("module", "asks"), [("pydicom", "read_radiograph"), ("h5py", "open_data")])
def test_a_package_that_is_missing_is_an_error_that_names_it(tmp_path: Path, module: str, asks: str) -> None:
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import pneumoseg\n"
        f"try: pneumoseg.{asks}\n"
        "except pneumoseg.Error as error: print(error)"
    )
    said = fresh(code, cwd=tmp_path)
    assert f"{module}, which is not installed" in said
    assert f"Run: pip install {module}" in said


# --- Predictions.


PREDICT = """
import json, sys
import numpy as np
import pneumoseg
from core.commands import main
from core.base.programs import RUN

folders, out, name = ["one", "other"], sys.argv[1], sys.argv[2]
outputs = ["--out", out + "/s.csv", "--json", out + "/a.json", "--masks", out + "/masks"]
words = ["predict", "-f", name, "--model", *folders, "--images", "images", "--tta", "--batch-size", "2"]
assert __name__ != "__main__" or main("run.py", "", RUN.commands, [*words, *outputs]) == 0
model = pneumoseg.load_model(folders, backend=name, tta=True)
records, arrays = [], {}
for one in model.predict_all(pneumoseg.find_radiographs("images"), batch_size=2):
    box = None if one.box is None else one.box._asdict()
    records.append([one.id, one.positive, one.existence, one.pixels, one.area_mm2, box])
    arrays[one.id + ".mask"], arrays[one.id + ".probability"] = one.mask, one.probability
np.savez(out + "/arrays.npz", **arrays)
about = [model.thresholds_from, model.backend, model.height, model.width, str(model.thresholds)]
print(json.dumps([about, records]))
"""


@pytest.mark.parametrize("name", PREDICTORS)
def test_answers_are_those_of_the_command(place: Path, tmp_path: Path, name: str) -> None:
    """Two models with thresholds and mirror images, in batches of two; the last batch is smaller."""
    about, records = json.loads(fresh(PREDICT, str(tmp_path), name, cwd=place).splitlines()[-1])
    content = json.loads((tmp_path / "a.json").read_text())
    expected = {record["id"]: record for record in content["images"]}
    assert about == ["tuned", name, SIZE, SIZE, "pixel 0.4, area 500, score 0.65"]
    assert [record[0] for record in records] == list(expected)
    arrays = np.load(tmp_path / "arrays.npz")
    for image, positive, existence, pixels, area, box in records:
        record = expected[image]
        assert positive == record["positive"] == (image in BRIGHT)
        assert [existence, pixels, area] == [record[key] for key in ("existence", "pixels", "area_mm2")]
        assert box == record["box"]
        mask: NDArray[np.uint8] = np.asarray(Image.open(tmp_path / "masks" / f"{image}.png"))
        np.testing.assert_array_equal(arrays[f"{image}.mask"] * np.uint8(255), mask)
        assert arrays[f"{image}.probability"].shape == (record["height"], record["width"])


def test_the_mask_is_where_the_probability_is_high(place: Path) -> None:
    """The mask follows the definition of the thresholds, computed here."""
    model = pneumoseg.load_model(place / "one", backend="reference")
    for one in model.predict_all(pneumoseg.find_radiographs(place / "images")):
        height, width = one.probability.shape
        least = int(np.ceil(900 * height * width / 1024**2))
        existence = np.sort(one.probability.ravel())[-least]
        assert one.existence == existence
        positive = existence >= np.float32(0.6)
        np.testing.assert_array_equal(one.mask == 1, (one.probability >= np.float32(0.3)) & positive)
        if one.box is not None:
            top, left, rows, columns = one.box
            assert one.mask[top : top + rows, left : left + columns].sum() == one.pixels
            for edge in (one.mask[top], one.mask[top + rows - 1]):
                assert edge.any()
            for edge in (one.mask[:, left], one.mask[:, left + columns - 1]):
                assert edge.any()


def test_all_sources_of_one_image_give_one_answer(place: Path) -> None:
    model = pneumoseg.load_model(place / "one", backend="reference")
    file = place / "images" / "a.dcm"
    dataset = pydicom.dcmread(file)
    expected = model.predict(str(file))
    assert expected.positive
    assert expected.area_mm2 == expected.pixels * 0.125
    sources = file, file.read_bytes(), memoryview(file.read_bytes()), dataset, dataset.pixel_array
    big_endian = dataset.pixel_array.astype(">u2") * 257  # 255 * 257 is the greatest uint16
    floats = dataset.pixel_array / 255
    for source in (*sources, pneumoseg.read_radiograph(file), big_endian, floats, floats.astype(np.float32)):
        found = model.predict(source)
        np.testing.assert_allclose(found.probability, expected.probability, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(found.mask, expected.mask)
    no_file = pydicom.dcmread(io.BytesIO(file.read_bytes()))
    for source in (no_file, file.read_bytes()):
        assert pneumoseg.read_radiograph(source).id == dataset.SOPInstanceUID
    for source in (file, dataset):
        one = pneumoseg.read_radiograph(source)
        assert (one.id, one.uid, one.spacing) == ("a", dataset.SOPInstanceUID, (0.5, 0.25))
    np.testing.assert_array_equal(one.image, dataset.pixel_array.astype(np.float32) / np.float32(255))


def test_what_a_radiograph_says_of_its_file(tmp_path: Path) -> None:
    pixels = radiograph(1, 9, 14, bright=True)
    write_radiograph(
        tmp_path / "x.dcm",
        1,
        pixels,
        PhotometricInterpretation="MONOCHROME1",
        ImagerPixelSpacing=[0.2, 0.3],
        PresentationLUTShape="IDENTITY",
    )
    found = pneumoseg.read_radiograph(tmp_path / "x.dcm")
    np.testing.assert_array_equal(found.image, (255 - pixels.astype(np.float32)) / np.float32(255))
    assert (found.height, found.width, found.spacing) == (9, 14, (0.2, 0.3))
    assert found.geometry.at == "ImagerPixelSpacing"
    assert "MONOCHROME1" in found.notes
    with pytest.raises(ValueError, match="read-only"):
        found.image[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        found.values[0, 0] = 1


def test_an_array_is_copied() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = pneumoseg.Radiograph.from_array(array, full=11, spacing=(2, 3))
    array[:] = 0
    np.testing.assert_array_equal(found.image[2], np.float32([8, 9, 10, 11]) / np.float32(11))
    assert (found.spacing, found.id) == ((2, 3), "")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere.dcm", "nowhere.dcm: No such file"),
        (".", ".: Is a directory"),
        ("empty.dcm", "empty.dcm: "),
        (b"", "<bytes>: it is no DICOM file"),
        (pydicom.Dataset(), "<data set>: "),
        (np.zeros((4, 5, 1), np.uint8), r"(4, 5, 1)"),
        (np.zeros((0, 5), np.uint8), r"(0, 5)"),
        (np.zeros((4, 5), np.int16), "int16"),
        (np.zeros((4, 5), bool), "bool"),
        (np.zeros((4, 5), complex), "complex128"),
        (np.full((4, 5), 1.5), "from 0 to 1. Received 1.5 to 1.5"),
        (np.full((4, 5), -0.1), "from 0 to 1"),
        (np.full((4, 5), np.nan), "nan"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, source: Any, says: str) -> None:
    (tmp_path / "empty.dcm").touch()
    with contextlib.chdir(tmp_path), pytest.raises(pneumoseg.UnreadableImage) as caught:
        pneumoseg.read_radiograph(source)
    assert says in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.source, again.reason, str(again)) == (
        caught.value.source,
        caught.value.reason,
        str(caught.value),
    )


@pytest.mark.parametrize("source", [None, 3, [[0.5, 0.5]], object()])
def test_other_types_are_no_sources(source: Any) -> None:
    with pytest.raises(TypeError, match="expected a path, bytes"):
        pneumoseg.read_radiograph(source)


@pytest.mark.parametrize("arguments", [{"full": 0}, {"full": np.nan}, {"spacing": (1, -1)}, {"full": 5}])
def test_from_array_refuses(arguments: dict[str, Any]) -> None:
    with pytest.raises(pneumoseg.UnreadableImage, match="the array 'x'"):
        pneumoseg.Radiograph.from_array(np.arange(12, dtype=np.uint8).reshape(3, 4), id="x", **arguments)


def test_unreadable_images_end_it_or_are_handed_over(place: Path) -> None:
    model = pneumoseg.load_model(place / "one", backend="reference")
    sources = [place / "images" / "a.dcm", place / "data.h5", place / "images" / "b.dcm", b"x"]
    iterator = model.predict_all(sources, batch_size=1)
    assert next(iterator).id == "a"
    with pytest.raises(pneumoseg.UnreadableImage, match=r"data\.h5"):
        next(iterator)
    errors: list[pneumoseg.UnreadableImage] = []
    found = [one.id for one in model.predict_all(sources, unreadable=errors.append)]
    assert (found, [error.source for error in errors]) == (["a", "b"], [str(place / "data.h5"), "<bytes>"])
    assert list(model.predict_all([])) == []
    with pytest.raises(pneumoseg.Error, match=r"batch_size must be at least 1\. Received: 0"):
        model.predict_all(sources, batch_size=0)


def test_threads_share_a_model(place: Path) -> None:
    model = pneumoseg.load_model(place / "one", backend="reference")
    files = pneumoseg.find_radiographs(place / "images")
    expected = [model.predict(file).probability for file in files]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(pool.map(model.predict, files * 4), expected * 4, strict=True):
            np.testing.assert_array_equal(one.probability, other)


def test_the_backend_is_onnx_runtime_or_the_next_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "onnx" in PREDICTORS:
        assert pneumoseg.load_model(place / "one").backend == "onnx"
    hidden = {find_backend(name).module: None for name in backend_names()}
    for module in set(hidden) - {None}:
        monkeypatch.setitem(sys.modules, str(module), None)  # type: ignore[arg-type]
    assert pneumoseg.load_model(place / "one").backend == "reference"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"folder": "nowhere"}, "nowhere does not exist"),
        ({"folder": []}, "Received: none"),
        ({"folder": "images"}, "has no trained model"),
        ({"folder": "one", "backend": "nonsense"}, "unknown backend 'nonsense'"),
        ({"folder": "one", "backend": "reference", "device": "gpu:7"}, "gpu:7"),
    ],
)
def test_models_that_cannot_be_loaded(place: Path, arguments: dict[str, Any], says: str) -> None:
    with contextlib.chdir(place), pytest.raises(pneumoseg.Error, match=re.escape(says)):
        pneumoseg.load_model(**arguments)


def test_hints_name_the_installed_command(place: Path) -> None:
    with contextlib.chdir(place), pytest.raises(pneumoseg.Error) as caught:
        pneumoseg.load_model("nowhere")
    assert "pneumoseg train -f tf" in str(caught.value)
    with pytest.raises(pneumoseg.Error, match="the images folder nowhere does not exist"):
        pneumoseg.find_radiographs("nowhere")


# --- Training and scores.


def test_training_is_that_of_the_command(tmp_path: Path) -> None:
    prepare(tmp_path, images=12)
    settings = ["--set", "training.optimizer={name: sgd, momentum: 0.5}", "--learning-rate", "1e-3"]
    train(*settings, "--epochs", "3", "--out", "command", cwd=tmp_path, how=run_here)
    seen: list[int] = []
    said: list[str] = []
    overrides = {
        "training.optimizer": {"name": "sgd", "momentum": 0.5},
        "training.optimizer.learning_rate": np.float64(1e-3),
        "training.epochs": np.int64(2),
    }
    first = pneumoseg.train(
        tmp_path / "network.yaml",
        tmp_path / "data.h5",
        backend="reference",
        out=tmp_path / "python",
        overrides=overrides,
        on_epoch=lambda record: seen.append(record.epoch),
        say=said.append,
    )
    assert (first.finished, seen) == (True, [1, 2])
    assert first.folder == tmp_path / "python" / "reference_model"
    assert any(line.startswith("Best model: Dice ") for line in said)
    again = {"training.epochs": 3}
    second = pneumoseg.train(
        again, tmp_path / "data.h5", backend="reference", out=tmp_path / "python", resume=True
    )
    assert [record.epoch for record in second.history] == [1, 2, 3]
    assert second.history[:2] == first.history
    assert_same_run(tmp_path / "command" / "reference_model", second.folder)
    other = pneumoseg.train(
        again, tmp_path / "data.h5", backend="reference", out=tmp_path / "other", resume=first.folder
    )
    assert other.history == second.history
    assert_same_run(second.folder, other.folder)


def test_folds_are_an_ensemble(tmp_path: Path) -> None:
    prepare(tmp_path, images=12)
    found = pneumoseg.train(
        tmp_path / "network.yaml",
        tmp_path / "data.h5",
        backend="reference",
        out=tmp_path,
        overrides={"training.folds": 3, "training.epochs": 1},
    )
    assert [run.folder.name for run in found.runs] == ["fold0", "fold1", "fold2"]
    assert len(found.history) == 3
    model = pneumoseg.load_model(found.folder, backend="reference")
    assert pneumoseg.evaluate(model, tmp_path / "data.h5").summary.images == 12


def test_training_in_a_thread_needs_no_signals(tmp_path: Path) -> None:
    prepare(tmp_path, images=9)
    done: list[pneumoseg.Trained] = []
    worker = threading.Thread(
        target=lambda: done.append(
            pneumoseg.train(
                tmp_path / "network.yaml", tmp_path / "data.h5", backend="reference", out=tmp_path
            )
        )
    )
    worker.start()
    worker.join()
    assert done[0].finished


def test_ctrl_c_stops_it_with_a_checkpoint(tmp_path: Path) -> None:
    prepare(tmp_path)
    code = (
        "import os, signal, pneumoseg\n"
        "stop = lambda record: os.kill(os.getpid(), signal.SIGINT) if record.epoch == 1 else None\n"
        "arguments = dict(data='data.h5', backend='reference', overrides={'training.epochs': 3})\n"
        "found = pneumoseg.train('network.yaml', **arguments, on_epoch=stop)\n"
        "print(found.finished, len(found.history))\n"
        "found = pneumoseg.train(**arguments, resume=True)\n"
        "print(found.finished, len(found.history))\n"
    )
    assert fresh(code, cwd=tmp_path) == "False 1\nTrue 3\n"
    train("--epochs", "3", "--out", "whole", cwd=tmp_path, how=run_here)
    assert_same_run(tmp_path / "whole" / "reference_model", tmp_path / "reference_model")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"configuration": "nonsense"}, "no configuration file nonsense"),
        (
            {"overrides": {"training.epoch": 3}},
            "training.epoch: unknown key; did you mean 'training.epochs'?",
        ),
        ({"overrides": {"training.epochs": "many"}}, "training.epochs: "),
        ({"overrides": {"training.epochs": object()}}, "training.epochs: expected a number, a text"),
        ({"overrides": {"training.epochs": Path("x")}}, "training.epochs: expected a number, a text"),
        ({"backend": "onnx"}, "only predicts"),
        ({"data": "nowhere.h5"}, "the data file nowhere.h5 does not exist"),
        ({"resume": "nowhere"}, "no checkpoint at nowhere"),
    ],
)
def test_trainings_that_are_refused(tmp_path: Path, arguments: dict[str, Any], says: str) -> None:
    if arguments.get("backend") == "onnx" and "onnx" not in PREDICTORS:
        pytest.skip("ONNX Runtime is left out by name")
    prepare(tmp_path, images=6)
    before = sorted(tmp_path.iterdir())
    given = {"configuration": "network.yaml", "data": "data.h5", "backend": "reference", **arguments}
    with contextlib.chdir(tmp_path), pytest.raises(pneumoseg.Error, match=re.escape(says)):
        pneumoseg.train(**given)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("split", ["validation", "all"])
def test_scores_are_those_of_the_command(tmp_path: Path, split: Any) -> None:
    prepare(tmp_path)
    train("--epochs", "1", cwd=tmp_path, how=run_here)
    words = ["--data", "data.h5", "--split", split, "--json", "s.json", "--batch-size", "5"]
    succeed("evaluate", "-f", "reference", *words, cwd=tmp_path)
    expected = json.loads((tmp_path / "s.json").read_text())
    model = pneumoseg.load_model(tmp_path / "reference_model", backend="reference")
    with pneumoseg.open_data(tmp_path / "data.h5") as data:
        found = pneumoseg.evaluate(model, data, split=split, batch_size=5)
    content = json.loads(json.dumps(found.as_json()))
    for key in set(expected) - {"origin"}:
        assert content[key] == expected[key], key
    assert found.summary.images == len(found.rows) > 0
    assert found.origin.split == split


def test_scores_that_are_refused(place: Path) -> None:
    model = pneumoseg.load_model(place / "one", backend="reference")
    for arguments, says in [
        ({"data": "data.h5"}, "which of them were held out is not known"),
        ({"data": "data.h5", "split": "some"}, "Received: 'some'"),
        ({"data": "data.h5", "batch_size": 0}, "Received: 0"),
        ({"data": "none.h5"}, "none.h5 does not exist"),
    ]:
        with contextlib.chdir(place), pytest.raises(pneumoseg.Error, match=says):
            pneumoseg.evaluate(model, **arguments)  # type: ignore[arg-type]


# --- The data file.


def test_the_data_file_is_what_is_in_it(place: Path) -> None:
    with h5py.File(place / "data.h5") as file:
        images = np.concatenate([file["images_0"][:], file["images_1"][:]])
        masks = np.concatenate([file["ann_0"][:], file["ann_1"][:]])
    with pneumoseg.open_data(place / "data.h5") as data:
        assert (len(data), data.height, data.width, data.annotated) == (11, SIZE, SIZE, True)
        np.testing.assert_array_equal(data.image(10), images[10, ..., 0])
        np.testing.assert_array_equal(data.image("image-9"), images[9, ..., 0])
        np.testing.assert_array_equal(data.mask(-2), masks[9, ..., 0])
        np.testing.assert_array_equal(data.truth("image-3"), masks[3, ..., 0])
        np.testing.assert_array_equal(data.positive, masks.any(axis=(1, 2, 3)))
        batches = list(data.batches(4))
        assert [batch.images.shape for batch in batches] == [(4, SIZE, SIZE, 1)] * 2 + [(3, SIZE, SIZE, 1)]
        np.testing.assert_array_equal(np.concatenate([batch.images for batch in batches]), images)
        np.testing.assert_array_equal(
            np.concatenate([batch.masks for batch in batches if batch.masks is not None]), masks
        )
        assert [name for batch in batches for name in batch.ids] == list(data.ids)
        (some,) = data.batches(images=["image-7", 0, -1])
        np.testing.assert_array_equal(some.images, images[[7, 0, 10]])
        shuffled = [index for batch in data.batches(4, seed=5) for index in batch.indices]
        assert sorted(shuffled) == list(range(11)) != shuffled
        assert shuffled == [index for batch in data.batches(3, seed=5) for index in batch.indices]
        assert list(data.batches(images=[])) == []
        for image in (11, -12, "image-11"):
            with pytest.raises(pneumoseg.Error, match=f"{image}"):
                data.image(image)
        with pytest.raises(pneumoseg.Error, match="Received: 0"):
            data.batches(0)
    with pytest.raises(pneumoseg.Error, match=r"data\.h5 was closed"):
        data.image(0)
    data.close()


def test_a_data_file_without_annotations(place: Path, tmp_path: Path) -> None:
    options = ["--images", str(place / "images"), "--no-annotations", "--out", "plain.h5", "--size", "24"]
    succeed(*options, "--workers", "1", cwd=tmp_path, program="preprocess.py")
    with pneumoseg.open_data(tmp_path / "plain.h5") as data:
        assert not data.annotated
        batches = list(data.batches(2))
        assert [batch.masks for batch in batches] == [None] * 3
        np.testing.assert_array_equal(batches[2].images[0, ..., 0], data.image(4))
        one = pneumoseg.read_radiograph(place / "images" / "a.dcm")
        np.testing.assert_array_equal(data.image("a"), one.resized(24, 24))
        for question in (lambda: data.mask(0), lambda: data.truth(0), lambda: data.positive):
            with pytest.raises(pneumoseg.Error, match="without annotations"):
                question()


def test_files_that_are_none(place: Path) -> None:
    for name in ("images", "nowhere.h5", "one/best.safetensors"):
        with contextlib.chdir(place), pytest.raises(pneumoseg.Error, match=name):
            pneumoseg.open_data(name)
