"""`run.py export` writes a trained model for other programs and checks it; it replaces files only if asked.

The backend `onnx` predicts, scores and tunes models of others, and refuses to train before reading data.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import (
    ROOT,
    changed,
    content,
    hide_frameworks,
    prepare,
    refused,
    run,
    run_here,
    succeed,
    train,
)
from selected import PREDICTORS
from test_broken_backends import DESCRIPTOR, install
from tiny_model import SIZE, radiograph, write_model, write_radiograph

from core.backend.registry import find_backend
from core.experiment.checkpoint import load_checkpoint, save_checkpoint
from core.scoring.thresholds import Thresholds, save_thresholds

pytestmark = pytest.mark.turns(3)

VALUES = np.random.default_rng(4).integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a model in `tiny/` and its thresholds."""
    write_model(tmp_path / "tiny")
    save_thresholds(tmp_path / "tiny", Thresholds(0.25, 300, 0.75))
    return tmp_path


def shown_difference(text: str) -> float:
    found = re.search(r"Checked: read back, .* by (\S+) at most", text)
    assert found, text
    return float(found[1])


def test_an_onnx_file_alone_says_all_and_needs_no_training_framework(model: Path) -> None:
    (model / "hidden").mkdir()
    hide_frameworks(model / "hidden", "onnxruntime")
    hidden = {"PYTHONPATH": str(model / "hidden")}
    words = ("export", "--model", "tiny", "--to", "onnx")
    output = succeed(*words, "--out", "one.onnx", "--white", "255", cwd=model, env=hidden)
    assert shown_difference(output) < 1e-5
    facts = {one.key: one.value for one in onnx.load(model / "one.onnx").metadata_props}
    assert json.loads(facts["classes"]) == ["pneumothorax"]
    assert json.loads(facts["thresholds"]) == {"pixel": 0.25, "area": 300, "score": 0.75}
    assert (facts["height"], facts["width"], facts["white"]) == (str(SIZE), str(SIZE), "255")
    assert (facts["checkpoint"], facts["epoch"], facts["step"]) == ("best.safetensors", "0", "0")
    assert [block["name"] for block in json.loads(facts["network"])["blocks"]] == ["down", "mask"]
    assert facts["height_multiple"] == facts["width_multiple"] == "2"
    session = onnxruntime.InferenceSession(str(model / "one.onnx"), providers=["CPUExecutionProvider"])
    grey = session.run(None, {"images": VALUES})[0]
    succeed(*words, cwd=model, how=run_here)  # like a data file and what training exports: white is 1
    folder = model / "tiny" / "export-onnx"
    assert sorted(path.name for path in folder.iterdir()) == ["metadata.json", "model.onnx"]
    metadata = json.loads((folder / "metadata.json").read_text())
    changed = {key: facts[key] for key in ("height_multiple", "width_multiple")}
    assert metadata | changed == facts | {"white": "1"}
    plain = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(plain.run(None, {"images": VALUES / np.float32(255)})[0], grey)
    assert grey.std() > 0.05


def test_an_earlier_export_is_replaced_only_when_asked(model: Path) -> None:
    words = ("export", "--model", "tiny", "--to", "onnx", "--out", "out")
    succeed(*words, cwd=model, how=run_here)
    before = content(model / "out")
    refused(*words, cwd=model, says=["--out out is not empty", "--overwrite"], how=run_here)
    succeed(*words, "--white", "255", "--overwrite", cwd=model, how=run_here)
    after = content(model / "out")
    assert after.keys() == before.keys()
    assert after != before


