"""Tables: where rows start, what quotes do, and what is no plain text."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from data.table import Cells, Table, read_table

HEADER = "ImageId,EncodedPixels\n"


def read(folder: Path, content: str | bytes) -> Table:
    path = folder / "t.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(path, "table", "Expected a table.")


def refused(folder: Path, content: str | bytes, *says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(folder, content)
    for part in (str(folder / "t.csv"), *says):
        assert part in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_rows_have_the_lines_on_which_they_start(tmp_path: Path, end: str) -> None:
    lines = ["ImageId,EncodedPixels", "", 'a,"1 2', " 3 4", '"', " , ", 'b,"-1"', '"c', '",5 6', "d,7 8"]
    found = read(tmp_path, end.join(lines))
    inner = f"1 2{end} 3 4"
    assert found.rows == (
        Cells(3, "a", inner),
        Cells(7, "b", "-1"),
        Cells(8, "c", "5 6"),
        Cells(10, "d", "7 8"),
    )
    assert found.header == ("ImageId", "EncodedPixels")


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (['a,"-1', "b,-1", "c,1 2"], 2),
        (["a,1 2", '"b,-1', "c,1 2"], 3),
        (["a,-1", "b,-1", 'c,"1 2'], 4),
        (["a,-1", 'b,"'], 3),
        (['"a",-1', '"b", "-1', "c,-1"], 3),
        (['a,"1 2', '3 4"', 'b,"5', "6"], 4),
        (['a,"1 2', '3 4","x', "b,-1"], 3),  # the third cell opens on the row's second line
        (['a,"say ""-1', "b,-1"], 2),
        (["a,-1", 'b,"1 2', 'c","3 4'], 3),  # the quote in line 4 is what closes it, and one is left over
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_a_quote_that_never_closes_is_named_by_the_line_where_it_opens(
    tmp_path: Path, rows: list[str], line: int, end: str
) -> None:
    text = HEADER + "\n".join(rows) + "\n"
    refused(tmp_path, text.replace("\n", end), f'row {line}: a quote (") opens here and is never closed')


@pytest.mark.parametrize(
    ("rows", "first", "last"),
    [
        (['a,"-1', "b,-1", 'c,3 4"', "d,1 2"], 2, 4),  # in a mask
        (["x,-1", '"a,-1', "b,-1", 'c",3 4'], 3, 5),  # in an id
        (['a,-1,"x', "b,-1,", 'c,3 4"', "d,1 2"], 2, 4),  # in a cell too many
        (['a,"-1', "b,-1", 'c,"3 4"', "d,1 2"], 2, 4),  # the second is another one that opens
    ],
)
def test_two_quotes_with_rows_between_them_lose_no_row(
    tmp_path: Path, rows: list[str], first: int, last: int
) -> None:
    text = HEADER + "\n".join(rows) + "\n"
    refused(tmp_path, text, f'row {first}: a quote (") opens here and closes in row {last}')


def test_a_mask_over_several_lines_is_no_other_row(tmp_path: Path) -> None:
    """Where tabs are between cells, and ids are numbers, rows look like white space and numbers."""
    header = HEADER.replace(",", "\t")
    found = read(tmp_path, f'{header}12\t"1 2\n\t3 4\n\n 5 6 "\n13\t-1\n')
    assert found.rows == (Cells(2, "12", "1 2\n\t3 4\n\n 5 6"), Cells(6, "13", "-1"))
    refused(tmp_path, f'{header}12\t"1 2\n13\t3 4"\n14\t-1\n', "row 2", "closes in row 3")
    refused(tmp_path, f'{header}12\t"1 2\n13\t\n14"\t-1\n', "row 2", "in row 4")


def test_quotes_in_a_column_that_nobody_needs(tmp_path: Path) -> None:
    header = "ImageId,EncodedPixels,note\n"
    whole = read(tmp_path, header + 'a,-1,"seen by A, B;\nsize: 5, 6"\nb,1 2,"a ""b"""\n')
    assert whole.rows == (Cells(2, "a", "-1"), Cells(4, "b", "1 2"))
    refused(tmp_path, header + 'a,-1,"seen\nb,1 2,by\nc,-1,A"\nd,-1,\n', "row 2", "closes in row 4")


def test_a_quote_that_closes_too_early_is_named(tmp_path: Path) -> None:
    refused(tmp_path, HEADER + 'a,-1\n"b"c,-1\n', "row 3: a quote (\") opens here and closes before 'c'")


def test_a_quote_within_a_cell_is_a_character_of_it(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + '5" film,-1\nb,1 "2\nc,3 4\n')
    assert found.rows == (Cells(2, '5" film', "-1"), Cells(3, "b", '1 "2'), Cells(4, "c", "3 4"))


def test_spaces_beside_quotes_do_not_matter(tmp_path: Path) -> None:
    found = read(tmp_path, 'ImageId, EncodedPixels\n "a" , "1 2" \nb, "-1"\n')
    assert found.rows == (Cells(2, "a", "1 2"), Cells(3, "b", "-1"))
    assert found.header == ("ImageId", " EncodedPixels")  # as it is written


