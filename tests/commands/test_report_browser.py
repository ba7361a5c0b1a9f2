"""The report in a real browser: headless Chromium, driven by Selenium.

The tests are skipped where Chromium or its driver is not installed. With PNEUMOSEG_REQUIRE_BROWSER set, as in
continuous integration, they fail instead.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from evaluations import evaluation
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from core.report import write_report
from core.scoring.evaluation_record import Evaluation

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root cannot use the sandbox; only our own page is opened
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOSTILE = "<script>document.title = 'broken into'</script>"
ODD_NAME = "r\u00e9port #1 100%.html"


@pytest.fixture(scope="module")
def models() -> list[Evaluation]:
    first = evaluation(1, ids=[HOSTILE])
    also = frozenset(case.row.id for case in first.cases)
    long = "some/folders/one/below/the/other/until/no/phone/has/room/for/it/mxnet_model"
    return [first, evaluation(2, backend="mxnet", folders=[long], ids=[HOSTILE], also=also)]


@pytest.fixture(scope="module")
def report(models: list[Evaluation], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / ODD_NAME
    write_report(path, models)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing = "chromedriver" if chromium else "Chromium"
        if os.environ.get("PNEUMOSEG_REQUIRE_BROWSER"):
            pytest.fail(f"{missing} is not installed, and PNEUMOSEG_REQUIRE_BROWSER is set")
        pytest.skip(f"left out: {missing} is not installed, so the report was not opened in a browser")
    options = Options()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")  # Selenium would look for a driver on the network
        started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture
def opened(browser: webdriver.Chrome, report: Path) -> Iterator[webdriver.Chrome]:
    """The report, freshly loaded, on a wide and light screen; the logs start with its loading."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    look(browser, 1280)
    browser.get(report.as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def look(browser: webdriver.Chrome, width: int, scheme: str = "light", media: str = "") -> None:
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})


def test_it_opens_without_errors_and_asks_the_network_for_nothing(opened: webdriver.Chrome) -> None:
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert any(url.startswith("file:") for url in urls)
    # Sometimes the browser is still loading a page of its own (`chrome:`).
    assert {urlsplit(url).scheme for url in urls} <= {"file", "data", "chrome"}
    assert sum(url.startswith("file:") for url in urls) == 1