def test_what_stands_in_the_way_is_kept(model: Path) -> None:
    (model / "mine").mkdir()
    (model / "mine" / "letter.txt").write_text("dear\n")
    (model / "file").write_text("dear\n")
    words = ["export", "--model", "tiny", "--to", "onnx"]
    for out, *says in (
        ("mine", "holds other things than an export", "never replaced"),
        (".", "holds other things than an export"),
        ("file", "is a file", "Name a folder"),
    ):
        refused(*words, "--out", out, "--overwrite", cwd=model, says=says, how=run_here)
    refused(*words, "--out", "file", cwd=model, says=["--out file exists", "--overwrite"], how=run_here)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--to", "onyx"), ("did you mean 'onnx'?", "savedmodel (tf)", "mxnet (mxnet)", "onnx (onnx)")),
        (("--to", "onnx", "-f", "tf"), ("'tf' does not write 'onnx'", "savedmodel", "Leave -f out")),
        (("--to", "onnx", "-f", "reference"), ("does not write 'onnx'; it writes: none",)),
        (("--to", "onnx", "--white", "0"), ("--white", "Received: 0")),
        (("--to", "onnx", "--white", "nan"), ("--white", "Received: nan")),
        (("--to", "onnx", "--model", "nowhere"), ("the model folder nowhere does not exist",)),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    model: Path, words: tuple[str, ...], says: tuple[str, ...]
) -> None:
    given = changed(["export", "--model", "tiny", "--out", "out"], *words)
    refused(*given, cwd=model, says=says, how=run_here)


def test_folds_and_float64_are_refused(model: Path) -> None:
    for fold in (0, 1):
        write_model(model / "folds" / f"fold{fold}", seed=fold)
    says = ["holds 2 folds", "--model folds/fold0"]
    refused("export", "--model", "folds", "--to", "onnx", cwd=model, says=says, how=run_here)
    path = model / "tiny" / "best.safetensors"
    checkpoint = load_checkpoint(path)
    settings = checkpoint.configuration
    double = settings.model_copy(
        update={"training": settings.training.model_copy(update={"precision": "float64"})}
    )
    save_checkpoint(path, replace(checkpoint, configuration=double))
    says = ["no convolution in float64"]
    refused("export", "--model", "tiny", "--to", "onnx", cwd=model, says=says, how=run_here)


WRONG = """
import numpy as np
from backends.reference.model import compile as compile_reference, list_devices
from core.backend.contract import Backend

backend = Backend('wrong', 'Wrong', None, ('numpy',), 'pip install wrong', 'wrong_package', ('wrongs',))


def compile(*what):
    return compile_reference(*what)


def predict_exported(directory, images):
    return np.full(images.shape, 0.5)
"""


def test_a_wrong_export_is_an_error_and_leaves_nothing(model: Path) -> None:
    others = model / "others"
    twin = DESCRIPTOR.format("'twin', 'Twin', None, ('numpy',), 'pip install twin', 'no.model', ('wrongs',)")
    env = install(others, {"wrong": WRONG, "twin": twin})
    words = ("export", "--model", "tiny", "--to", "wrongs", "--out", "out")
    says = ["backend 'twin'", "cannot be imported"]  # the first that writes it, since -f was not given
    refused(*words, cwd=model, env=env, says=says)
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    says = ["the wrongs export is wrong", "Nothing was written"]
    refused(*words, "-f", "wrong", cwd=model, env=env, says=says)


def test_a_model_just_trained_exports_with_its_metadata(tmp_path: Path) -> None:
    prepare(tmp_path)
    train(cwd=tmp_path, how=run_here)
    facts = json.loads((tmp_path / "reference_model" / "export" / "metadata.json").read_text())
    tuned = json.loads((tmp_path / "reference_model" / "thresholds.json").read_text())
    assert json.loads(facts["thresholds"]) == {key: tuned[key] for key in ("pixel", "area", "score")}
    assert (facts["white"], facts["epoch"]) == ("1", str(load_epoch(tmp_path)))
    output = succeed("export", "--model", "reference_model", "--to", "onnx", cwd=tmp_path, how=run_here)
    assert shown_difference(output) < 1e-5
    metadata = tmp_path / "reference_model" / "export-onnx" / "metadata.json"
    assert json.loads(metadata.read_text())["white"] == facts["white"], "one rule for every export"


def load_epoch(folder: Path) -> int:
    return len(load_checkpoint(folder / "reference_model" / "best.safetensors").progress.history)


