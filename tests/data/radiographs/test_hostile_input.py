"""Fuzz tests: thousands of damaged and inconsistent files give a value or a clear error.

No file may cause another exception, a crash of a decoder, a hang or unbounded memory. The picture may differ
from the undamaged one only if a part that determines it differs. The seed and a number alone determine each
input. `PNEUMOSEG_FUZZ=20000 pytest -s tests/data/radiographs/test_hostile_input.py` tries 20,000;
`PNEUMOSEG_SEED` selects others. Inputs that once failed are in `corpus/`, and are tried every time.
"""

from __future__ import annotations

import functools
import io
import os
import random
import resource
import signal
import sys
import tempfile
import warnings
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import hostile
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from core.base.errors import UserError
from core.base.system import available_cores
from core.processes.pool import map_in_order
from data.annotations import rle
from data.annotations.annotation_file import AnnotationError, combined_mask, read_annotations
from data.hdf5.store import Store
from data.radiographs.dicom import UnreadableImage, radiograph, read_dataset

CASES = int(os.environ.get("PNEUMOSEG_FUZZ", "1500"))
SEED = int(os.environ.get("PNEUMOSEG_SEED", "1"))
CHUNK = 125
SECONDS = 5
MEGABYTES = 600  # beyond what the process takes to start with
CORPUS = Path(__file__).parents[1] / "corpus"
KINDS = ("dicom", "dicom", "dicom", "dicom", "lie", "lie", "annotations", "rle", "store", "store")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of time and memory are Linux's")


class Tried(NamedTuple):
    """The results of some cases: the count of each outcome, and the failures."""

    outcomes: Counter[str]
    failures: list[str]


@functools.cache
def seeds(kind: str) -> dict[str, bytes]:
    real = os.environ.get("PNEUMOSEG_REAL_DATA")
    if kind in ("dicom", "lie"):
        return hostile.dicom_seeds(Path(real) if real else None)
    if kind == "annotations":
        return hostile.annotation_seeds()
    with tempfile.TemporaryDirectory() as name:
        return hostile.store_seeds(Path(name))


