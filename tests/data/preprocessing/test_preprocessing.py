"""The whole way from DICOM and CSV to HDF5, with phantoms and with damaged files."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
import pytest
from dicom_files import make_dataset
from exact_resizing import exact
from numpy.typing import NDArray
from processes import interruptible

from core.base.errors import UserError
from data.annotations import rle
from data.annotations.annotation_file import Annotations, combined_mask, read_annotations
from data.hdf5 import file_format
from data.hdf5.store import Store
from data.hdf5.verification import verify
from data.phantoms.data_set import PhantomSettings, write_phantoms
from data.preprocessing.preprocessing import preprocess
from data.preprocessing.report import PreprocessingReport
from data.preprocessing.settings import PreprocessingSettings
from data.radiographs import dicom
from data.radiographs.clahe import Clahe, equalize

ROOT = Path(__file__).parents[3]


class Stop(Exception):  # noqa: N818  it is no error
    """An exception that stands for any end of a run."""


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantoms of 96 pixels, half of them positive; the last without annotation."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(PhantomSettings(folder, count=12, size=96, seed=5, positive_fraction=0.5, workers=2))
    return folder


def settings(sources: Path, out: Path, **changes: Any) -> PreprocessingSettings:
    return dataclasses.replace(
        PreprocessingSettings(
            images=sources / "dicom-images-train",
            annotations=sources / "train-rle.csv",
            out=out,
            size=40,
            workers=1,
        ),
        **changes,
    )


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}


def assert_same(one: Path, other: Path) -> None:
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype
        assert values.tobytes() == second[name].tobytes(), name


def test_images_and_masks_are_the_sources(phantoms: Path, tmp_path: Path) -> None:
    report = preprocess(settings(phantoms, tmp_path / "a.h5"))
    assert (report.found, report.written, report.datasets) == (12, 11, 1)
    assert (report.positives, report.unreadable, report.bad_annotation) == (6, (), ())
    assert len(report.without_annotation) == len(report.without_image) == 1
    annotations = read_annotations(phantoms / "train-rle.csv")
    paths = {path.stem: path for path in dicom.find(phantoms)}
    with Store.open(tmp_path / "a.h5") as store:
        assert store.positive.sum() == 6
        assert store.attributes["annotations_sha256"] == annotations.sha256
        images = np.empty((11, 40, 40, 1), np.float32)
        masks = np.empty((11, 40, 40, 1), np.uint8)
        store.read(np.arange(11), images, masks)
        for row, image_id in enumerate(store.ids):
            stored = pydicom.dcmread(paths[image_id]).pixel_array
            np.testing.assert_allclose(images[row, ..., 0], exact(stored, 40, 40) / 255, atol=2e-6)
            full = combined_mask(annotations.rows_of[image_id], 96, 96)
            np.testing.assert_array_equal(masks[row, ..., 0], exact(full, 40, 40) >= 0.5 - 1e-9)
            assert store.sizes[row].tolist() == [96, 96]
            assert store.positive[row] == full.any()


def test_images_are_equalised_and_the_file_says_so(phantoms: Path, tmp_path: Path) -> None:
    def interrupt(_what: str, done: int, _total: int) -> None:
        if done == 3:
            raise Stop

    made = {"limited.h5": (2.5, 3), "plain.h5": (None, 8)}
    for name, (limit, tiles) in made.items():
        with pytest.raises(Stop):  # rows of another contrast are not taken over
            preprocess(settings(phantoms, tmp_path / name, clahe=4.0, clahe_tiles=3), interrupt)
        report = preprocess(settings(phantoms, tmp_path / name, clahe=limit, clahe_tiles=tiles))
        assert report.resumed == 0
    with Store.open(tmp_path / "plain.h5") as plain, Store.open(tmp_path / "limited.h5") as limited:
        assert plain.clahe is None
        assert not set(plain.attributes) & set(file_format.CLAHE)
        assert limited.clahe == Clahe(2.5, 3)
        images, masks = np.empty((2, 11, 40, 40, 1), np.float32), np.empty((2, 11, 40, 40, 1), np.uint8)
        for number, store in enumerate((plain, limited)):
            store.read(np.arange(11), images[number], masks[number])
    for before, after in zip(*images[..., 0], strict=True):
        np.testing.assert_array_equal(equalize(before, Clahe(2.5, 3)), after)
    np.testing.assert_array_equal(*masks)


def test_the_number_of_workers_does_not_matter(phantoms: Path, tmp_path: Path) -> None:
    preprocess(settings(phantoms, tmp_path / "one.h5", per_dataset=3, workers=1))
    preprocess(settings(phantoms, tmp_path / "two.h5", per_dataset=3, workers=2))
    assert_same(tmp_path / "one.h5", tmp_path / "two.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.h5", "two.h5"]


def test_the_last_dataset_is_shorter(phantoms: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    shutil.copytree(phantoms, few)
    for path in dicom.find(few)[7:]:
        path.unlink()
    report = preprocess(settings(few, tmp_path / "a.h5", per_dataset=3))
    found = arrays(tmp_path / "a.h5")
    lengths = [len(found[f"images_{number}"]) for number in range(report.datasets)]
    assert sum(lengths) == report.written >= 6
    assert lengths[:2] == [3, 3] if report.written > 6 else [3, 3]
    assert lengths[-1] == (report.written - 1) % 3 + 1


def test_uint8_storage_gives_the_same_batches(phantoms: Path, tmp_path: Path) -> None:
    wide = preprocess(settings(phantoms, tmp_path / "float32.h5"))
    narrow = preprocess(settings(phantoms, tmp_path / "uint8.h5", storage="uint8"))
    assert narrow.size_in_bytes < wide.size_in_bytes / 2
    read: list[NDArray[np.float32]] = []
    for name in ("float32", "uint8"):
        with Store.open(tmp_path / f"{name}.h5") as store:
            images = np.empty((11, 40, 40, 1), np.float32)
            store.read(np.arange(11), images, np.empty((11, 40, 40, 1), np.uint8))
            read.append(images)
    np.testing.assert_allclose(*read, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(read[1], np.rint(read[1] * 255).astype(np.float32) / 255)


@pytest.fixture
def ugly(phantoms: Path, tmp_path: Path) -> tuple[Path, PreprocessingReport]:
    """Preprocess a folder with an example of each fault."""
    folder = tmp_path / "ugly"
    shutil.copytree(phantoms, folder)
    images = folder / "dicom-images-train"
    whole = [path for path in dicom.find(images) if path.stem in annotated(folder)]
    shutil.copy(whole[0], images / "zzz-again.dcm")  # its SOP Instance UID has annotations
    (images / "torn.dcm").write_bytes(whole[1].read_bytes()[:1000])
    tall = np.zeros((90, 48), np.uint8)
    tall[30:60, 20:22] = 200
    for name, encoding in {
        "tiny": "2000 1",
        "outside": "0 5000",
        "odd": "1 2 3",
        "both": "10 9",
        "blank": "",
        "ones": "0 4320",
    }.items():
        make_dataset(tall).save_as(images / f"{name}.dcm")
        with (folder / "train-rle.csv").open("a") as file:
            file.write(f"{name}, {encoding}\n")
    with (folder / "train-rle.csv").open("a") as file:
        file.write("both, -1\n")
    return folder, preprocess(settings(folder, tmp_path / "a.h5", per_dataset=4))


def summary_of(report: PreprocessingReport) -> Annotations:
    assert report.annotations is not None
    return report.annotations


def annotated(folder: Path) -> set[str]:
    return set(read_annotations(folder / "train-rle.csv").rows_of)


def test_everything_that_goes_wrong_is_reported(ugly: tuple[Path, PreprocessingReport]) -> None:
    _, report = ugly
    assert (report.found, report.written) == (20, 14)
    assert [remark.file for remark in report.duplicates] == ["zzz-again.dcm"]
    assert [remark.file for remark in report.unreadable] == ["torn.dcm"]
    assert report.unreadable[0].reason
    bad = {remark.file: remark.reason for remark in report.bad_annotation}
    lines = (ugly[0] / "train-rle.csv").read_text().splitlines()
    assert bad.keys() == {"outside.dcm", "odd.dcm"}
    assert f"row {lines.index('outside, 0 5000') + 1}:" in bad["outside.dcm"]
    assert "5000" in bad["outside.dcm"]
    assert f"row {lines.index('odd, 1 2 3') + 1}:" in bad["odd.dcm"]
    assert "blank.dcm" in [remark.file for remark in report.without_annotation]
    assert summary_of(report).blank_rows == (lines.index("blank, ") + 1,)
    assert (report.vanished, report.contradictory, report.positives) == (1, 1, 9)


def test_the_report_adds_up(ugly: tuple[Path, PreprocessingReport]) -> None:
    """The counts are compared with counts made here from the sources."""
    folder, report = ugly
    rows = [line.partition(", ")[::2] for line in (folder / "train-rle.csv").read_text().splitlines()[1:]]
    with Store.open(report.out) as store:
        per_image = Counter(
            sum(image_id == name and text != "-1" for name, text in rows) for image_id in store.ids
        )
    assert report.annotations_per_image == per_image
    assert report.several == sum(count for number, count in per_image.items() if number > 1)
    assert 0 < report.overlapping <= report.several
    assert report.transfer_syntaxes == {"JPEG Baseline (Process 1)": 14, "Explicit VR Little Endian": 6}
    assert report.stored_bits == {8: 20}  # the torn file ends within its pixels, after its header
    assert report.skipped == 6 == report.found - report.written
    assert summary_of(report).contradictory_rows == (len(rows) + 1,)
    assert [number for number, _ in summary_of(report).malformed_rows] == [rows.index(("odd", "1 2 3")) + 2]


@pytest.mark.parametrize("change", [{}, {"strict": True}], ids=["lenient", "strict"])
def test_a_resumed_run_reports_the_same(
    ugly: tuple[Path, PreprocessingReport], tmp_path: Path, change: Any
) -> None:
    folder, _ = ugly
    wanted = settings(folder, tmp_path / "out.h5", report=tmp_path / "report.json", **change)

    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "reading" and done == 14:
            raise Stop

    def finished() -> bytes:
        with pytest.raises(UserError) if wanted.strict else contextlib.nullcontext():
            preprocess(wanted)
        content = (tmp_path / "report.json").read_bytes()
        for path in [*tmp_path.glob("out.h5*"), tmp_path / "report.json"]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return content

    whole = finished()
    with pytest.raises(Stop):
        preprocess(wanted, interrupt)
    assert not (tmp_path / "report.json").exists()
    assert finished() == whole
    content = json.loads(whole)
    assert content["unreadable"][0]["file"] == "torn.dcm"
    assert content["annotations"]["malformed_rows"][0]["reason"].startswith("it has 3 numbers")
    assert bool(content["error"]) == wanted.strict
    assert content["written"] == (0 if wanted.strict else 14)


def test_strict_refuses_what_would_be_left_out(
    ugly: tuple[Path, PreprocessingReport], tmp_path: Path
) -> None:
    folder, _ = ugly
    out = tmp_path / "out.h5"
    with pytest.raises(UserError) as caught:
        preprocess(settings(folder, out, strict=True))
    says = [
        "6 of 20 DICOM files",
        "1 annotated images are missing",
        "blank.dcm: without annotation",
        "2 more",
    ]
    for text in [*says, "odd.dcm: bad annotation (annotation row", "leave out --strict", "out.h5.staging"]:
        assert text in str(caught.value)
    assert not out.exists()
    report = preprocess(settings(folder, out))
    assert (report.resumed, report.written) == (20, 14)
    preprocess(settings(folder, tmp_path / "again.h5"))
    assert_same(out, tmp_path / "again.h5")


def clean(phantoms: Path, folder: Path) -> Path:
    """Return the phantoms without the two faults that --strict forbids."""
    shutil.copytree(phantoms, folder)
    known = annotated(folder)
    stems = {path.stem for path in dicom.find(folder)}
    next(path for path in dicom.find(folder) if path.stem not in known).unlink()
    lines = (folder / "train-rle.csv").read_text().splitlines(keepends=True)
    (folder / "train-rle.csv").write_text(
        "".join([lines[0], *(row for row in lines if row.split(",")[0] in stems)])
    )
    return folder


def test_strict_lets_whole_sources_pass(phantoms: Path, tmp_path: Path) -> None:
    sources = clean(phantoms, tmp_path / "clean")
    report = preprocess(settings(sources, tmp_path / "a.h5", strict=True, report=tmp_path / "r.json"))
    assert (report.written, report.skipped, report.error) == (11, 0, "")
    with (sources / "train-rle.csv").open("a") as file:
        file.write("nobody, -1\n")
    with pytest.raises(UserError, match="nobody: annotated, but"):
        preprocess(settings(sources, tmp_path / "b.h5", strict=True))


def test_a_folder_without_annotations(ugly: tuple[Path, PreprocessingReport], tmp_path: Path) -> None:
    folder, labelled = ugly
    wanted = settings(folder, tmp_path / "b.h5", annotations=None, per_dataset=4)

    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "reading" and done == 7:
            raise Stop

    with pytest.raises(Stop):
        preprocess(wanted, interrupt)
    report = preprocess(wanted)
    assert (report.resumed, report.found, report.written, report.annotations) == (7, 20, 19, None)
    assert report.without_annotation == report.bad_annotation == report.without_image == ()
    assert [remark.file for remark in report.unreadable] == ["torn.dcm"]
    found = arrays(report.out)
    assert {name.split("_")[0] for name in found} == {
        *("images", "ids", "sizes", "patients", "views", "sexes", "ages")
    }
    ids = dict(zip(every(found, "ids"), every(found, "images"), strict=True))
    assert {b"outside", b"blank", b"zzz-again"} < ids.keys()
    known = arrays(labelled.out)
    for image_id, image in zip(every(known, "ids"), every(known, "images"), strict=True):
        np.testing.assert_array_equal(ids[image_id], image)


def every(found: dict[str, NDArray[Any]], name: str) -> list[Any]:
    """Return all rows of the numbered datasets of one name."""
    count = sum(key.startswith(f"{name}_") for key in found)
    return [row for number in range(count) for row in found[f"{name}_{number}"]]


def test_files_of_one_name_go_by_their_uid_where_no_row_tells_them_apart(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    for number, uid in enumerate(["1.2.7", "1.2.8", "1.2.8", ""]):
        dataset = make_dataset(random.integers(0, 256, (9, 7), np.uint8))
        dataset.SOPInstanceUID = uid
        (tmp_path / "dicom-images-train" / str(number)).mkdir(parents=True)
        dataset.save_as(tmp_path / "dicom-images-train" / str(number) / "image.dcm")
    shutil.copy(tmp_path / "dicom-images-train/0/image.dcm", tmp_path / "dicom-images-train/alone.dcm")
    report = preprocess(settings(tmp_path, tmp_path / "a.h5", annotations=None))
    assert [remark.file for remark in report.duplicates] == ["2/image.dcm"]
    with Store.open(report.out) as store:
        assert store.ids == ("1.2.7", "1.2.8", "image", "alone")


def test_a_wreck_keeps_no_good_file_of_the_same_id_out(phantoms: Path, tmp_path: Path) -> None:
    good = dicom.find(phantoms)[1]
    for name, content in (("a", good.read_bytes()[:700]), ("b", good.read_bytes())):
        (tmp_path / "dicom-images-train" / name).mkdir(parents=True)
        (tmp_path / "dicom-images-train" / name / good.name).write_bytes(content)
    report = preprocess(settings(tmp_path, tmp_path / "a.h5", annotations=None))
    assert [remark.file for remark in report.unreadable] == [f"a/{good.name}"]
    assert (report.written, report.duplicates) == (1, ())


@pytest.fixture
def family(phantoms: Path, tmp_path: Path) -> Path:
    """The phantoms divided among few patients, one without identifier, one of another issuer."""
    sources = clean(phantoms, tmp_path / "family")
    for number, path in enumerate(dicom.find(sources)):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = ["Doe^1 ", "B", "", "Doe^1", "B"][number % 5]
        if number % 5 == 4:
            dataset.IssuerOfPatientID = "Elsewhere"
        dataset.save_as(path)
    return sources


def patients_of(path: Path) -> list[str]:
    with Store.open(path) as store:
        return list(store.patients)


def test_patients_are_numbered(family: Path, tmp_path: Path) -> None:
    report = preprocess(settings(family, tmp_path / "a.h5", per_dataset=4))
    expected = ["0", "1", "", "0", "2"]
    assert patients_of(report.out) == [expected[number % 5] for number in range(11)]
    assert (report.patients, report.unknown_patients) == (3, 2)
    content = report.out.read_bytes()
    assert b"Doe" not in content
    out = tmp_path / "b.h5"

    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "reading" and done == 7:
            raise Stop

    with pytest.raises(Stop):
        preprocess(settings(family, out, per_dataset=4), interrupt)
    key = tmp_path / "b.h5.staging" / "key"
    assert len(key.read_bytes()) == 32
    assert key.stat().st_mode & 0o777 == 0o600
    journal = (tmp_path / "b.h5.staging" / "journal.jsonl").read_text()
    assert "Doe" not in journal
    for word in ("Doe^1", "Doe^1 ", "B"):  # nor a hash that anybody could compute
        assert hashlib.sha256(word.encode()).hexdigest() not in journal
    assert preprocess(settings(family, out, per_dataset=4)).resumed == 7
    assert_same(tmp_path / "a.h5", out)


def test_view_sex_and_age_are_kept(family: Path, tmp_path: Path) -> None:
    written = [("AP", "F", "034Y"), ("PA", "M", "051"), ("", "", ""), ("PA", "O", "093Y")]
    for number, path in enumerate(dicom.find(family)):
        dataset = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            dataset.ViewPosition, dataset.PatientSex, dataset.PatientAge = written[number % 4]
        dataset.save_as(path)
    report = preprocess(settings(family, tmp_path / "a.h5", per_dataset=4))
    with Store.open(report.out) as store:
        assert store.views == tuple(["AP", "PA", "", "PA"][number % 4] for number in range(11))
        assert store.sexes == tuple(["F", "M", "", "O"][number % 4] for number in range(11))
        assert store.ages.tolist() == [[34, 51, -1, 90][number % 4] for number in range(11)]
    assert verify(report.out).faults == ()


def test_without_its_key_a_staging_folder_is_begun_anew(family: Path, tmp_path: Path) -> None:
    """Otherwise a patient would have two names."""

    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "reading" and done == 2:
            raise Stop

    with pytest.raises(Stop):
        preprocess(settings(family, tmp_path / "a.h5"), interrupt)
    (tmp_path / "a.h5.staging" / "key").write_bytes(b"")
    assert preprocess(settings(family, tmp_path / "a.h5")).resumed == 0
    assert len(set(patients_of(tmp_path / "a.h5"))) == 4


def test_patients_are_hashed_with_the_users_key(family: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"sixteen bytes it needs\n")
    report = preprocess(settings(family, tmp_path / "a.h5", patient_key_file=key))
    doe, other, foreign = (
        hmac.digest(key.read_bytes(), text, "sha256").hex() for text in (b"Doe^1", b"B", b"B\\Elsewhere")
    )
    assert patients_of(report.out)[:6] == [doe, other, "", doe, foreign, doe]
    key.write_bytes(b"another key of sixteen bytes")
    preprocess(settings(family, tmp_path / "b.h5", patient_key_file=key))
    assert doe not in patients_of(tmp_path / "b.h5")
    ignored = preprocess(settings(family, tmp_path / "c.h5", ignore_patients=True))
    assert patients_of(ignored.out) == [""] * 11
    assert (ignored.patients, ignored.unknown_patients) == (0, 11)
    key.write_bytes(b"too short")
    for change, says in (({}, "9 bytes"), ({"ignore_patients": True}, "contradict")):
        with pytest.raises(UserError, match=says):
            preprocess(settings(family, tmp_path / "d.h5", patient_key_file=key, **change))
    assert not list(tmp_path.glob("d.h5*"))


def test_what_is_kept_is_right_all_the_same(ugly: tuple[Path, PreprocessingReport]) -> None:
    folder, report = ugly
    with Store.open(report.out) as store:
        assert len(set(store.ids)) == store.count == 14
        assert not {"torn", "outside", "odd", "blank"} & set(store.ids)
        row = store.ids.index("ones")
        images, masks = np.empty((1, 40, 40, 1), np.float32), np.empty((1, 40, 40, 1), np.uint8)
        store.read(np.array([row]), images, masks)
        assert masks.all()
        assert store.sizes[row].tolist() == [90, 48]
        tall = dicom.read_radiograph(folder / "dicom-images-train" / "ones.dcm").pixels
        np.testing.assert_allclose(images[0, ..., 0], exact(tall, 40, 40), atol=2e-6)
        tiny = store.ids.index("tiny")
        assert store.positive[tiny]  # although nothing of it is left at 40 x 40


def test_a_file_is_found_by_its_uid(phantoms: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed"
    shutil.copytree(phantoms, renamed)
    paths = dicom.find(renamed)
    for number, path in enumerate(paths):
        path.rename(path.with_name(f"{number:03d}.dcm"))
    preprocess(settings(phantoms, tmp_path / "stems.h5"))
    preprocess(settings(renamed, tmp_path / "uids.h5"))
    assert_same(tmp_path / "stems.h5", tmp_path / "uids.h5")


def test_suffixes_white_space_and_notation_make_no_difference(phantoms: Path, tmp_path: Path) -> None:
    """Files without `.dcm` and a table edited with pandas and Excel give the same data file."""
    other = tmp_path / "other"
    shutil.copytree(phantoms, other)
    for number, path in enumerate(dicom.find(other)):
        path.rename(path.with_name(path.stem + ("", ".DCM", ".Dicom")[number % 3]))
    rows = [line.split(", ") for line in (phantoms / "train-rle.csv").read_text().splitlines()]
    lines = ["\t".join(rows[0])]
    for number, (name, text) in enumerate(rows[1:]):
        name += ("", ".dcm", ".png", "\u00a0")[number % 4]
        lines.append(f"{name}\t{' '.join(f'{word}.0' for word in text.split())}")
    (other / "train-rle.csv").write_bytes(gzip.compress("\r\n".join(lines).encode("utf-16")))
    first = preprocess(settings(phantoms, tmp_path / "a.h5"))
    second = preprocess(settings(other, tmp_path / "b.h5"))
    assert first.annotations is not None
    assert second.annotations is not None
    assert first.annotations.rows_of.keys() == second.annotations.rows_of.keys()
    assert (second.written, second.positives, second.bad_annotation) == (11, 6, ())
    assert len(second.annotations.shortened) >= 5
    assert (second.without_image, len(second.without_annotation)) == (first.without_image, 1)
    assert_same(tmp_path / "a.h5", tmp_path / "b.h5")


def test_files_that_end_in_numbers_keep_them(tmp_path: Path) -> None:
    (tmp_path / "dicom-images-train").mkdir()
    for number in (1, 2, 3):
        dataset = make_dataset(np.full((9, 11), 20 * number, np.uint8))
        del dataset.SOPInstanceUID
        dataset.save_as(tmp_path / "dicom-images-train" / f"CR.000{number}")
    (tmp_path / "train-rle.csv").write_text("ImageId,EncodedPixels\nCR.0001,-1\nCR.0002,1 5\nCR.0003,-1\n")
    report = preprocess(settings(tmp_path, tmp_path / "a.h5", size=16))
    assert (report.written, report.positives, report.duplicates, report.without_image) == (3, 1, (), ())
    assert every(arrays(tmp_path / "a.h5"), "ids") == [b"CR.0001", b"CR.0002", b"CR.0003"]


def test_a_quote_that_swallows_rows_ends_the_run(phantoms: Path, tmp_path: Path) -> None:
    sources = tmp_path / "quoted"
    shutil.copytree(phantoms, sources)
    lines = (sources / "train-rle.csv").read_text().splitlines()
    lines[3] = lines[3].replace(", ", ', "')
    (sources / "train-rle.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"train-rle\.csv, row 4: a quote \(\"\) opens here"):
        preprocess(settings(sources, tmp_path / "a.h5"))
    assert not (tmp_path / "a.h5").exists()


def test_a_mask_is_not_transposed(tmp_path: Path) -> None:
    """The most common mistake with this format, and the most expensive (mean Dice 0.08)."""
    pixels = np.zeros((60, 30), np.uint8)
    pixels[5:20, 20:29] = 255  # top right
    (tmp_path / "dicom-images-train").mkdir()
    make_dataset(pixels).save_as(tmp_path / "dicom-images-train" / "x.dcm")
    (tmp_path / "train-rle.csv").write_text(f"x, {rle.encode(pixels)}\n")
    preprocess(settings(tmp_path, tmp_path / "a.h5", size=30))
    found = arrays(tmp_path / "a.h5")
    np.testing.assert_array_equal(found["ann_0"][0] == 1, found["images_0"][0] >= 0.5)


@pytest.mark.parametrize("sub", ["nothing", "text", "unlabelled"])
def test_no_image_that_can_be_used(phantoms: Path, tmp_path: Path, sub: str) -> None:
    images = tmp_path / "dicom-images-train"
    images.mkdir()
    shutil.copy(phantoms / "train-rle.csv", tmp_path)
    if sub == "text":
        (images / "a.dcm").write_text("nothing to see")
    if sub == "unlabelled":
        make_dataset(np.zeros((8, 8), np.uint8)).save_as(images / "stranger.dcm")
    with pytest.raises(UserError, match="dicom-images-train"):
        preprocess(settings(tmp_path, tmp_path / "a.h5"))
    assert not list(tmp_path.glob("a.h5*"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"size": 0}, "--size"),
        ({"size": 100_000}, "--size"),
        ({"per_dataset": 0}, "--per-dataset"),
        ({"workers": 0}, "--workers"),
        ({"storage": "float16"}, "float16"),
        ({"clahe": 0.9}, "--clahe must be from 1 to 256. Received: 0.9"),
        ({"clahe": float("nan")}, "--clahe"),
        ({"clahe": 2.0, "clahe_tiles": 0}, "--clahe-tiles"),
        ({"images": Path("nowhere")}, "nowhere"),
        ({"annotations": Path("nowhere.csv")}, "nowhere.csv"),
        ({"out": Path()}, "folder"),
        ({"report": Path("/")}, "--report"),
    ],
)
def test_bad_settings(phantoms: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        preprocess(dataclasses.replace(settings(phantoms, tmp_path / "a.h5"), **change))
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_replaced_only_when_asked(phantoms: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    out.write_text("precious")
    with pytest.raises(UserError, match="--overwrite"):
        preprocess(settings(phantoms, out))
    assert out.read_text() == "precious"
    preprocess(settings(phantoms, out, overwrite=True))
    Store.open(out).close()


def test_an_interrupted_run_is_taken_up(phantoms: Path, tmp_path: Path) -> None:
    preprocess(settings(phantoms, tmp_path / "whole.h5", per_dataset=4))
    out = tmp_path / "a.h5"

    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "reading" and done == 5:
            raise Stop

    with pytest.raises(Stop):
        preprocess(settings(phantoms, out, per_dataset=4), interrupt)
    assert not out.exists()
    seen: list[int] = []
    report = preprocess(
        settings(phantoms, out, per_dataset=4),
        lambda what, done, _: seen.append(done) if what == "reading" else None,
    )
    assert report.resumed == seen[0] == 5
    assert_same(tmp_path / "whole.h5", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "whole.h5"]


def test_changed_sources_are_read_again(phantoms: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(phantoms, sources)

    def interrupt(_what: str, done: int, _total: int) -> None:
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        preprocess(settings(sources, tmp_path / "a.h5"), interrupt)
    os.utime(dicom.find(sources)[0], ns=(1, 1))
    assert preprocess(settings(sources, tmp_path / "a.h5")).resumed == 0


def run(*words: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python preprocess.py`, optionally with a limit of the file size in bytes."""
    program = [sys.executable, str(ROOT / "preprocess.py"), *words]
    if limit is not None:
        code = (
            "import resource, runpy, sys; "
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
            f"sys.argv = {program[1:]!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        program = [sys.executable, "-c", code]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=60)


def options(sources: Path, out: Path) -> list[str]:
    return [
        *("--images", str(sources / "dicom-images-train")),
        *("--annotations", str(sources / "train-rle.csv")),
        *("--out", str(out), "--size", "40", "--workers", "1"),
    ]


def test_the_command(phantoms: Path, tmp_path: Path) -> None:
    words = options(phantoms, tmp_path / "a.h5")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "images written" in done.stdout
    again = run(*words)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr
    missing = run("--images", "nowhere")
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr
    assert "Kaggle" in missing.stderr
    for outcome in (again, missing):
        assert "Traceback" not in outcome.stderr
    assert run(*words, "--overwrite").returncode == 0


@pytest.mark.parametrize("limit", [50_000, 90_000])
def test_a_full_disk(phantoms: Path, tmp_path: Path, limit: int) -> None:
    """Once while space is reserved for the rows (88 kB), once while the rest is written around them."""
    full = run(*options(phantoms, tmp_path / "a.h5"), limit=limit)
    assert full.returncode == 1, full.stderr
    assert "Traceback" not in full.stderr
    assert "error: cannot write" in full.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5.staging"]
    preprocess(settings(phantoms, tmp_path / "a.h5"))
    preprocess(settings(phantoms, tmp_path / "whole.h5"))
    assert_same(tmp_path / "a.h5", tmp_path / "whole.h5")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_from_outside(phantoms: Path, tmp_path: Path, sent: int) -> None:
    preprocess(settings(phantoms, tmp_path / "whole.h5"))
    out = tmp_path / "a.h5"
    staging = tmp_path / "a.h5.staging" / "journal.jsonl"
    program = [sys.executable, str(ROOT / "preprocess.py"), *options(phantoms, out)]
    with interruptible():
        process = subprocess.Popen(
            program,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
    deadline = time.monotonic() + 30
    while not staging.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, sent)  # as the terminal does: the workers get it too
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    assert not out.exists()
    preprocess(settings(phantoms, out))
    assert_same(tmp_path / "whole.h5", out)


def test_real_lungs(real_data: Path, tmp_path: Path) -> None:
    report = preprocess(settings(real_data / "lungs-mini", tmp_path / "a.h5", size=128))
    assert (report.found, report.written, report.positives) == (9, 9, 9)
    with Store.open(tmp_path / "a.h5") as store:
        images = np.empty((9, 128, 128, 1), np.float32)
        masks = np.empty((9, 128, 128, 1), np.uint8)
        store.read(np.arange(9), images, masks)
    share = masks.mean(axis=(1, 2, 3))
    assert (share > 0.2).all()
    assert (share < 0.6).all()
    inside = [images[n][masks[n] == 1].mean() for n in range(9)]
    outside = [images[n][34:94][masks[n][34:94] == 0].mean() for n in range(9)]
    assert sum(a < b for a, b in zip(inside, outside, strict=True)) >= 8  # lungs hold air
