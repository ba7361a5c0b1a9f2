"""The HTML report of an evaluation: one file that answers "is it any good?", and shows why.

Promises: the file holds everything it shows and asks the network for nothing (its own content security
policy forbids it); it opens from disk in any browser, light or dark, on a phone or on paper, and reads
without JavaScript, which only sorts the table of images. Whatever comes from outside (ids, names of folders)
is shown as text. Several models stand side by side in one report. Dice is never shown without the floor.

    page.py        the file; templates/ holds its HTML, style and script
    findings.py    what the page says in words: better than nothing? better than the other one?
    figures.py     the figures                    svg.py    how they take on the page's colours and font
"""

from __future__ import annotations

from core.report.page import write_report

__all__ = ["write_report"]