def limit() -> None:
    """Set limits in a worker, so that a hang or too much memory ends it."""
    warnings.simplefilter("ignore")
    for kind in KINDS:
        if kind != "rle":
            seeds(kind)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends a process that is inside a library, too
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = used + (MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def try_all(numbers: tuple[int, ...]) -> Tried:
    """Try some cases, in a worker."""
    outcomes, failures = Counter[str](), []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        for number in numbers:
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                outcomes[try_one(number, Path(name))] += 1
            except Exception as error:
                failures.append(f"{number}: {type(error).__name__}: {error}"[:300])
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return Tried(outcomes, failures)


def try_one(number: int, folder: Path) -> str:
    chance = random.Random(f"{SEED} {number}")
    kind = chance.choice(KINDS)
    if kind == "rle":
        return f"{kind} {check_rle(chance)}"
    name = chance.choice(sorted(seeds(kind)))
    whole = seeds(kind)[name]
    damaged = hostile.lies(whole, chance) if kind == "lie" else hostile.mutated(whole, chance)
    path = folder / "input"
    path.write_bytes(damaged)
    if kind == "annotations":
        return f"{kind} {check_annotations(path)}"
    if kind == "store":
        return f"{kind} {check_store(path)}"
    return f"{kind} {check_dicom(path, whole)}"


def check_dicom(path: Path, whole: bytes | None = None) -> str:
    """Check that a radiograph is valid, and equals the undamaged one unless its `foundation` changed."""
    try:
        dataset = read_dataset(path)
        found = radiograph(path, dataset).pixels
    except UnreadableImage as error:
        assert error.reason.strip()
        assert "MemoryError" not in error.reason, error.reason
        return "refused"
    assert found.dtype == np.float32
    assert found.shape == (dataset.Rows, dataset.Columns)
    assert found.min() >= 0  # false for a NaN too
    assert found.max() <= 1
    if whole is not None:
        before = pydicom.dcmread(io.BytesIO(whole), force=True)
        if foundation(before) == foundation(dataset) != "":
            np.testing.assert_array_equal(found, radiograph(path, read_bytes(path, whole)).pixels)
            return "read, the same"
    return "read"


def read_bytes(path: Path, content: bytes) -> Dataset:
    other = path.with_name("whole")
    other.write_bytes(content)
    return read_dataset(other)


def foundation(dataset: Dataset) -> str:
    """Return everything that determines a picture; "" if pydicom cannot parse it."""
    try:
        header: list[Any] = [str(dataset.get(keyword)) for keyword in hostile.LIES]
    except NotImplementedError:  # an element of no known type
        return ""
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        header.extend((item.get("LUTDescriptor"), item.get("LUTData")) for item in dataset.get(keyword) or ())
    pixels = dataset.get("PixelData", b"")
    syntax = dataset.file_meta.get("TransferSyntaxUID", "") if hasattr(dataset, "file_meta") else ""
    return repr((header, pixels, syntax, dataset.original_encoding))


def check_annotations(path: Path) -> str:
    try:
        annotations = read_annotations(path)
    except UserError as error:
        assert str(path) in str(error)
        return "refused"
    assert annotations.images == len(annotations.rows_of) > 0
    for rows in list(annotations.rows_of.values())[:20]:
        try:
            mask = combined_mask(rows, hostile.HEIGHT, hostile.WIDTH)
        except AnnotationError as error:
            assert "row" in str(error)
            continue
        assert_mask(mask)
    return "read"


def assert_mask(mask: NDArray[np.uint8]) -> None:
    assert mask.dtype == np.uint8
    assert mask.shape == (hostile.HEIGHT, hostile.WIDTH)
    assert set(np.unique(mask)) <= {0, 1}


def check_rle(chance: random.Random) -> str:
    mask = np.array(chance.choices((0, 1), (9, 1), k=hostile.HEIGHT * hostile.WIDTH), np.uint8)
    text = rle.encode(mask.reshape(hostile.HEIGHT, hostile.WIDTH))
    if chance.random() < 0.3:
        text = " ".join(f"{word}{chance.choice(['.0', 'e0', '0E-1', ''])}" for word in text.split())
    damaged = hostile.mutated(text.encode(), chance).decode("latin-1")
    try:
        found = rle.decode(damaged, hostile.HEIGHT, hostile.WIDTH)
    except rle.RleError:
        return "refused"
    assert_mask(found)
    lengths = [] if rle.is_empty(damaged) else [Decimal(word) for word in damaged.split()[1::2]]
    assert found.sum() == sum(lengths)
    return "read"


def check_store(path: Path) -> str:
    try:
        with Store.open(path) as store:
            assert store.count == len(store.ids) == len(store.sizes) == len(store.positive)
            for index in range(min(store.count, 20)):
                images = np.full((1, store.height, store.width, 1), 9, np.float32)
                masks = np.full(images.shape, 9, np.uint8)
                store.read(np.array([index]), images, masks)
                assert images.min() >= 0
                assert images.max() <= 1
                assert masks.max() <= 1
    except UserError as error:
        assert str(path) in str(error)
        return "refused"
    return "read"


def check_file(path: Path) -> Tried:
    """Try a file of the corpus, in a worker."""
    checks = {".dcm": check_dicom, ".csv": check_annotations, ".h5": check_store}
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return Tried(Counter([checks[path.suffix](path)]), [])
    except Exception as error:
        return Tried(Counter(), [f"{path.name}: {type(error).__name__}: {error}"[:300]])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def file_died(path: Path) -> Tried:
    return Tried(Counter(), [f"{path.name}: the process died: a crash or a hang"])


def test_the_corpus() -> None:
    """Inputs that once failed are read or refused; `README.md` in their folder describes them."""
    paths = sorted(path for path in CORPUS.iterdir() if path.suffix != ".md")
    assert len(paths) >= 9
    listed = (CORPUS / "README.md").read_text()
    found = map_in_order(check_file, paths, workers=2, on_crash=file_died, prepare=limit)
    for path, tried in zip(paths, found, strict=True):
        assert not tried.failures
        # A damaged attribute that nobody needs is passed over.
        expected = "read" if path.name.startswith("attribute") else "refused"
        assert tried.outcomes == Counter([expected]), path.name
        assert f"`{path.name}`" in listed


def died(numbers: tuple[int, ...]) -> Tried:
    return Tried(Counter(), [f"{', '.join(map(str, numbers))}: the process died: a crash or a hang"])


@pytest.mark.timeout(max(CASES, 1500) // 5)
def test_thousands() -> None:
    chunks = [tuple(range(start, min(start + CHUNK, CASES))) for start in range(0, CASES, CHUNK)]
    outcomes, failures = Counter[str](), list[str]()
    for chunk, tried in zip(chunks, run(chunks), strict=True):
        if not tried.outcomes and tried.failures:  # one of them did it: which?
            alone = list(run([(number,) for number in chunk]))
            tried = Tried(
                sum((one.outcomes for one in alone), Counter()), [f for one in alone for f in one[1]]
            )
        outcomes += tried.outcomes
        failures += tried.failures
    print(f"\n{CASES} inputs with seed {SEED}: {dict(sorted(outcomes.items()))}")
    assert not failures, f"{len(failures)} failures:\n" + "\n".join(failures[:40])
    assert outcomes.total() == CASES


def run(chunks: list[tuple[int, ...]]) -> list[Tried]:
    workers = min(available_cores(), 4)
    return list(map_in_order(try_all, chunks, workers=workers, on_crash=died, prepare=limit))
