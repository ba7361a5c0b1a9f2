"""Functions that make the documents' tables from records, one for each table.

A table depends on records alone, so it changes only if something was measured. The note under each says when,
where and with which versions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.facts import speed_tables
from benchmarks.facts.layout import Records, block, record_of, rows_of, small, table_of
from benchmarks.facts.records import SOFTWARE, told
from benchmarks.facts.registry import BACKENDS
from core.base.errors import UserError
from core.base.precisions import PRECISIONS


def render(name: str, records: Records) -> str:
    """Return the text between the marks of a table.

    Raises:
        UserError: There is no such table, or its record is missing.
    """
    if name not in TABLES:
        raise UserError(f"there is no table {name!r}", f"There are {', '.join(TABLES)}.")
    return TABLES[name](records)


def backends(records: Records) -> str:
    """Return cells for the header of README's table of backends."""
    versions = record_of(records, "lines")[-1].versions
    cells = [f"{SOFTWARE[name].title} {versions[name]}" for name in BACKENDS if name in SOFTWARE]
    return " " + " | ".join([*cells, f"reference, NumPy {versions['numpy']}"]) + " "


def lines(records: Records) -> str:
    """Return cells for a row of README's table of backends."""
    found = {row["backend"]: row["lines"] for row in rows_of(record_of(records, "lines"))}
    return " " + " | ".join(str(found[name]) for name in BACKENDS) + " "


def lines_note(records: Records) -> str:
    """Return when lines were counted, for use within a sentence."""
    newest = record_of(records, "lines")[-1]
    return f"counted {newest.date} at commit {newest.commit}"


def capabilities(records: Records) -> str:
    """Return all of docs/capabilities.md below its introduction."""
    from core.commands.conformance import as_markdown

    record = record_of(records, "capabilities")
    table: dict[str, dict[str, dict[str, str]]] = {name: {} for name in ("reference", *BACKENDS[:-1])}
    for row in rows_of(record):
        verdicts: dict[str, str] = {key: row[key] for key in PRECISIONS if key in row}
        table[row["backend"]][row["subject"]] = verdicts
    _, text = as_markdown(table, "make facts").split("\n\n", maxsplit=1)  # the page has a heading of its own
    parts = [text, "How many checks these were, and when:\n"]
    rows = []
    for one in sorted(record, key=lambda one: list(table).index(one.backends[0])):
        checks = [row["checks"] for row in one.rows]
        counts = [sum(check.get(status, 0) for check in checks) for status in ("passed", "refused", "failed")]
        rows.append([f"`{one.backends[0]}`", *map(str, counts), one.date, told([one], date=False)])
    parts.append(table_of(["", "passed", "refused", "failed", "measured", "with"], rows))
    return "\n" + "\n".join(parts) + "\n\n"


def certificates(records: Records) -> str:
    """Return the table of the certificates of `run.py parity`."""
    record = record_of(records, "certificates")
    rows = []
    for one in record:
        for row in one.rows:
            loss = f"{small(row['loss'])}, allowed {small(row['loss_budget'])}"
            share = "" if row["share"] is None else f"; at most {row['share']:.2f} of its budget"
            array = f"{small(row['array'])}{share}"
            rows.append([row["what"], loss, array, "yes" if row["holds"] else "NO", one.date])
    header = ["", "largest distance of the loss", "of any array", "holds", "measured"]
    return block(table_of(header, rows), record)


def agreement_summary(records: Records) -> str:
    """Return README's table of agreement: each backend's checks, and its deviation from the others.

    A certificate's deviation is the largest of all backends in it, so it bounds that of each.
    """
    columns: list[list[str]] = []
    for name in BACKENDS[:-1]:
        checks = [
            row["checks"]
            for one in record_of(records, "capabilities")
            if name in one.backends
            for row in one.rows
        ]
        counts = [sum(each.get(status, 0) for each in checks) for status in ("passed", "refused", "failed")]
        shares = [
            row["worst_share_of_budget"]
            for row in rows_of(record_of(records, "agreement"))
            if row["backend"] == name
        ]
        certified = [
            row
            for one in record_of(records, "certificates")
            if name in one.backends
            for row in one.rows
            if row["precision"] == "float64" and row["steps"] == 100
        ]
        columns.append(
            [
                SOFTWARE[name].title,
                ", ".join(map(str, counts)),
                f"{max(shares):.2f}" if shares else "",
                small(max(row["loss"] for row in certified)) if certified else "",
                small(max(row["array"] for row in certified)) if certified else "",
            ]
        )
    titles = (
        "",
        "conformance checks: passed, refused, failed",
        "float32, 1 to 10 steps: largest deviation, as a share of its tolerance",
        "float64, 100 steps: deviation of the loss at most (tolerance 1e-11)",
        "float64, 100 steps: deviation of any array at most (tolerance 1e-9)",
    )
    header, *rows = [[title, *(column[number] for column in columns)] for number, title in enumerate(titles)]
    dates = [one.date for name in ("capabilities", "agreement", "certificates") for one in records[name]]
    return f"\n\n{table_of(header, rows)}\n\n*Measured {min(dates)} to {max(dates)}.*\n\n"


def agreement(records: Records) -> str:
    """Return the table of deviations from the reference in float32, each with its budget."""
    record = record_of(records, "agreement")
    rows = [
        [
            f"`{row['network']}` {row['size']}x{row['size']}, batch of {row['batch']}, "
            + (f"{row['steps']} steps, " if row["steps"] > 1 else "")
            + row["input"],
            f"`{row['backend']}`",
            *(small(row[f"largest_distance_{kind}"]) for kind in ("loss", "gradient", "statistic")),
            f"{row['worst_share_of_budget']:.2f}",
            f"{row['worst_array']}: {small(row['worst_distance'])}, allowed {small(row['worst_budget'])}",
        ]
        for row in sorted(
            rows_of(record),
            key=lambda row: (row["network"], row["size"], row["batch"], row["steps"], row["input"]),
        )
    ]
    header = ["", "", "loss", "gradient", "statistic", "largest share of a budget", "taken by"]
    return block(table_of(header, rows), record)


TABLES: Mapping[str, Callable[[Records], str]] = {
    "backends": backends,
    "lines": lines,
    "lines-note": lines_note,
    "capabilities": capabilities,
    "certificates": certificates,
    "agreement": agreement,
    "agreement-summary": agreement_summary,
    "speed": speed_tables.summary,
    "speed-training": speed_tables.training,
    "speed-loader": speed_tables.loader,
    "speed-prediction": speed_tables.prediction,
    "speed-predict-command": speed_tables.predict_command,
    "speed-start": speed_tables.start,
    "speed-scaling": speed_tables.scaling,
    "speed-workers": speed_tables.workers,
    "speed-workers-expected": speed_tables.expected_workers,
    "speed-preprocessing": speed_tables.preprocessing,
}
"""Functions by the table's name in a document's mark."""
