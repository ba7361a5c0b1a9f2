"""TensorBoard files hold every epoch's scalars and the pictures of each new best, in valid records."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message
from PIL import Image

from core.base.errors import UserError
from core.experiment.checkpoint import EpochRecord
from core.pictures.radiographs import Sample, draw_sample
from core.training.tensorboard import Event, TensorBoardLog

RECORD = EpochRecord(1, 0.9, 0.8, 0.7, 0.6, 0.5, 1e-3, 12.5, "validation", 4)


def crc32c(data: bytes) -> int:
    """Castagnoli's polynomial bit by bit (RFC 3720, appendix B.4), masked as TFRecord files do."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read(folder: Path) -> list[Any]:
    """The events of the only file, each record's two checksums checked."""
    (file,) = folder.iterdir()
    content, events = file.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert struct.unpack("<I", content[8:12])[0] == crc32c(content[:8])
        data, content = content[12 : 12 + length], content[12 + length :]
        assert struct.unpack("<I", content[:4])[0] == crc32c(data)
        content = content[4:]
        event: Message = Event()
        event.ParseFromString(data)
        events.append(event)
    return events


def sample(seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    return Sample(rng.random((6, 8)), rng.random((6, 8)) > 0.7, rng.random((6, 8)), 0.25)


def test_scalars_of_every_epoch_and_pictures_of_the_best(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path / "tf_logs", epochs=0, threshold=0.5)
    log.epoch_ended(RECORD, True, [sample(0), sample(1)])
    second = replace(RECORD, epoch=2, loss=0.4, dice_positive=None, skipped_steps=3, loss_scale=512.0)
    log.epoch_ended(second, False, [sample(2)])
    log.close()
    values = [(event.step, value) for event in read(tmp_path / "tf_logs") for value in event.summary.value]
    scalars = {(step, value.tag): value.simple_value for step, value in values if not value.HasField("image")}
    expected = {
        "loss/training": 0.9,
        "loss/validation": 0.8,
        "dice/all": 0.7,
        "dice/all_empty": 0.6,
        "dice/positive": 0.5,
        "learning_rate": 1e-3,
        "images_per_second": 12.5,
    }
    assert {tag: scalars[1, tag] for tag in expected} == pytest.approx(expected)
    assert scalars[2, "loss/training"] == pytest.approx(0.4)
    assert (2, "dice/positive") not in scalars
    assert (scalars[2, "loss_scale/scale"], scalars[2, "loss_scale/skipped_steps"]) == (512, 3)
    assert len(scalars) == 15
    images = {(step, value.tag): value.image for step, value in values if value.HasField("image")}
    assert [tag for _, tag in images] == ["validation/1", "validation/2"]
    png = Image.open(io.BytesIO(images[1, "validation/2"].encoded_image_string))
    np.testing.assert_array_equal(np.asarray(png), draw_sample(sample(1), 0.5))


def test_a_resumed_run_hides_what_it_will_write_again(tmp_path: Path) -> None:
    TensorBoardLog(tmp_path, epochs=3, threshold=0.5).close()
    starts = [event for event in read(tmp_path) if event.HasField("session_log")]
    assert [(event.step, event.session_log.status) for event in starts] == [(4, 1)]


def test_events_are_on_disk_after_each_epoch(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, epochs=0, threshold=0.5)
    log.epoch_ended(RECORD, False, [])
    assert sum(len(event.summary.value) for event in read(tmp_path)) == 7
    log.close()


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        TensorBoardLog(tmp_path / "file" / "logs", epochs=0, threshold=0.5)


def test_no_framework_comes_with_it(tmp_path: Path) -> None:
    for framework in ("torch", "tensorflow", "mxnet", "jax"):
        (tmp_path / f"{framework}.py").write_text(f"print('{framework} was imported')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "import core.training.tensorboard"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
