"""Checkpoints: written whole, read strictly, safe against any file, resumed only if nothing else changed."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from core.base.errors import UserError
from core.experiment.checkpoint import (
    Checkpoint,
    DataFacts,
    EpochRecord,
    Progress,
    check_continuation,
    load_checkpoint,
    save_checkpoint,
)
from core.experiment.configuration import load_configuration, parse_configuration

RECORD = EpochRecord(1, 0.9, 0.8, 0.7, 0.6, None, 1e-3, 12.5, "validation", 4)
CHECKPOINT = Checkpoint(
    configuration=load_configuration(Path("configs/fcn_skip.yaml"), ["training.batch_size=16"]),
    data=DataFacts(images=20, positives=3, height=32, width=48),
    progress=Progress(step=5, batch=1, loss_sum=0.1 + 0.2, images=4, seconds=1.5, history=(RECORD,)),
    arrays={
        "a/kernel": np.random.default_rng(0).normal(size=(3, 3, 1, 2)).astype(np.float32),
        "a/bias": np.array([np.float32(1e-45), -0.0]),
        "wide": np.random.default_rng(1).normal(size=(5,)),
    },
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("checkpoint") / "last.safetensors"
    save_checkpoint(path, CHECKPOINT)
    return path.read_bytes()


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.safetensors", CHECKPOINT)
    loaded = load_checkpoint(tmp_path / "x.safetensors")
    assert replace(loaded, arrays={}) == replace(CHECKPOINT, arrays={})
    assert loaded.arrays.keys() == CHECKPOINT.arrays.keys()
    for name, array in CHECKPOINT.arrays.items():
        assert loaded.arrays[name].dtype == array.dtype
        assert loaded.arrays[name].tobytes() == array.tobytes()


def test_an_array_that_is_not_contiguous_is_written_as_it_reads(tmp_path: Path) -> None:
    turned = np.arange(12, dtype=np.float32).reshape(3, 4).T
    save_checkpoint(tmp_path / "x", replace(CHECKPOINT, arrays={"turned": turned}))
    np.testing.assert_array_equal(load_file(tmp_path / "x")["turned"], turned)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*last.safetensors\nTrain first"):
        load_checkpoint(tmp_path / "last.safetensors")


def test_every_truncation_is_refused(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    for length in [*range(0, 200), *range(200, len(written), 61), len(written) - 1]:
        path.write_bytes(written[:length])
        with pytest.raises(UserError, match=r"cut\.safetensors"):
            load_checkpoint(path)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_single_byte_of_what_was_written_changed_anywhere_is_refused(
    written: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    header = 8 + struct.unpack("<Q", written[:8])[0]
    place = data.draw(st.one_of(st.integers(0, header - 1), st.integers(header, len(written) - 1)))
    damaged = bytearray(written)
    damaged[place] ^= data.draw(st.integers(1, 255))
    # The header's JSON is padded with spaces. Other white space there does not change the content.
    filling = place < header and not written[place:header].strip(b" ")
    assume(not filling or damaged[place] not in b"\t\n\r")
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(bytes(damaged))
    with pytest.raises(UserError, match=r"damaged\.safetensors"):
        load_checkpoint(path)


def test_other_white_space_behind_the_header_changes_nothing(written: bytes, tmp_path: Path) -> None:
    size = struct.unpack("<Q", written[:8])[0]
    header = written[8 : 8 + size].rstrip(b" ")
    path = tmp_path / "filled.safetensors"
    filled = header + b"\r\n\t     "
    path.write_bytes(struct.pack("<Q", len(filled)) + filled + written[8 + size :])
    assert load_checkpoint(path).arrays.keys() == CHECKPOINT.arrays.keys()
    for name, array in load_checkpoint(path).arrays.items():
        np.testing.assert_array_equal(array, CHECKPOINT.arrays[name])


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=300), length=st.one_of(st.none(), st.integers(0, 2**64 - 1)))
def test_any_bytes_are_refused(
    content: bytes, length: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes((b"" if length is None else struct.pack("<Q", length)) + content)
    with pytest.raises(UserError, match=r"any\.safetensors"):
        load_checkpoint(path)


def rewritten(written: bytes, change: dict[str, object]) -> bytes:
    """Return the same file with other metadata and the matching hash."""
    size = struct.unpack("<Q", written[:8])[0]
    header = json.loads(written[8 : 8 + size])
    metadata = header["__metadata__"]
    content = json.loads(metadata["content"])
    for path, value in change.items():
        *parents, last = path.split(".")
        node = metadata if parents[:1] == ["metadata"] else content
        for parent in parents if node is content else parents[1:]:
            node = node[parent]
        node[last] = value
    metadata["content"] = json.dumps(content) if metadata["content"] is not None else "nonsense"
    digest = hashlib.sha256(metadata["content"].encode())
    for name, array in sorted(CHECKPOINT.arrays.items()):
        digest.update(f"\x1f{name} {array.dtype.str} {array.shape}\x1f".encode() + array.tobytes())
    metadata["sha256"] = digest.hexdigest()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + written[8 + size :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata.format": "another"}, "expected a pneumoseg-checkpoint of version 1; received"),
        *(
            ({"metadata.version": version}, "expected a pneumoseg-checkpoint of version 1; received")
            for version in ("2", "0", "10", "")
        ),
        ({"metadata.content": None}, "the metadata are damaged"),
        ({"progress": 3}, "the metadata are damaged"),
        ({"progress.step": "many"}, "the metadata are damaged"),
        ({"progress.history": [{"epoch": 1}]}, "the metadata are damaged"),
        ({"data": {"images": 3}}, "the metadata are damaged"),
        ({"configuration.network.blocks": []}, "network.blocks"),
        ({"configuration.training.epochs": -1}, "training.epochs"),
        ({"configuration": None}, ""),
    ],
)
def test_metadata_that_lie_are_named(
    written: bytes, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(rewritten(written, change))
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert "lie.safetensors" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "training.epochs=7",
        "training.optimizer.learning_rate=0.5",
        "training.early_stop.patience=2",
        "training.average_best=3",
    ],
)
def test_what_a_continuation_may_change(override: str) -> None:
    changed = parse_configuration(CHECKPOINT.configuration.model_dump(mode="json"), [override])
    assert changed != CHECKPOINT.configuration
    check_continuation(CHECKPOINT, changed, CHECKPOINT.data)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.batch_size=3", "training.batch_size was 16 in the checkpoint and is now 3"),
        ("training.seed=1", "training.seed was 0 "),
        ("training.optimizer.name=adamw", "training.optimizer.name was 'adam' in the checkpoint and is now"),
        ("training.optimizer={name: sgd}", "training.optimizer was {"),
        ("training.loss.lovasz=1", "training.loss.lovasz was 0.0 "),
        ("training.optimizer.beta1=0.8", "training.optimizer.beta1 was 0.9 "),
        (
            "training.precision=float64",
            "training.precision was 'float32' in the checkpoint and is now 'float64'",
        ),
        ("network.dropout=0.25", "network.dropout was "),
        ("network.blocks[1].kernel=5", "network.blocks[1].kernel was 3 in the checkpoint and is now 5"),
        ("training.schedule={name: cosine}", "training.schedule was {"),
        ("training.sampling={positives: 0.5}", "training.sampling was None "),
        (
            "training.augmentation.rotate=5",
            "training.augmentation.rotate was 0.0 in the checkpoint and is now 5.0",
        ),
        ("training.folds=3", "training.folds was None in the checkpoint and is now 3"),
        ("training.clip_norm=1.0", "training.clip_norm was None in the checkpoint and is now 1.0"),
    ],
)
def test_what_a_continuation_may_not_change_is_named(override: str, message: str) -> None:
    changed = parse_configuration(CHECKPOINT.configuration.model_dump(mode="json"), [override])
    with pytest.raises(UserError) as caught:
        check_continuation(CHECKPOINT, changed, CHECKPOINT.data)
    assert message in str(caught.value)


def test_a_checkpoint_from_before_the_recipe_is_continued() -> None:
    content = CHECKPOINT.configuration.model_dump(mode="json")
    for key in ("schedule", "sampling", "augmentation", "average_best", "folds", "fold", "crop"):
        del content["training"][key]
    old = replace(CHECKPOINT, configuration=parse_configuration(content))
    check_continuation(old, CHECKPOINT.configuration, CHECKPOINT.data)


def test_other_data_are_refused() -> None:
    other = replace(CHECKPOINT.data, positives=4)
    with pytest.raises(
        UserError, match=r"20 images \(3 positive\) of 32x48, --data holds 20 images \(4 positive\)"
    ):
        check_continuation(CHECKPOINT, CHECKPOINT.configuration, other)
    equalised = replace(CHECKPOINT.data, clahe=(2.0, 8))
    with pytest.raises(UserError, match=r"of 32x48, --data .* of 32x48, CLAHE with limit 2 and 8x8 tiles"):
        check_continuation(CHECKPOINT, CHECKPOINT.configuration, equalised)