def test_onnx_predicts_scores_and_tunes_what_another_backend_trained(tmp_path: Path) -> None:
    prepare(tmp_path)
    train(cwd=tmp_path, how=run_here)
    model = ["--model", "reference_model"]
    for number in range(4):
        write_radiograph(
            tmp_path / "images" / f"{number}.dcm", number, radiograph(number, 50, 60, number < 2)
        )
    scores = {}
    for name in ("onnx", "reference"):
        succeed(
            "evaluate",
            "-f",
            name,
            *model,
            "--json",
            f"{name}.json",
            "--data",
            "data.h5",
            cwd=tmp_path,
            how=run_here,
        )
        scores[name] = json.loads((tmp_path / f"{name}.json").read_text())
        out = ["--out", f"{name}.csv", "--pixel", "0.3", "--score", "0.4"]
        succeed("predict", "-f", name, *model, "--images", "images", *out, cwd=tmp_path, how=run_here)
    assert (tmp_path / "onnx.csv").read_text() == (tmp_path / "reference.csv").read_text()
    for key in ("dice", "dice_positive", "auroc", "tp", "fn"):
        assert scores["onnx"][key] == pytest.approx(scores["reference"][key], abs=1e-6)
    before = json.loads((tmp_path / "reference_model" / "thresholds.json").read_text())
    succeed("tune", "-f", "onnx", *model, "--data", "data.h5", cwd=tmp_path, how=run_here)
    after = json.loads((tmp_path / "reference_model" / "thresholds.json").read_text())
    assert after["dice"] == pytest.approx(before["dice"], abs=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        ("-f", "onnx", "--data", "no such file"),
        ("-f", "onnx", "--resume", "no such folder"),
        ("parity", "-f", "reference", "-f", "onnx", "--data", "no such file"),
    ],
)
def test_training_on_onnx_is_refused_before_anything_is_read(tmp_path: Path, words: tuple[str, ...]) -> None:
    says = ["backend 'onnx' (ONNX Runtime) only predicts", "Train with one of: ", "tf"]
    refused(*words, cwd=tmp_path, says=says, how=run_here)


def test_conformance_says_yes_to_prediction_and_no_to_training(tmp_path: Path) -> None:
    words = ("conformance", "-f", "onnx", "--json", "found.json", "--markdown", "table.md")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "table.md").read_text()
    named = re.search(r"on that subject, (.+):$", table, re.MULTILINE)
    cells = re.search(r"^\| prediction \| (.+) \|$", table, re.MULTILINE)
    assert named, table
    assert cells, table
    found = dict(zip(named[1].split(" / "), cells[1].split(" / "), strict=True))
    assert found.pop("tf32") == "-"  # no check of prediction of its own
    assert found == {"float32": "yes", "float64": "no", "mixed_bfloat16": "yes", "mixed_float16": "yes"}
    for subject in ("convolution", "Adam", "determinism", "dropout, masks drawn"):
        assert re.search(rf"\| {subject} \| no / ", table), table
    for row in json.loads((tmp_path / "found.json").read_text()):
        if row["precision"] == "float32" and row["subject"] in ("prediction", "devices", "export"):
            assert row["status"] == "passed", row
        assert row["status"] != "failed", row


def snippets() -> list[tuple[str, str]]:
    """Return the Python examples of docs/export.md, by the format in their heading."""
    text = (ROOT / "docs" / "export.md").read_text()
    found = re.findall(r"^## `(\w+)`.*?```python\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    assert {form for form, _ in found} >= {"onnx", "savedmodel", "mxnet", "torchscript", "stablehlo"}
    return found


@pytest.mark.parametrize(
    "form", [form for name in PREDICTORS for form in find_backend(name).exports if form in dict(snippets())]
)
def test_each_format_is_read_by_the_bare_framework_as_documented(form: str, model: Path) -> None:
    code = dict(snippets())[form]
    grey = ("--white", "255")
    output = succeed("export", "--model", "tiny", "--to", form, "--out", "exported", *grey, cwd=model)
    assert shown_difference(output) < 1e-5
    assert json.loads((model / "exported" / "metadata.json").read_text())["white"] == "255"
    np.save(model / "images.npy", VALUES)
    code = f"import numpy as np\nimages = np.load('images.npy')\n{code}\nnp.save('found.npy', probabilities)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=model,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    words = ("export", "--model", "tiny", "--to", "onnx", "--out", "reference.onnx")
    succeed(*words, *grey, cwd=model, how=run_here)
    session = onnxruntime.InferenceSession(str(model / "reference.onnx"), providers=["CPUExecutionProvider"])
    found = np.load(model / "found.npy")
    np.testing.assert_allclose(found, session.run(None, {"images": VALUES})[0], rtol=0, atol=1e-6)
