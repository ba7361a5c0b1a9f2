"""Measured facts of README.md and docs/, which scripts measure, record and write into the documents.

    python -m benchmarks.facts                     # every fact, when and where it was measured, what is old
    python -m benchmarks.facts write [NAME ...]    # measure what is old of these facts, then render
    python -m benchmarks.facts write NAME --again  # measure all of it
    python -m benchmarks.facts add NAME FILE.json --backends tf,mxnet --arguments '-f tf -f mxnet'
                                                   # add what the fact's script just wrote with --json
    python -m benchmarks.facts render              # write the tables from the records; measure nothing

`docs/facts/NAME.json` is the record of a fact: rows of numbers. Each measurement has its date, commit,
command, versions and processor, the sources that it describes and one fingerprint of these. The tables are in
the documents between `<!-- facts: TABLE -->` and `<!-- /facts -->`; `tables.py` makes them from the records.
`tests/test_facts.py` fails if a table differs from its record, or if a record is older than what it
describes. A fact that needs a quiet machine (speed) fails only if it is 90 days old, too.

A new fact needs a function that measures rows (`measures.py` has the others), an entry in `registry.FACTS`,
and a function in `tables.TABLES` for each place in a document that shows it.
"""