def test_white_space_of_any_kind_around_a_cell_does_not_matter(tmp_path: Path) -> None:
    odd = ["a", "\u00a0a", "a\u3000", "\u200ba\ufeff", "\ufeffa", "a\u2007 ", "\u200e a"]
    found = read(tmp_path, HEADER + "".join(f"{one},\u00a0-1\u200b\n" for one in odd))
    assert {(cells.image_id, cells.text) for cells in found.rows} == {("a", "-1")}
    assert len(found.rows) == len(odd)


def test_white_space_within_an_id_belongs_to_it(tmp_path: Path) -> None:
    ids = ["a b", "a  b", "a\u00a0b", "a\u200bb", "a\tb"]
    found = read(tmp_path, HEADER + "".join(f"{one},-1\n" for one in ids))
    assert [cells.image_id for cells in found.rows] == ids


def test_files_that_were_put_together(tmp_path: Path) -> None:
    found = read(tmp_path, f'\ufeff{HEADER}a,-1\n\ufeff{HEADER}b,1 2\n\ufeff"c",3 4\n imageid , RLE\nd,-1\n')
    assert [(cells.number, cells.image_id) for cells in found.rows] == [
        (2, "a"),
        (4, "b"),
        (5, "c"),
        (7, "d"),
    ]
    assert found.repeated_headers == (3, 6)
    refused(
        tmp_path,
        f"{HEADER}a,-1\nEncodedPixels,ImageId\n1 2,b\n",
        "row 3: another header",
        "EncodedPixels, ImageId",
    )


def test_ids_may_be_called_like_columns(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "rle,-1\nImageId,1 2\n")
    assert [cells.image_id for cells in found.rows] == ["rle", "ImageId"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
def test_text_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str, delimiter: str) -> None:
    text = "ImageId,EncodedPixels\r\nThorax à,1 2\r\n日本,-1\r\n".replace(",", delimiter)
    found = read(tmp_path, text.encode(encoding))
    assert found.rows == (Cells(2, "Thorax à", "1 2"), Cells(3, "日本", "-1"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            (HEADER + "a,-1\n").encode("utf-16-le"),
            ["row 1: it contains a NUL byte", "Save it as CSV in UTF-8"],
        ),
        (HEADER + "a,-1\nb,1\0 2\n", ["row 3: it contains a NUL byte"]),
        (HEADER.replace("\n", "\r") + "a,-1\rb,\0-1\r", ["row 3: it contains a NUL byte"]),
        ((HEADER + "a,-1\r\n\u00e4,-1\n").encode("latin-1"), ["row 3: not UTF-8 text (b'\\xe4,-1\\n')"]),
        (b"\xef\xbb\xbf" + (HEADER + "\u00e4,-1\n").encode("latin-1"), ["row 2: not UTF-8 text (b'\\xe4,-1"]),
        ((HEADER + "a,-1\n").encode("utf-16") + b"\0", ["row 3: not UTF-16 text"]),
        (gzip.compress(b"\xff\xfea"), ["row 1: not UTF-16 text"]),
    ],
)
def test_what_is_no_text_is_named_by_its_row(tmp_path: Path, content: str | bytes, says: list[str]) -> None:
    refused(tmp_path, content, *says)


def test_a_first_row_may_have_numbers_as_pandas_writes_them(tmp_path: Path) -> None:
    assert read(tmp_path, "a,-1.0\nb,1e0 2.0\n").rows[0] == Cells(1, "a", "-1.0")
    for text in ("a,e\n", "a,-\n", "a,.\n"):
        refused(tmp_path, text, "row 1: not an id and an encoding")


def test_quotes_cost_no_time(tmp_path: Path) -> None:
    """Each of a million cells in quotes; and one cell of twenty million characters that never closes."""
    began = time.process_time()
    assert len(read(tmp_path, HEADER + '"a","1 2"\n' * 100_000).rows) == 100_000
    refused(tmp_path, HEADER + 'a,"' + 'b,""1 2\n' * 2_000_000, "row 2: a quote")
    assert time.process_time() - began < 20


cells = st.text(st.sampled_from('0123456789 -1,\n\r"yz.'), max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_a_table_that_is_read_has_every_line_in_a_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    """Each line that holds a letter is read, or the file is refused: none is lost in a cell's quotes."""
    text = HEADER + "".join(f"{one},{two}\n" for one, two in rows)
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text(text, newline="")
    try:
        found = read_table(path, "table", "Expected a table.")
    except UserError:
        return
    read_back = "".join(f"{cells.image_id}{cells.text}" for cells in found.rows)
    assert sum(map(read_back.count, "yz")) == sum(map(text[len(HEADER) :].count, "yz"))
    assert [cells.number for cells in found.rows] == sorted({cells.number for cells in found.rows})
    for row in found.rows:
        assert "\n" not in row.image_id
