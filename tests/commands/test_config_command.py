"""`run.py config` prints a configuration that trains the same, and raises the errors of `train`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from command_line import ROOT, content, hideable, imported, refused, run, run_here, succeed

from core.experiment.configuration import load_configuration
from core.network.lowering import lower
from core.network.summary import summarise_plan
from core.training.memory_estimate import estimate_training

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_printed_is_the_same_configuration(tmp_path: Path, name: str) -> None:
    changes = ["training.batch_size=3", "network.blocks[0].kernel=5", "training.optimizer.weight_decay=0.25"]
    words = [word for change in changes for word in ("--set", change)]
    text = succeed("config", name, *words, cwd=tmp_path, how=run_here)
    (tmp_path / "saved.yaml").write_text(text)
    assert load_configuration(tmp_path / "saved.yaml") == load_configuration(Path(name), changes)
    assert (
        succeed("config", "saved.yaml", cwd=tmp_path, how=run_here).splitlines()[1:] == text.splitlines()[1:]
    )


def test_every_key_is_there(tmp_path: Path) -> None:
    found = yaml.safe_load(succeed("config", "demo", "--epochs", "7", cwd=tmp_path, how=run_here))
    complete = load_configuration(Path("demo"), ["training.epochs=7"]).model_dump(mode="json")
    assert found["training"] == complete["training"]
    assert found["training"]["epochs"] == 7
    blocks = found["network"].pop("blocks")
    assert found["network"] == {key: value for key, value in complete["network"].items() if key != "blocks"}
    assert blocks == [
        {key: value for key, value in block.items() if value is not None}
        for block in complete["network"]["blocks"]
    ]
    assert list(blocks[0]) == ["name", "kind", "filters", "kernel", "stride", "groups", "dilation"]


def test_the_table_and_the_memory(tmp_path: Path) -> None:
    text = succeed("config", "demo", "--size", "64x96", "--batch-size", "6", cwd=tmp_path, how=run_here)
    configuration = load_configuration(Path("demo"), ["training.batch_size=6"])
    plan = lower(configuration.network, 64, 96)
    assert "# Network for images of 64x96x1: 55,889 parameters" in text
    for row in summarise_plan(plan):
        cells = map(re.escape, (row.name, row.operations, row.output, f"{row.parameters:,}"))
        assert re.search(rf"^# {' +'.join(cells)}$", text, re.MULTILINE), row
    estimate = estimate_training(plan, configuration.training.rules(), 6, "float32")
    assert "# Memory of training in batches of 6, float32: an estimate" in text
    for number in (estimate.state, estimate.activations, estimate.arrays, estimate.process):
        assert f" {number / 1e6:,.1f} MB" in text


def test_json(tmp_path: Path) -> None:
    words = ["config", "demo", "--size", "64x96", "--precision", "float64", "--json"]
    found = json.loads(succeed(*words, cwd=tmp_path, how=run_here))
    configuration = load_configuration(Path("demo"), ["training.precision=float64"])
    assert found["configuration"] == configuration.model_dump(mode="json")
    network = found["network"]
    assert (network["input"], network["parameters"]) == ([64, 96, 1], 55889)
    assert sum(block["parameters"] for block in network["blocks"]) == 55889
    assert network["blocks"][1] == {
        "name": "conv2",
        "operations": ["conv 3x3/2", "bias", "relu", "batch norm"],
        "output": [16, 24, 32],
        "parameters": 9 * 16 * 32 + 3 * 32,
    }
    memory = found["memory"]
    assert (memory["batch_size"], memory["precision"]) == (16, "float64")
    assert memory["bytes_of_arrays"] == sum(memory["bytes"].values())
    single = json.loads(succeed("config", "demo", "--size", "64x96", "--json", cwd=tmp_path, how=run_here))
    assert memory["bytes"]["activations"] == 2 * single["memory"]["bytes"]["activations"]


def test_the_list(tmp_path: Path) -> None:
    text = succeed("config", cwd=tmp_path, how=run_here)
    found = json.loads(succeed("config", "--json", cwd=tmp_path, how=run_here))
    assert [one["name"] for one in found] == NAMES
    for one in found:
        assert re.search(rf"^{one['name']} +{re.escape(one['description'])}$", text, re.MULTILINE)
        first = (ROOT / one["file"]).read_text().splitlines()[0]
        assert first.startswith(f"# {one['description'][:60]}")
        assert 20 < len(one["description"]) < 100, "one line each"
        assert one["description"].endswith(".")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--set", "training.epochs=0"],
            ["network.yaml with training.epochs=0: training.epochs", "received 0"],
        ),
        (["--set", "training.learning_rate=0.1"], ["did you mean 'training.optimizer.learning_rate'?"]),
        (["--set", "network.blocks[1].skip=up"], ["network.blocks[1].skip: 'up' comes after 'middle'"]),
        (["--epochs", "many"], ["training.epochs", "'many'"]),
        (["--fold", "1"], ["training.fold must be one of the folds"]),
    ],
)
def test_a_wrong_one_is_refused_as_by_train(folder: Path, words: list[str], says: list[str]) -> None:
    shown = refused("config", "network.yaml", *words, cwd=folder, how=run_here, says=says)
    options = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
    assert refused(*options, *words, cwd=folder, how=run_here, says=says) == shown


def test_shapes_that_do_not_meet_are_refused_as_by_train(folder: Path) -> None:
    text = (folder / "network.yaml").read_text().replace("kind: output", "kind: output, stride: 3")
    (folder / "network.yaml").write_text(text)
    says = ["network: images of 32x32 would give masks of 48x48"]
    shown = refused("config", "network.yaml", "--size", "32", cwd=folder, how=run_here, says=says)
    options = ["-f", "reference", "--data", "data.h5", "--config", "network.yaml"]
    assert refused(*options, cwd=folder, how=run_here, says=says) == shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], ["no configuration file nowhere", "configs/fcn.yaml"]),
        (["demo", "--size", "0"], ["--size", "Received: '0'"]),
        (["demo", "--size", "64x"], ["--size", "Received: '64x'"]),
        (["demo", "--size", "-64"], ["--size"]),
    ],
)
def test_bad_words(tmp_path: Path, words: list[str], says: list[str]) -> None:
    before = content(tmp_path)
    done = run_here("config", *words, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert all(text in done.stderr for text in says)
    assert content(tmp_path) == before


def test_options_without_a_name_are_wrong_usage(tmp_path: Path) -> None:
    for words in (["--set", "training.epochs=3"], ["--size", "64"], ["--folds", "3"]):
        done = run_here("config", *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{words[0]}: has no effect without NAME" in done.stderr


def test_no_framework_and_nothing_of_the_data_is_imported(tmp_path: Path) -> None:
    done = run("config", "siim", cwd=tmp_path, before=["-X", "importtime"])
    assert done.returncode == 0
    found = imported(done.stderr)
    assert "pydantic" in found
    assert not found & {*hideable(), "h5py", "cv2", "pydicom", "matplotlib", "backends"}
    assert not list(tmp_path.iterdir())
