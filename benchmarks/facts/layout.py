"""Layout that all tables share: rows of Markdown, numbers as text, and the note under a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from benchmarks.facts.records import Measurement, Record, Row, told
from core.base.errors import UserError

Records = Mapping[str, Record]
"""Records by the names of their facts."""


def record_of(records: Records, name: str) -> Record:
    """Return a fact's record; raise `UserError` if there is none."""
    if not records.get(name):
        raise UserError(
            f"docs/facts/{name}.json is missing or empty", f"python -m benchmarks.facts write {name}"
        )
    return records[name]


def rows_of(record: Record) -> Iterator[Row]:
    """Yield the rows of all measurements of a record."""
    for one in record:
        yield from one.rows


def block(table: str, record: Iterable[Measurement]) -> str:
    """Return a table and the note under it, for marks that have lines of their own."""
    return f"\n\n{table}\n\n{words(record)}\n\n"


def words(record: Iterable[Measurement]) -> str:
    """Return the note that says when, where and with which versions a record was measured."""
    return f"*{told(record)}.*"


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, without a newline at its end."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(line.replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def small(value: float) -> str:
    """Format with one digit, as 3e-12."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return "0" if value == 0 else f"{mantissa}e{int(exponent)}"


def by_machine(record: Record, header: Sequence[str], cells: Callable[[Row], list[str]]) -> str:
    """Return a table for each machine, in the order of the record; the last column is the date."""
    parts = []
    for machine in dict.fromkeys(one.machine for one in record):
        of_it = [one for one in record if one.machine == machine]
        rows = [[*cells(row), one.date] for one in of_it for row in one.rows]
        used = [number for number in range(len(header)) if any(row[number] for row in rows)]
        shown = [[row[number] for number in used] for row in rows]
        table = table_of([header[number] for number in used], shown)
        parts.append(f"{machine}:\n\n{table}\n\n{words(of_it)}")
    return "\n\n" + "\n\n".join(parts) + "\n\n"


def on_machines(record: Record, header: Sequence[str], cells: Callable[[Row], list[str]]) -> str:
    """Return one table; the last columns are machine and date."""
    rows = [[*cells(row), one.machine, one.date] for one in record for row in one.rows]
    return block(table_of([*header, "on", "measured"], rows), record)


def ratio(value: Sequence[float] | None) -> str:
    """Format as median (minimum to maximum); the range is left out if it was not recorded."""
    if value is None:
        return ""
    middle, *others = value
    digits = 2 if middle < 2.5 else 1
    return f"{middle:.{digits}f}" + (f" ({others[0]:.{digits}f} to {others[1]:.{digits}f})" if others else "")


def span(value: Sequence[float], form: str) -> str:
    """Format as minimum to maximum."""
    return f"{value[0]:{form}} to {value[1]:{form}}"


def number(value: float | None, form: str) -> str:
    """Format a number; return an empty text if it was not measured."""
    return "" if value is None else format(value, form)
