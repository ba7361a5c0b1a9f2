"""The report page: self-contained, accessible, escaped, and with the numbers of the records."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import HEIGHT, WIDTH, evaluation
from matplotlib.figure import Figure
from PIL import Image
from report_page import HOSTILE, NOW, Page

from core.base.errors import UserError
from core.report import page, write_report
from core.scoring.evaluation_record import Evaluation


def render(*evaluations: Evaluation) -> Page:
    return Page(page.render(evaluations, NOW))


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the layout and writing of figures, which take most of the time and do not matter for the text."""

    def save(_figure: Figure, file: io.StringIO, **_options: Any) -> None:
        file.write('<svg viewBox="0 0 1 1"></svg>')

    monkeypatch.setattr(Figure, "savefig", save)


def test_it_asks_for_nothing(both: Page, text: str) -> None:
    assert not both.all("link")
    for tag, attributes in both.elements:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,")), tag
        assert not set(re.findall(r"url\(([^)]{0,9})", attributes.get("style", ""))) - {"#"}
    styles = "".join(found for tag, found in both.texts if tag == "style")
    assert "url(" not in styles
    assert "@import" not in styles
    assert set(re.findall(r"https?:[^\"' <]*", text)) <= {"http://www.w3.org/2000/svg"}
    policy = next(m["content"] for m in both.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = next(found for tag, found in both.texts if tag == "script")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_ids_are_unique_and_every_reference_has_its_target(both: Page, text: str) -> None:
    ids = [attributes["id"] for _, attributes in both.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for _, a in both.elements if a.get("href", "").startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= set(ids)
    assert len(wanted) > 20


def test_everything_has_a_text_for_those_who_do_not_see_it(both: Page) -> None:
    assert both.all("html")[0]["lang"] == "en"
    assert all(image["alt"] for image in both.all("img"))
    for drawn in both.all("svg"):
        assert drawn.get("aria-hidden") == "true" or (drawn["role"] == "img" and drawn["aria-label"])
    tables = [tag for tag, _ in both.elements if tag in ("table", "caption")]
    assert tables == ["table", "caption"] * len(both.tables)
    assert all(heading.get("scope") for heading in both.all("th"))
    levels = [int(tag[1]) for tag, _ in both.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_what_comes_from_outside_is_text(both: Page, first: Evaluation) -> None:
    assert len(both.all("script")) == 1
    assert "&lt;script" not in both.text
    assert r"<script>alert(1)</script>'" in both.text
    assert '"&amp;\\u202egnp.\\ud800\\n{{ 7 * 7 }}' in both.text
    assert any(case.row.id == HOSTILE for case in first.cases)
    assert any(image["alt"].endswith(r"\n{{ 7 * 7 }}") for image in both.all("img"))


def test_the_numbers_are_the_records(first: Evaluation, second: Evaluation, both: Page) -> None:
    shown = both.scores()
    for place, model in enumerate((first, second)):
        scores = model.summary
        for name, value in {
            "Dice": scores.dice,
            "all-empty floor": scores.dice_all_empty,
            "Dice, positives": scores.dice_positive,
            "IoU": scores.iou,
            "IoU, positives": scores.iou_positive,
            "AUROC": scores.auroc,
        }.items():
            assert shown[name][place].split()[0] == f"{value:.4f}"
        for name, between in {
            "Dice": scores.intervals.dice,
            "Dice, positives": scores.intervals.dice_positive,
            "AUROC": scores.intervals.auroc,
        }.items():
            assert between is not None
            assert shown[name][place].endswith(f" {between.lower:.4f} to {between.upper:.4f}")
        for name in ("sensitivity", "specificity", "PPV", "NPV"):
            value, between = (getattr(of, name.lower()) for of in (scores, scores.intervals))
            ends = " to ".join(f"{100 * end:.1f}" for end in between)
            assert shown[name][place] == f"{100 * value:.1f} % {ends}"
        assert [shown[f"threshold: {name}"][place] for name in ("pixel", "area", "score")] == [
            "0.4",
            "6000",
            "0.55",
        ]
        confusion = [rows for rows in both.tables if "mask drawn" in "".join(rows[0])][place]
        numbers = [[int(re.sub(r"\D", "", cell)) for cell in row[1:]] for row in confusion[1:]]
        assert numbers == [[scores.tp, scores.fn], [scores.fp, scores.tn]]
        calibration = next(rows for rows in both.tables if "ECE" in "".join(rows[0]))[1 + place]
        errors = (model.image_calibration, model.pixel_calibration)
        assert [float(cell) for cell in calibration[1:]] == pytest.approx(
            [number for error in errors for number in (error.ece, error.brier)], abs=5e-5
        )
        assert (
            f"Dice {scores.dice:.3f} ; an empty mask for every image scores {scores.dice_all_empty:.3f}"
            in (both.text)
        )


def test_groups_have_their_numbers(first: Evaluation, both: Page) -> None:
    table = next(rows for rows in both.tables if rows[0][0].startswith("Group"))[1:]
    assert len(table) == len(first.groups) > 1
    for row, group in zip(table, first.groups, strict=True):
        cells = [cell.strip() for cell in row]
        scores = group.scores
        assert scores.dice_positive is not None
        assert scores.sensitivity is not None
        assert cells[0] == f"{group.division}: {group.name}{' *' if group.small else ''}"
        assert cells[1:3] == [str(scores.images), str(scores.positives)]
        assert cells[3].split()[0] == f"{scores.dice:.4f}"
        assert cells[4].split()[0] == f"{scores.dice_positive:.4f}"
        assert cells[6].startswith(f"{100 * scores.sensitivity:.1f} %")


def test_the_table_has_every_image(first: Evaluation, second: Evaluation, both: Page) -> None:
    table = next(rows for rows in both.tables if rows[0][0].startswith("id"))[2:]
    assert len(table) == len(first.rows)
    for cells, one, other in zip(table[1:], first.rows[1:], second.rows[1:], strict=True):
        assert [cell.strip() for cell in cells] == [
            one.id,
            str(one.truth_pixels),
            *(str(one.predicted_pixels), f"{one.existence:.4f}", f"{one.dice:.4f}"),
            *(str(other.predicted_pixels), f"{other.existence:.4f}", f"{other.dice:.4f}"),
        ]


@pytest.mark.usefixtures("blank_figures")
def test_of_very_many_images_the_lowest_are_shown(first: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "TABLE_ROWS", 7)
    cut = render(first)
    table = next(rows for rows in cut.tables if rows[0][0].startswith("id"))[1:]
    lowest = sorted(row.dice for row in first.rows)[:7]
    assert sorted(float(row[-1]) for row in table) == pytest.approx(lowest, abs=5e-5)
    order = [row.id for row in first.rows]
    places = [order.index(row[0].strip()) for row in table if not row[0].startswith("<")]
    assert places == sorted(places)
    assert "The 7 images of 60 with the lowest Dice" in cut.text


def test_cases_stand_side_by_side(first: Evaluation, second: Evaluation, both: Page) -> None:
    known = {case.row.id for case in first.cases}
    fresh = [case for case in second.cases if case.row.id not in known]
    more = [case for case in fresh if case.kind == "worst positive"][:2]
    more += [case for case in fresh if case.kind == "false positive"][:1]
    assert more
    verdicts = 2
    assert len(both.all("article")) == verdicts + len(first.cases) + len(more)
    for case in more:
        assert any(
            image["alt"] == f"Probability of mxnet: a/b for {case.row.id}" for image in both.all("img")
        )
    case, compared = first.cases[0], {c.row.id: c for c in second.cases}[first.cases[0].row.id]
    urls = [image["href"] for image in both.all("image") if image["href"].startswith("data:")]
    radiograph, left, right = (_pixels(url) for url in _first_case(urls))
    np.testing.assert_allclose(radiograph[..., 0] / 255, case.sample.image, atol=0.002)
    for outlines, drawn in ((left, case), (right, compared)):
        red, green, alpha = outlines[..., 0] > 0, outlines[..., 1] > 0, outlines[..., 3] > 0
        assert not (green & ~drawn.sample.truth.astype(bool)).any()
        assert not (red & ~drawn.predicted.astype(bool)).any()
        np.testing.assert_array_equal(alpha, red | green)
        assert alpha.any()
    shown = [_pixels(image["src"])[..., 0] / 255 for image in both.all("img")[:2]]
    np.testing.assert_allclose(shown[0], case.sample.probability, atol=0.002)
    np.testing.assert_allclose(shown[1], compared.sample.probability, atol=0.002)
    caption = f"Dice {compared.row.dice:.4f}, existence score {compared.row.existence:.4f}"
    assert f"mxnet: a/b: {caption}" in both.text


def _first_case(urls: list[str]) -> list[str]:
    """Return radiograph and both outlines; the images of figures have other sizes."""
    return [url for url in urls if _pixels(url).shape[:2] == (HEIGHT, WIDTH)][:3]


def _pixels(url: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    data = base64.b64decode(url.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


@pytest.mark.usefixtures("blank_figures")
def test_a_model_beside_itself_is_the_same(first: Evaluation) -> None:
    twice = render(first, first)
    assert "tf: tf_model (1)" in twice.text
    assert "tf: tf_model (2) beside tf: tf_model (1)" in twice.text
    assert "0 of 60 images differ by more than 0.001; 0 are decided otherwise" in twice.text
    assert not [cell for cell in twice.all("td") if cell.get("class") == "best"]


@pytest.mark.usefixtures("blank_figures")
def test_models_scored_on_different_images_are_not_compared(first: Evaluation) -> None:
    other = render(first, evaluation(3, count=50))
    assert "their numbers do not compare" in other.text
    assert "beside" not in other.text
    assert not [cell for cell in other.all("td") if cell.get("class") == "best"]


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(("share", "says"), [(0.0, "No image shows"), (1.0, "Every image shows")])
def test_one_kind_of_image_alone_has_no_auroc(share: float, says: str) -> None:
    model = evaluation(4, share=share, count=20)
    assert model.summary.auroc is None
    result = render(model)
    assert says in result.text
    assert result.scores()["AUROC"] == ["\N{EN DASH}"]
    assert "ROC curve" not in result.text
    assert ("Does size matter?" in result.text) == (share == 1)


@pytest.mark.usefixtures("blank_figures")
def test_what_there_is_not_is_not_shown() -> None:
    full = evaluation(5, count=20)
    members = tuple(dataclasses.replace(member, history=()) for member in full.origin.members)
    bare = dataclasses.replace(
        full, origin=dataclasses.replace(full.origin, members=members), surfaces=(), cases=()
    )
    for model, there in ((full, True), (bare, False)):
        shown = {attributes["id"] for attributes in render(model).all("section") if "id" in attributes}
        assert ({"training", "thresholds", "cases"} <= shown) == there
        assert {"scores", "existence", "calibration", "images", "models", "definitions"} <= shown


@pytest.mark.usefixtures("blank_figures")
def test_a_single_image_is_no_proof() -> None:
    alone = render(evaluation(6, count=1, share=1.0, epochs=1))
    assert "Dice not clearly above predicting nothing" in alone.text


@pytest.mark.usefixtures("blank_figures")
def test_members_of_an_ensemble_are_named() -> None:
    folds = render(evaluation(7, folders=["m/fold0", "m/fold1"], count=10))
    assert "Evaluation of tf: m (2 models)" in folds.text
    legend = " ".join(found for tag, found in folds.texts if tag == "li")
    assert "m/fold0" in legend
    assert "m/fold1/best.safetensors, epoch 7, step 70" in folds.text


@pytest.mark.usefixtures("blank_figures")
def test_the_file_is_whole_or_absent(first: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        write_report(tmp_path / "file" / "report.html", [first])
    write_report(tmp_path / "deep" / "report.html", [first])
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "report.html"]
    assert (tmp_path / "deep" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_same_records_give_the_same_page(first: Evaluation, second: Evaluation, text: str) -> None:
    assert page.render([first, second], NOW) == text
    assert len(text) < 1_000_000