def test_every_picture_is_there(opened: webdriver.Chrome, models: list[Evaluation]) -> None:
    widths = opened.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        const inside = Array.from(document.querySelectorAll("svg image"), (element) => {
          const image = new Image();
          image.src = element.getAttribute("href");
          return image;
        });
        const all = [...document.images, ...inside];
        Promise.all(all.map((image) => image.decode().then(() => image.naturalWidth, () => 0))).then(done);
        """
    )
    surfaces = sum(len(model.surfaces) for model in models)
    assert len(widths) > 3 * len(models[0].cases) + surfaces
    assert min(widths) > 0
    sizes = opened.execute_script(
        "return Array.from(document.querySelectorAll('svg[role=img], img'), (e) => e.getBoundingClientRect())"
        ".map((box) => Math.min(box.width, box.height))"
    )
    assert min(sizes) > 100
    assert opened.execute_script(  # each outline lies over its radiograph
        "return Array.from(document.querySelectorAll('svg use[href^=\"#radiograph\"]'),"
        " (e) => e.getBBox().width).every((width) => width > 0)"
    )


def test_it_shows_every_model_and_runs_no_foreign_script(
    opened: webdriver.Chrome, models: list[Evaluation]
) -> None:
    text = opened.find_element(By.TAG_NAME, "body").text
    for model in models:
        assert model.name in text
        assert f"Dice {model.summary.dice:.3f}" in text
    assert HOSTILE in text
    assert "broken into" not in opened.title
    assert opened.title.startswith("Evaluation of tf: tf_model, mxnet: some/folders")


def column(browser: webdriver.Chrome, place: int) -> list[str]:
    found: list[str] = browser.execute_script(
        "return Array.from(document.querySelector('table.sortable').tBodies[0].rows,"
        " (row) => row.cells[arguments[0]].textContent.trim())",
        place,
    )
    return found


def test_a_click_on_a_heading_sorts(opened: webdriver.Chrome, models: list[Evaluation]) -> None:
    opened.execute_script("document.querySelector('#images details').open = true")
    headings = opened.find_elements(By.CSS_SELECTOR, "table.sortable th[data-sort]")
    rows = models[0].rows
    assert [column(opened, 1)[place] for place in (0, 7)] == [
        str(rows[place].truth_pixels) for place in (0, 7)
    ]
    for place, numbers in (
        (1, [row.truth_pixels for row in rows]),
        (4, [round(row.dice, 4) for row in rows]),
        (7, [round(row.dice, 4) for row in models[1].rows]),
    ):
        button = headings[place].find_element(By.TAG_NAME, "button")
        button.click()
        assert headings[place].get_attribute("aria-sort") == "ascending"
        assert [float(cell) for cell in column(opened, place)] == sorted(numbers)
        button.send_keys(Keys.ENTER)
        assert headings[place].get_attribute("aria-sort") == "descending"
        assert [float(cell) for cell in column(opened, place)] == sorted(numbers, reverse=True)
    areas = [str(row.truth_pixels) for row in rows]
    assert sorted(areas) != sorted(areas, key=int), "text would sort like numbers"
    headings[0].find_element(By.TAG_NAME, "button").click()
    ids = column(opened, 0)
    assert ids == sorted(row.id for row in rows)
    assert [h.get_attribute("aria-sort") for h in headings].count(None) == len(headings) - 1
    by_id = {row.id: row for row in rows}
    assert column(opened, 4) == [f"{by_id[name].dice:.4f}" for name in ids], "a row stays together"


def test_without_javascript_the_table_is_a_plain_table(
    browser: webdriver.Chrome, report: Path, models: list[Evaluation]
) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(report.as_uri())
        root = browser.execute_cdp_cmd("DOM.getDocument", {})["root"]["nodeId"]

        def count(selector: str) -> int:
            query = {"nodeId": root, "selector": selector}
            return len(browser.execute_cdp_cmd("DOM.querySelectorAll", query)["nodeIds"])

        assert count("table.sortable tbody tr") == len(models[0].rows)
        assert count("table.sortable th[data-sort]") == 8
        assert count("button") == 0
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
def test_the_page_does_not_scroll_sideways(opened: webdriver.Chrome, width: int) -> None:
    look(opened, width)
    opened.execute_script("document.querySelector('#images details').open = true")
    widths = opened.execute_script(
        "const e = document.documentElement; return [e.scrollWidth, e.clientWidth, window.innerWidth]"
    )
    assert widths[2] == width
    assert widths[0] <= widths[1]


def test_no_text_of_a_figure_is_cut_off(opened: webdriver.Chrome) -> None:
    texts = opened.execute_script(
        """
        return Array.from(document.querySelectorAll(".plots svg[role] text"), (text) => {
          const box = text.getBoundingClientRect(), all = text.ownerSVGElement.getBoundingClientRect();
          const over = Math.max(
            all.left - box.left, box.right - all.right, all.top - box.top, box.bottom - all.bottom);
          return [text.textContent, over, parseFloat(getComputedStyle(text).fontSize) * all.width / 252];
        })
        """
    )
    assert len(texts) > 100
    assert [(text, over) for text, over, _ in texts if over > 2] == []
    assert min(size for _, _, size in texts) >= 9


def colours(browser: webdriver.Chrome) -> dict[str, tuple[float, ...]]:
    """Return the colours of the page: background, text, curves and labels."""
    found: dict[str, str] = browser.execute_script(
        """
        const style = (selector) => getComputedStyle(document.querySelector(selector));
        return {paper: style("body").backgroundColor,
                ink: style("h1").color,
                muted: style("figcaption").color,
                line: style("#training .plots path[style*='series-0']").stroke,
                label: style("#training .plots text").fill};
        """
    )
    return {name: tuple(map(float, re.findall(r"[\d.]+", text)[:3])) for name, text in found.items()}


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.1)."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_legible_in_light_and_dark(opened: webdriver.Chrome, scheme: str) -> None:
    look(opened, 1280, scheme)
    found = colours(opened)
    assert (sum(found["paper"]) > 382) == (scheme == "light")
    for name in ("ink", "muted", "label"):
        assert contrast(found[name], found["paper"]) >= 4.5, name
    assert contrast(found["line"], found["paper"]) >= 3


def test_paper_is_white(opened: webdriver.Chrome) -> None:
    look(opened, 1000, "dark", "print")
    found = colours(opened)
    assert found["paper"] == (255, 255, 255)
    assert contrast(found["ink"], found["paper"]) >= 7


def test_headings_outline_the_page(opened: webdriver.Chrome) -> None:
    links = opened.find_elements(By.CSS_SELECTOR, "nav a")
    tops: list[Any] = []
    for link in links:
        target = (link.get_attribute("href") or "").partition("#")[2]
        tops.append(opened.find_element(By.ID, target).location["y"])
    assert all(above < below for above, below in itertools.pairwise(tops))
    assert tops[0] < 900, "the scores begin on the first screen"
    assert len(links) == 11
