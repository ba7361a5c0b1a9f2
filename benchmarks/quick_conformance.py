#!/usr/bin/env python
"""As many checks of `run.py conformance` as fit into some seconds, the most different ones first.

    python benchmarks/quick_conformance.py -f NAME [--device gpu] [--within S] [--most N] [--json FILE]

First comes one check of each subject in float32 and float64, then one in mixed precisions, then the second of
each subject, and so on. The record is written after every check: subject, name, precision, and the status,
which is "not run" where time was up. Exit status 1 says that a check failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core.backend.process import BackendProcess  # noqa: E402  the line above finds the project
from core.conformance import Check, all_checks, examine  # noqa: E402
from core.files.atomic import write_text  # noqa: E402

PLAIN = ("float32", "float64")


def main() -> int:
    """Check and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-f", "--framework", required=True, metavar="NAME")
    parser.add_argument("--device", default="cpu", metavar="auto|cpu|gpu|gpu:N")
    parser.add_argument("--within", type=float, default=60.0, metavar="S", help="begin with no check after S")
    parser.add_argument("--most", type=int, metavar="N", help="make at most N checks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.within
    checks = most_different_first(all_checks())
    record = [
        {"subject": one.subject, "name": one.name, "precision": one.precision, "status": "not run"}
        for one in checks
    ]
    with BackendProcess(arguments.framework, device=arguments.device) as backend:
        for check, row in itertools.islice(zip(checks, record, strict=True), arguments.most):
            if time.monotonic() > until:
                break
            outcome = examine(check, backend)
            row |= {"status": outcome.status, "detail": outcome.detail}
            if outcome.status != "passed":
                print(f"{outcome.status}: {check}: {outcome.detail}", flush=True)
            if arguments.json:
                write_text(arguments.json, json.dumps(record) + "\n")
    counts = Counter(row["status"] for row in record)
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return int(counts["failed"] > 0)


def most_different_first(checks: Iterable[Check]) -> list[Check]:
    """Return the checks in the order of the module's text."""
    before: Counter[tuple[str, str]] = Counter()
    ranked = []
    for check in checks:
        ranked.append((before[check.subject, check.precision], check.precision not in PLAIN, check))
        before[check.subject, check.precision] += 1
    return [check for *_, check in sorted(ranked, key=lambda one: one[:2])]


if __name__ == "__main__":
    sys.exit(main())
