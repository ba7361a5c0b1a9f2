"""Measured numbers in README.md and docs/: each equals its record; no record is older than its sources."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.facts import records
from benchmarks.facts.__main__ import facts_of, main, render_documents, write_fact
from benchmarks.facts.documents import documents, rendered, tables_of
from benchmarks.facts.measures import (
    Part,
    Script,
    certificate_rows,
    lines,
    loader_rows,
    scaling_rows,
    training_rows,
)
from benchmarks.facts.records import ROOT, Measurement
from benchmarks.facts.registry import FACTS, MOST_DAYS, Fact, read_all
from benchmarks.facts.sources import code_lines, fingerprint
from benchmarks.facts.tables import TABLES, render
from core.base.errors import UserError

STRICT = [name for name, fact in FACTS.items() if fact.strict]
TODAY = datetime.date.today()


# The facts of this repository


@pytest.mark.parametrize("document", documents(ROOT), ids=lambda path: path.name)
def test_a_documents_tables_are_what_its_records_say(document: Path) -> None:
    found = read_all()
    for name, text in tables_of(document.read_text(encoding="utf-8"), document.name).items():
        assert text == render(name, found), f"{name} in {document.name}: python -m benchmarks.facts render"


def test_every_record_is_shown_somewhere_and_belongs_to_a_fact() -> None:
    marked = {name for path in documents(ROOT) for name in tables_of(path.read_text(encoding="utf-8"))}
    written = {path.stem for path in (ROOT / records.FOLDER).glob("*.json")}
    assert written <= set(FACTS)
    # A part of a document that cannot be rendered without its record is made from it.
    everything = read_all()
    for fact in written:
        without = {**everything, fact: ()}
        assert any(_fails(name, without) for name in marked), f"no document shows {fact}"


def _fails(name: str, found: dict[str, records.Record]) -> bool:
    try:
        render(name, found)
    except UserError:
        return True
    return False


@pytest.mark.parametrize("name", STRICT)
def test_a_fact_that_any_machine_can_measure_is_true_of_the_sources_as_they_are(name: str) -> None:
    fact, record = FACTS[name], records.read(name)
    assert not fact.missing(record), f"not measured: python -m benchmarks.facts write {name}"
    old = fact.find_old(record, TODAY)
    assert not old, "\n".join(map(str, old))


@pytest.mark.parametrize("name", [name for name in FACTS if name not in STRICT])
def test_a_fact_that_needs_a_quiet_machine_is_told_when_old_and_not_left_for_long(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    record = records.read(name)
    old = FACTS[name].find_old(record, TODAY)
    if old:
        oldest = min(one.measurement.date for one in old)
        told = f"{name}: {len(old)} of {len(record)} measurements, the oldest of {oldest}"
        record_property("old fact", f"{told}; anew: python -m benchmarks.facts write {name}")
    too_old = [str(one) for one in old if one.too_old]
    assert not too_old, "\n".join(too_old)


def test_the_lines_of_code_are_counted_as_they_are_now() -> None:
    (record,) = records.read("lines")
    assert list(record.rows) == lines(Part(record.backends))


# The machinery, with a made-up fact: the images per second of two networks


SOURCE = '''"""A network."""

RATE = 3  # images


def rate(images, seconds=2):
    """How many."""
    # divided
    return RATE * images / seconds
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with two backends, `one` and `two`, their settings, and a document."""
    for name in ("one", "two"):
        (tmp_path / "backends" / name).mkdir(parents=True)
        (tmp_path / "backends" / name / "model.py").write_text(SOURCE.replace("3", str(len(name) + 4)))
    (tmp_path / "settings.yaml").write_text("steps: 7  # of a turn\nsizes: [5, 9]\n")
    (tmp_path / "constraints.txt").write_text(
        f"numpy=={np.__version__}\n# of the test\ntorch==2.13.0\n"  # what is measured here is up to date
        'onnxruntime==1.23.2; python_version < "3.12"\nonnxruntime==1.32.0; python_version >= "3.12"\n'
        "jax==0.6.2; python_full_version < '3.12.4'\njax==0.12.0; python_full_version >= '3.12.4'\n"
    )
    (tmp_path / "README.md").write_text("# Rates\n")
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@t")
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "all")):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    return tmp_path


@pytest.fixture
def made_up() -> Fact:
    """A fact whose measure is the length of a backend's source."""

    def measure(part: Part) -> list[records.Row]:
        return [{"backend": name, "rate": 3 * len(name)} for name in part.backends]

    parts = (Part(("one",)), Part(("two",)))
    return Fact(
        "rates", measure, parts, ("backends/{backend}/*.py", "settings.yaml"), ("backend",), strict=True
    )


