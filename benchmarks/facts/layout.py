"""What all tables share: rows of Markdown, numbers as text, and the words under a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from benchmarks.facts.records import Measurement, Record, Row, told
from core.base.errors import UserError

Records = Mapping[str, Record]
"""Each by the name of its fact."""


def record_of(records: Records, name: str) -> Record:
    """A fact's record; an error where there is none."""
    if not records.get(name):
        raise UserError(
            f"docs/facts/{name}.json is missing or empty", f"python -m benchmarks.facts write {name}"
        )
    return records[name]


def rows_of(record: Record) -> Iterator[Row]:
    """The rows of all its measurements."""
    for one in record:
        yield from one.rows


def block(table: str, record: Iterable[Measurement]) -> str:
    """A table and the words under it, as they stand between marks of their own lines."""
    return f"\n\n{table}\n\n{words(record)}\n\n"


def words(record: Iterable[Measurement]) -> str:
    """When, where and with what it was measured."""
    return f"*{told(record)}.*"


def table_of(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown without a line's end at its end."""
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(line.replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def small(value: float) -> str:
    """One digit, as 3e-12."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return "0" if value == 0 else f"{mantissa}e{int(exponent)}"


def by_machine(record: Record, header: Sequence[str], cells: Callable[[Row], list[str]]) -> str:
    """A table for each machine, in the order of the record; the last column is the date."""
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
    """One table; the last columns are machine and date."""
    rows = [[*cells(row), one.machine, one.date] for one in record for row in one.rows]
    return block(table_of([*header, "on", "measured"], rows), record)


def ratio(value: Sequence[float] | None) -> str:
    """Median (least to greatest); a range that nobody noted is left out."""
    if value is None:
        return ""
    middle, *others = value
    digits = 2 if middle < 2.5 else 1
    return f"{middle:.{digits}f}" + (f" ({others[0]:.{digits}f} to {others[1]:.{digits}f})" if others else "")


def span(value: Sequence[float], form: str) -> str:
    """Least to greatest."""
    return f"{value[0]:{form}} to {value[1]:{form}}"


def number(value: float | None, form: str) -> str:
    """Nothing where it was not measured."""
    return "" if value is None else format(value, form)
