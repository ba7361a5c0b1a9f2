"""Two evaluations and their report, shared by the tests of the report."""

from __future__ import annotations

import pytest
from evaluations import evaluation
from report_page import HOSTILE, NOW, Page

from core.report import page
from core.scoring.evaluation_record import Evaluation


@pytest.fixture(scope="session")
def first() -> Evaluation:
    return evaluation(1, ids=[HOSTILE])


@pytest.fixture(scope="session")
def second(first: Evaluation) -> Evaluation:
    also = frozenset(case.row.id for case in first.cases)
    return evaluation(2, backend="mxnet", folders=["a/b"], ids=[HOSTILE], also=also)


@pytest.fixture(scope="session")
def text(first: Evaluation, second: Evaluation) -> str:
    return page.render([first, second], NOW)


@pytest.fixture(scope="session")
def both(text: str) -> Page:
    return Page(text)
