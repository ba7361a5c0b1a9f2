"""The command `python -m benchmarks.facts`; the package's docstring explains it."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import fnmatch
import itertools
import json
import sys
from pathlib import Path

from benchmarks import facts
from benchmarks.facts import imports, records
from benchmarks.facts.documents import documents, rendered
from benchmarks.facts.measures import Part, Script
from benchmarks.facts.records import ROOT
from benchmarks.facts.registry import FACTS, Fact, read_all
from benchmarks.facts.tables import render
from core.base.errors import UserError
from core.files.atomic import write_text


def main(words: list[str] | None = None) -> int:
    """Run the command; return exit status 1 after an error."""
    arguments = parse(words)
    try:
        if arguments.action == "write":
            for fact in facts_of(arguments.facts):
                write_fact(fact, again=arguments.again, quiet=not arguments.noisy)
        elif arguments.action == "add":
            add(fact_of(arguments.fact), arguments)
        elif arguments.action == "list":
            show()
        if arguments.action != "list":
            render_documents(ROOT)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse(words: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.facts",
        description=facts.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action")
    parser.set_defaults(action="list")
    actions.add_parser("list", help="each fact: when, where, and whether it is old (the default)")
    write = actions.add_parser("write", help="measure what is old, write records and tables")
    write.add_argument(
        "facts",
        nargs="*",
        metavar="NAME",
        help="may be patterns, as 'speed_*' (default: all that any machine can measure in minutes)",
    )
    write.add_argument("--again", action="store_true", help="measure also what is not old")
    write.add_argument(
        "--noisy", action="store_true", help="the machine has other work to do, and the record says so"
    )
    new = actions.add_parser("add", help="take what a script wrote with --json just now, on this machine")
    new.add_argument("fact", metavar="NAME")
    new.add_argument("file", type=Path, metavar="FILE.json")
    new.add_argument("--arguments", required=True, help="those of the script, --json left out")
    new.add_argument("--backends", default="", metavar="NAME,NAME", help="that were measured")
    new.add_argument("--title", default="", help="what the table calls it (certificates)")
    actions.add_parser("render", help="write the tables from the records")
    return parser.parse_args(words)


def fact_of(name: str) -> Fact:
    """Return the fact with this name."""
    if name not in FACTS:
        raise UserError(f"there is no fact {name!r}", f"There are {', '.join(FACTS)}.")
    return FACTS[name]


def facts_of(names: list[str]) -> list[Fact]:
    """Return the facts with these names or patterns; without names, all that need no quiet machine."""
    if not names:
        return [fact for fact in FACTS.values() if fact.strict]
    found = [fnmatch.filter(FACTS, name) or [fact_of(name).name] for name in names]
    return [FACTS[name] for name in dict.fromkeys(itertools.chain.from_iterable(found))]


def write_fact(fact: Fact, root: Path = ROOT, *, again: bool = False, quiet: bool = True) -> None:
    """Measure the parts that are old; record and show each as soon as it is measured."""
    parts = fact.parts if again else fact.old_parts(records.read(fact.name, root), root)
    for part in parts:
        print(f"{fact.name}: {', '.join(part.backends)} {part.arguments}", flush=True)
        new = dataclasses.replace(fact.take(part, root), quiet=quiet)
        records.write(fact.name, fact.with_new(records.read(fact.name, root), new), root)
        render_documents(root)
    print(f"{fact.name}: {len(parts)} of {len(fact.parts)} parts were measured")


def add(fact: Fact, arguments: argparse.Namespace) -> None:
    """Add the numbers of a file that a script has written."""
    if not isinstance(fact.measure, Script):
        raise UserError(f"{fact.name} is not measured by a script", f"Use write {fact.name}.")
    backends = tuple(filter(None, arguments.backends.split(",")))
    part = Part(backends, arguments.arguments, arguments.title)
    try:
        found = json.loads(arguments.file.read_text(encoding="utf-8"))
        rows = fact.measure.rows_of(found, part)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{arguments.file} is not what {fact.measure.command} writes: {error!r}") from error
    records.write(fact.name, fact.with_new(records.read(fact.name), fact.measured(part, rows)))


def show() -> None:
    """Print each fact, and its measurements that are old."""
    today = datetime.date.today()
    for name, record in read_all().items():
        print(f"{name}: {records.told(record)}" if record else f"{name}: not measured")
        for old in FACTS[name].find_old(record, today):
            print(f"  OLD: {old}")


def render_documents(root: Path) -> None:
    """Write the tables of every document that differs from its records."""
    found = read_all(root)
    for path in documents(root):
        text = path.read_text(encoding="utf-8")
        new = rendered(text, lambda name: render(name, found), str(path.relative_to(root)))
        if new != text:
            write_text(path, new)
            print(f"{path.relative_to(root)}: tables written")
    imports.write(root)


if __name__ == "__main__":
    sys.exit(main())
