"""Division of the images of a data file into groups: by view, sex and age, and by the columns of a table."""

from __future__ import annotations

from pathlib import Path

from core.base.errors import UserError
from core.scoring.groups import Labels, age_group
from data.annotations.group_table import read_groups
from data.hdf5.store import Store

_MOST = 20


def group_labels(store: Store, table: Path | None = None) -> Labels:
    """Return the groups of the images of a file.

    Args:
        store: The file; its views, sexes and ages are taken where it has them.
        table: A table with further columns, each a division by its different values; one that is called
            "age" has years. Columns called as those of the file take their place.

    Raises:
        UserError: The table cannot be read, or a column has too many different values.
    """
    labels = {
        "view": list(store.views),
        "sex": list(store.sexes),
        "age": [age_group(age) for age in store.ages.tolist()],
    }
    for name, values in (read_groups(table, store.ids) if table else {}).items():
        labels[name] = [_group(table, name, values.get(image, "")) for image in store.ids]
        if (count := len(set(labels[name]) - {""})) > _MOST:
            raise UserError(
                f"{table}: the column {name} has {count} different values; groups are at most {_MOST}.",
                "Leave the column out, or write ranges into it.",
            )
    return {name: values for name, values in labels.items() if any(values)}


def _group(table: Path | None, column: str, text: str) -> str:
    """Return the group of a cell."""
    if column != "age" or not text:
        return text
    try:
        return age_group(float(text))
    except (ValueError, StopIteration) as error:
        raise UserError(f"{table}: the age {text!r} is no number of years.") from error