def measurement(root: Path, **changes: object) -> Measurement:
    """Return a measurement of backend `one`, made 40 days ago."""
    describes = ("backends/one/*.py", "settings.yaml")
    one = Measurement(
        command="python -m benchmarks.facts write rates",
        backends=("one",),
        date=(TODAY - datetime.timedelta(days=40)).isoformat(),
        commit="abc1234",
        processor="Some Processor",
        cores=6,
        python="3.12.7",
        versions={"numpy": np.__version__, "torch": "2.13.0", "onnx": "1.32.0"},
        describes=describes,
        fingerprint=fingerprint(describes, root),
        rows=({"backend": "one", "rate": 9},),
    )
    return dataclasses.replace(one, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("images / seconds", "images // seconds"),
        ("seconds=2", "seconds=5"),
        ("RATE = 7", "RATE = 8"),
        ("def rate", "def pace"),
        ('"""How many."""', '"""How many."""\n    images += 1'),
    ],
)
def test_a_changed_source_makes_a_fact_old(old: str, new: str, root: Path, made_up: Fact) -> None:
    before = measurement(root)
    assert made_up.find_old((before,), TODAY, root) == []
    path = root / "backends/one/model.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    (found,) = made_up.find_old((before,), TODAY, root)
    assert found.too_old
    assert found.reasons == ("its sources have changed",)
    assert "python -m benchmarks.facts write rates" in str(found)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""How many."""', '"""How many it makes,\n\n    in a second.\n    """'),
        ('    """How many."""\n', ""),
        ("# divided", "# by the time"),
        ("rate(images, seconds=2)", "rate(\n    images,\n    seconds = 2,\n)"),
        ("RATE = 7", 'RATE = (7)\n"""Of what."""'),
    ],
)
def test_words_and_layout_make_no_fact_old(old: str, new: str, root: Path, made_up: Fact) -> None:
    before = measurement(root)
    path = root / "backends/one/model.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert made_up.find_old((before,), TODAY, root) == []


def test_a_fingerprint_is_the_same_on_every_python_that_the_project_runs_on(tmp_path: Path) -> None:
    source = """
@decorated(7)
async def f(a: int, /, b: str = 'é', *c: float, d: bytes = b'\\x00', **e: None) -> list[int]:
    match a:
        case {'k': [1, *rest], **more} if (n := len(rest)) > 2.5e-3:
            return [lambda x: f'{x!r:>{n}} and {b}' for x in rest if not x]
        case _:
            raise ValueError from None
