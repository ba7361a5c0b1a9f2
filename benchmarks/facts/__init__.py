"""Facts in README.md and docs/ that are measured, kept and written by scripts.

    python -m benchmarks.facts                     # every fact, when and where it was measured, what is old
    python -m benchmarks.facts write [NAME ...]    # measure what is old of these facts, then render
    python -m benchmarks.facts write NAME --again  # measure all of it
    python -m benchmarks.facts add NAME FILE.json --backends tf,mxnet --arguments '-f tf -f mxnet'
                                                   # take what the fact's script wrote with --json just now
    python -m benchmarks.facts render              # records to tables alone

`docs/facts/NAME.json` is the record of a fact: rows of numbers, each measurement with its date, commit,
command, versions and processor, with the sources that it describes and one fingerprint of these. The tables
stand in the documents between `<!-- facts: TABLE -->` and `<!-- /facts -->` and are what `tables.py` makes of
the records. `tests/test_facts.py` fails where a table is not its record, and where a record is older than
what it describes; where a quiet machine is needed (speed), only once it is also 90 days old.

A new fact: a function that measures rows (`measures.py` has the others), an entry of `registry.FACTS`, and a
function of `tables.TABLES` for each place in a document where it is shown.
"""
