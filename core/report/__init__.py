"""The HTML report of an evaluation: one file with scores, figures and example images of one or more models.

The file contains everything it shows, and its content security policy forbids network requests. It opens from
disk in any browser, in light or dark mode, on a phone or on paper. JavaScript only sorts the table of images.
Text from outside, such as ids and names of folders, is escaped. Dice is always shown with the all-negative
baseline.

    page.py           the page; templates/ holds its HTML, style and script
    findings.py       statistical comparisons: with the all-negative baseline, and between models
    *_figures.py      the figures: training, thresholds, image classification, masks
    plots.py          the type of a figure, and helpers for axes
    svg.py            conversion of a matplotlib figure to SVG in the page's colours and font
"""

from __future__ import annotations

from core.report.page import write_report

__all__ = ["write_report"]