"""
    (tmp_path / "one.py").write_text(source, encoding="utf-8")
    assert fingerprint(["*.py"], tmp_path) == "b2ce25cc53df9a39"


def test_files_that_come_go_or_are_renamed_make_a_fact_old_and_others_do_not(
    root: Path, made_up: Fact
) -> None:
    before = measurement(root)
    (root / "backends/two/model.py").write_text("RATE = 0\n")
    assert made_up.find_old((before,), TODAY, root) == []
    (root / "backends/one/more.py").write_text("")
    assert made_up.find_old((before,), TODAY, root)
    (root / "backends/one/more.py").unlink()
    assert made_up.find_old((before,), TODAY, root) == []
    (root / "backends/one/model.py").rename(root / "backends/one/network.py")
    assert made_up.find_old((before,), TODAY, root)


def test_of_settings_only_what_they_say_counts(root: Path) -> None:
    before = fingerprint(["settings.yaml"], root)
    (root / "settings.yaml").write_text("# How\nsizes:\n  - 5\n  - 9\nsteps: 7\n".replace("sizes", "sizes"))
    assert fingerprint(["settings.yaml"], root) != before  # the order of keys may count: blocks are in order
    (root / "settings.yaml").write_text("# How\nsteps: 7\nsizes:\n  - 5\n  - 9\n")
    assert fingerprint(["settings.yaml"], root) == before


def test_a_pattern_that_describes_nothing_is_an_error(root: Path) -> None:
    with pytest.raises(UserError, match=r"backends/three/\*\.py"):
        fingerprint(["backends/three/*.py"], root)


@pytest.mark.parametrize(
    ("python", "versions", "reason"),
    [
        ("3.13.7", {"torch": "2.12.1"}, "PyTorch was 2.12.1, constraints.txt has 2.13.0"),
        ("3.12.7", {"onnx": "1.23.2"}, "ONNX Runtime was 1.23.2, constraints.txt has 1.32.0"),
        ("3.11.4", {"onnx": "1.23.2", "torch": "2.13.0"}, None),
        ("3.11.4", {"onnx": "1.32.0"}, "ONNX Runtime was 1.32.0, constraints.txt has 1.23.2"),
        ("3.12.3", {"jax": "0.6.2"}, None),
        ("3.12.3", {"jax": "0.12.0"}, "JAX was 0.12.0, constraints.txt has 0.6.2"),
        ("3.13.0", {"jax": "0.12.0"}, None),
        ("3.13.7", {"mxnet": "1.0"}, None),  # nothing is pinned here
    ],
)
def test_another_pinned_version_makes_a_fact_old(
    python: str, versions: dict[str, str], reason: str | None, root: Path, made_up: Fact
) -> None:
    found = made_up.find_old((measurement(root, python=python, versions=versions),), TODAY, root)
    assert [one.reasons for one in found] == ([(reason,)] if reason else [])


def test_what_a_fact_describes_may_not_be_defined_anew_unnoticed(root: Path, made_up: Fact) -> None:
    wider = dataclasses.replace(made_up, describes=("backends/*/*.py",))
    (found,) = wider.find_old((measurement(root),), TODAY, root)
    assert found.reasons == ("other sources count today",)


@pytest.mark.parametrize(("days", "error"), [(0, False), (MOST_DAYS, False), (MOST_DAYS + 1, True)])
def test_speed_may_be_old_for_ninety_days(days: int, error: bool, root: Path, made_up: Fact) -> None:
    speed = dataclasses.replace(made_up, strict=False)
    date = TODAY - datetime.timedelta(days=days)
    before = measurement(root, date=date.isoformat())
    assert speed.find_old((before,), TODAY, root) == []  # however long ago: it is true
    (root / "settings.yaml").write_text("steps: 8\n")
    assert [old.too_old for old in speed.find_old((before,), TODAY, root)] == [error]


def test_only_what_is_old_is_measured_again(
    root: Path, made_up: Fact, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fact(made_up, root)
    since_import = {TODAY.isoformat(), datetime.date.today().isoformat()}  # midnight may lie between
    one, two = records.read("rates", root)
    assert (one.rows, two.rows) == (({"backend": "one", "rate": 9},), ({"backend": "two", "rate": 9},))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    assert one.commit == head.stdout[:7]
    assert one.date in since_import
    assert one.cores >= 1
    assert set(one.versions) == {"numpy"}
    assert made_up.missing((one,)) == [Part(("two",))]

    capsys.readouterr()
    write_fact(made_up, root)
    assert capsys.readouterr().out == "rates: 0 of 2 parts were measured\n"

    (root / "backends/one/model.py").write_text("RATE = 1\n")
    records.write("lines", (measurement(root),), root)
    (root / "README.md").write_text("<!-- facts: lines-note --><!-- /facts -->\n")
    write_fact(made_up, root)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "README.md: tables written",  # after each part: the next may fail
        "rates: 1 of 2 parts were measured",
    ]
    again_one, again_two = records.read("rates", root)
    assert again_two == two
    assert again_one.fingerprint != one.fingerprint
    assert again_one.commit == head.stdout[:7] + "+changes"
    assert made_up.find_old(records.read("rates", root), TODAY, root) == []


def test_sources_that_change_while_they_are_measured_are_an_error(root: Path, made_up: Fact) -> None:
    def measure(_: Part) -> list[records.Row]:
        (root / "settings.yaml").write_text("steps: 9\n")
        return []

    with pytest.raises(UserError, match="changed while"):
        dataclasses.replace(made_up, measure=measure).take(Part(("one",)), root)


def test_a_new_measurement_takes_the_place_of_rows_alike_on_such_a_machine(root: Path) -> None:
    first = measurement(
        root, rows=({"backend": "one", "size": 8, "rate": 5}, {"backend": "one", "size": 32, "rate": 6})
    )
    elsewhere = dataclasses.replace(first, processor="Another")
    new = dataclasses.replace(first, command="other", rows=({"backend": "one", "size": 8, "rate": 7},))
    keys = ("backend", "size")
    kept = records.replaced((first, elsewhere), new, keys, per_machine=True)
    assert kept == (dataclasses.replace(first, rows=first.rows[1:]), new, elsewhere)
    kept = records.replaced((elsewhere,), new, keys, per_machine=False)
    assert kept == (dataclasses.replace(elsewhere, rows=first.rows[1:]), new)
    same = dataclasses.replace(new, command=first.command)
    assert records.replaced((first,), same, keys, per_machine=True) == (same,)


def test_a_record_comes_back_as_it_was_written(root: Path) -> None:
    rows = (
        {"backend": "one", "over": [1.25, 1.0, 3.5], "what": "64x64, „é“"},
        {"backend": "one", "over": None},
    )
    record = (measurement(root, rows=rows), measurement(root, note="by hand"))
    records.write("rates", record, root)
    assert records.read("rates", root) == record
    text = (root / records.FOLDER / "rates.json").read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if '"over"' in line]) == 2  # a row is a line
    assert records.read("nothing", root) == ()
    (root / records.FOLDER / "rates.json").write_text('[{"date": "2026-01-02"}]')
    with pytest.raises(UserError, match=r"rates\.json is no record"):
        records.read("rates", root)


def test_a_table_edited_by_hand_is_noticed_and_text_around_it_is_not_touched() -> None:
    text = (
        "Above <!-- facts: rate -->\n| 7 |\n<!-- /facts --> and <!-- facts: size -->5<!-- /facts -->\nbelow"
    )
    values = {"rate": "\n| 7 |\n", "size": "5"}
    assert rendered(text, values.__getitem__) == text
    edited = text.replace("| 7 |", "| 9 |")
    assert rendered(edited, values.__getitem__) == text != edited
    assert tables_of(edited) == {"rate": "\n| 9 |\n", "size": "5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n<!-- facts: rate -->\n| 7 |\n", r"README.md: <!-- facts: rate --> has no <!-- /facts -->"),
        ("a\nb\n<!-- /facts -->\n", r"README.md, line 3: <!-- /facts --> comes where"),
        (
            "<!-- facts: a -->\n<!-- facts: b --><!-- /facts -->",
            r"README.md, line 2: <!-- facts: b --> comes where",
        ),
    ],
)
def test_marks_that_are_not_paired_are_an_error(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rendered(text, lambda _: "", "README.md")


def test_a_table_or_a_fact_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"(?s)no table 'spead'.*speed"):
        render("spead", {})
    with pytest.raises(UserError, match=r"docs/facts/lines\.json is missing"):
        render("lines", {})
    assert main(["write", "capabilties"]) == 1
    assert "there is no fact 'capabilties'" in capsys.readouterr().err


def test_facts_are_chosen_by_name_by_pattern_or_those_that_any_machine_can_measure() -> None:
    assert [fact.name for fact in facts_of([])] == STRICT
    assert set(STRICT) == {"lines"}
    assert [fact.name for fact in facts_of(["speed_s*", "lines", "speed_start"])] == [
        *("speed_start", "speed_scaling", "lines"),
    ]
    with pytest.raises(UserError, match=r"no fact 'sped_\*'"):
        facts_of(["sped_*"])


def test_every_fact_is_listed_with_its_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  OLD: ")]
    assert [line.partition(":")[0] for line in told] == list(FACTS)
    assert all(re.search(r": Measured \d{4}-\d\d-\d\d", line) for line in told)


def test_tables_are_written_into_the_documents_that_differ(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "# Rates\n\nLines are <!-- facts: lines-note -->{}<!-- /facts -->, and so on.\n"
    (root / "README.md").write_text(text.format("seven"))
    records.write("lines", (measurement(root),), root)
    render_documents(root)
    date = (TODAY - datetime.timedelta(days=40)).isoformat()
    assert (root / "README.md").read_text() == text.format(f"counted {date} at commit abc1234")
    assert capsys.readouterr().out == "README.md: tables written\n"
    render_documents(root)
    assert capsys.readouterr().out == ""


def test_lines_of_code_are_counted_without_words_and_blanks() -> None:
    assert code_lines(SOURCE) == 3  # RATE, def, return
    text = (
        'A = """one\n\ntwo"""\n"""Words\nof A."""\n\nif A:  # so\n    B = [\n        A,\n    ]\n\n\n# end\n'
    )
    assert code_lines(text) == 3 + 4


def test_the_processor_is_named_with_what_clouds_leave_out(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    one = (
        "processor\t: {}\nmodel\t\t: 17\nmodel name\t: AMD EPYC\ncpu family\t: 25\nflags\t\t: fpu vme: x\n\n"
    )
    path.write_text(one.format(0) + one.format(1))
    assert records.processor(path) == "AMD EPYC (family 25, model 17)"
    assert records.processor(tmp_path / "none")


def test_rows_of_training_are_ratios_of_the_rounds() -> None:
    def contender(
        framework: str, kind: str, seconds: list[float], memory: int, network: str = "fcn"
    ) -> dict[str, object]:
        blocks = [{"steps": 2, "seconds": one, "waiting": one / 8} for one in seconds]
        return {
            **{"framework": framework, "contender": kind, "network": network, "batch_size": 3, "size": 32},
            **{"precision": "float32", "peak_memory": memory, "blocks": blocks},
        }

    record = [
        contender("tf", "ours", [1.0, 2.0, 4.0], 300),
        contender("tf", "by hand", [2.0, 3.0, 5.0], 200),
        contender("tf", "keras", [3.0, 8.0, 4.0], 500),
        contender("jax", "ours", [4.0, 1.0, 8.0], 100),
        contender("tf", "ours", [7.0, 7.0, 7.0], 700, "unet"),
        contender("tf", "by hand", [14.0, 14.0, 14.0], 100, "unet"),
    ]
    tf, jax, unet = training_rows(record, Part(("tf", "jax")))
    assert tf["images_per_s"] == 3.0  # 2 steps of 3 images in 2 s
    assert tf["over_by_hand"] == pytest.approx((1.5, 1.25, 2.0))  # 2, 3/2, 5/4
    assert tf["over_keras"] == pytest.approx((3.0, 1.0, 4.0))  # 3, 4, 1
    assert tf["memory_over_by_hand"] == 1.5
    assert tf["waits"] == 0.125
    assert "over_tf" not in tf
    assert jax["over_tf"] == pytest.approx((0.5, 0.25, 2.0))  # 1/4, 2, 1/2
    assert "over_by_hand" not in jax
    assert unet["over_by_hand"] == pytest.approx((2.0, 2.0, 2.0))
    assert unet["memory_over_by_hand"] == 7


def test_rows_of_the_loader_know_the_batch_size() -> None:
    def contender(name: str, seconds: list[float]) -> dict[str, object]:
        blocks = [{"steps": 5, "seconds": one} for one in seconds]
        return {"storage": "uint8", "contender": name, "peak_memory": 7_000_000, "blocks": blocks}

    record = [
        contender("ours", [2.0, 5.0, 4.0]),
        contender("memory", [1.0, 2.0, 3.0]),
        {"storage": "uint8", "contender": "ours, cold", "seconds": 8.0},
    ]
    ours, memory, cold = loader_rows(record, Part((), "--count 120 --batch-size 6"))
    assert ours["images_per_s"] == 7.5  # 5 batches of 6 in 4 s
    assert ours["over_memory"] == pytest.approx((0.5, 0.4, 0.75))
    assert memory["images_per_s"] == 15
    assert cold == {"storage": "uint8", "contender": "ours, cold", "images_per_s": 15}


def test_a_certificates_row_has_the_largest_distances_of_all_its_runs() -> None:
    def run(**distances: list[tuple[float, float]]) -> dict[str, object]:
        return {
            "losses": [3, 4],
            "distances": {kind: [value for value, _ in pairs] for kind, pairs in distances.items()},
            "budgets": {kind: [budget for _, budget in pairs] for kind, pairs in distances.items()},
        }

    found = {
        **{"precision": "float32", "steps": 2, "holds": False},
        "runs": {
            "tf": run(
                statistic=[(1e-7, 1e-6), (2e-7, 1e-6)],
                loss=[(4e-6, 2e-6), (3e-6, 4e-5)],
                gradient=[(5e-5, 1e-4), (6e-5, 1e-3)],
            ),
            # It begins after the first step.
            "tf > jax": run(statistic=[(3e-7, 1e-6)], loss=[(8e-6, 4e-5)], gradient=[(1e-5, 1e-3)]),
        },
    }
    (row,) = certificate_rows(found, Part(("tf", "jax"), title="two"))
    assert row == {
        **{"what": "two", "precision": "float32", "steps": 2, "holds": False},
        **{"loss": 8e-6, "loss_budget": 4e-5, "array": 6e-5},
        "share": pytest.approx(2.0),  # of tf's loss at the first step: 4e-6 of 2e-6
    }


def test_rows_of_scaling_are_what_a_straight_line_has_alike() -> None:
    record: dict[str, list[dict[str, Any]]] = {
        "images": [
            {"count": 2000, "epochs": [0.02, 0.03, 0.9], "peak_memory": 60e6},
            {"count": 5000, "epochs": [0.05, 0.06, 0.07], "peak_memory": 50e6},
        ],
        "sizes": [
            {"size": 100, "pixels": 0.01, "step": 0.004, "peak_memory": 80e6},
            {"size": 200, "pixels": 0.04, "step": 0.010, "peak_memory": 89e6},
            {"size": 300, "pixels": 0.09, "step": 0.018, "peak_memory": 100e6},
        ],
    }
    images, size = scaling_rows(record, Part(("jax",)))
    assert images == {
        **{"what": "images", "from": 2000, "to": 5000, "memory_mb": [50, 60]},
        "ms": pytest.approx([12, 15]),  # 60 ms for 5,000; 30 ms for 2,000
    }
    assert size == {
        **{"what": "size", "framework": "jax", "from": 200, "to": 300, "smallest": 100},
        "smallest_ms": pytest.approx(400),
        "ms": pytest.approx([200, 250]),
        "memory_mb": pytest.approx([250, 300]),  # 20 MB for 0.08 megapixels; 9 MB for 0.03
    }


def test_distances_from_the_truth_are_shown_beside_the_budget(root: Path) -> None:
    row = {
        **{"network": "unet", "size": 96, "batch": 3, "steps": 10, "input": "noise", "backend": "jax"},
        **{"worst_share_of_budget": 0.237, "worst_array": "gradient of x", "largest_distance_loss": 3.4e-8},
        **{"worst_distance": 2.4e-6, "worst_budget": 1e-5},
        **{"largest_distance_gradient": 2.6e-6, "largest_distance_statistic": 0.0},
    }
    text = render("agreement", {"agreement": (measurement(root, rows=(row,)),)})
    what = "`unet` 96x96, batch of 3, 10 steps, noise"
    taken = "gradient of x: 2e-6, allowed 1e-5"
    assert f"| {what} | `jax` | 3e-8 | 3e-6 | 0 | 0.24 | {taken} |" in text
    versions = f"PyTorch 2.13.0, ONNX Runtime 1.32.0, NumPy {np.__version__}, Python 3.12.7"
    assert f"Some Processor, 6 cores; {versions}" in text


def test_the_summary_of_agreement_takes_the_worst_of_each_backend(root: Path) -> None:
    def checks(passed: int, failed: int) -> dict[str, object]:
        return {"backend": "jax", "subject": "state", "checks": {"passed": passed, "failed": failed}}

    def certificate(loss: float, array: float, precision: str = "float64") -> dict[str, object]:
        return {"precision": precision, "steps": 100, "loss": loss, "array": array}

    def record(*rows: dict[str, object]) -> tuple[Measurement, ...]:
        return (dataclasses.replace(measurement(root, rows=rows), backends=("jax",)),)

    shares = [{"backend": "jax", "worst_share_of_budget": share} for share in (0.25, 0.5)]
    others = [{"backend": "tf", "worst_share_of_budget": 0.75}]
    found = {
        "capabilities": record(checks(3, 1), checks(4, 0)),
        "agreement": record(*shares, *others),
        "certificates": record(
            certificate(2e-12, 7e-10), certificate(5e-12, 3e-10), certificate(1, 1, "float32")
        ),
    }
    table = render("agreement-summary", found)
    rows = [line[1:-1].split("|") for line in table.splitlines() if line.startswith("|")]
    shown = {name.strip(): [cell.strip() for cell in cells] for name, *cells in zip(*rows, strict=False)}
    assert shown["JAX"][1:] == ["7, 0, 1", "0.50", "5e-12", "7e-10"]
    assert shown["TensorFlow"][1:] == ["0, 0, 0", "0.75", "", ""]


def test_every_table_is_known_by_one_name() -> None:
    marked = [name for path in documents(ROOT) for name in tables_of(path.read_text(encoding="utf-8"))]
    assert set(marked) <= set(TABLES)
    assert len(marked) == len(set(marked))


def test_what_a_script_wrote_elsewhere_must_be_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"something": "else"}))
    before = (ROOT / records.FOLDER / "speed_start.json").read_bytes()
    assert main(["add", "speed_start", str(path), "--arguments", ""]) == 1
    assert "is not what benchmarks/start.py writes" in capsys.readouterr().err
    assert (ROOT / records.FOLDER / "speed_start.json").read_bytes() == before
    assert isinstance(FACTS["speed_start"].measure, Script)
    assert main(["add", "lines", str(path), "--arguments", ""]) == 1
    assert "not measured by a script" in capsys.readouterr().err
