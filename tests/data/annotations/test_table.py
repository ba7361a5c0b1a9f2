"""Tests of the table reader: line numbers, quotes, delimiters, encodings and pipes."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.base.errors import UserError
from data.annotations.table import AnnotationTable, TableRow, read_table

HEADER = "ImageId,EncodedPixels\n"


def read(folder: Path, content: str | bytes) -> AnnotationTable:
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
        TableRow(3, "a", inner),
        TableRow(7, "b", "-1"),
        TableRow(8, "c", "5 6"),
        TableRow(10, "d", "7 8"),
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
    """With tabs as delimiter and numbers as ids, rows look like white space and numbers."""
    header = HEADER.replace(",", "\t")
    found = read(tmp_path, f'{header}12\t"1 2\n\t3 4\n\n 5 6 "\n13\t-1\n')
    assert found.rows == (TableRow(2, "12", "1 2\n\t3 4\n\n 5 6"), TableRow(6, "13", "-1"))
    refused(tmp_path, f'{header}12\t"1 2\n13\t3 4"\n14\t-1\n', "row 2", "closes in row 3")
    refused(tmp_path, f'{header}12\t"1 2\n13\t\n14"\t-1\n', "row 2", "in row 4")


def test_quotes_in_a_column_that_nobody_needs(tmp_path: Path) -> None:
    header = "ImageId,EncodedPixels,note\n"
    whole = read(tmp_path, header + 'a,-1,"seen by A, B;\nsize: 5, 6"\nb,1 2,"a ""b"""\n')
    assert whole.rows == (TableRow(2, "a", "-1"), TableRow(4, "b", "1 2"))
    refused(tmp_path, header + 'a,-1,"seen\nb,1 2,by\nc,-1,A"\nd,-1,\n', "row 2", "closes in row 4")


def test_a_quote_that_closes_too_early_is_named(tmp_path: Path) -> None:
    refused(tmp_path, HEADER + 'a,-1\n"b"c,-1\n', "row 3: a quote (\") opens here and closes before 'c'")


def test_a_quote_within_a_cell_is_a_character_of_it(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + '5" film,-1\nb,1 "2\nc,3 4\n')
    assert found.rows == (TableRow(2, '5" film', "-1"), TableRow(3, "b", '1 "2'), TableRow(4, "c", "3 4"))


def test_spaces_beside_quotes_do_not_matter(tmp_path: Path) -> None:
    found = read(tmp_path, 'ImageId, EncodedPixels\n "a" , "1 2" \nb, "-1"\n')
    assert found.rows == (TableRow(2, "a", "1 2"), TableRow(3, "b", "-1"))
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
    assert found.rows == (TableRow(2, "Thorax à", "1 2"), TableRow(3, "日本", "-1"))


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
        (gzip.compress(b"\xff\xfea", mtime=0), ["row 1: not UTF-16 text"]),
    ],
)
def test_what_is_no_text_is_named_by_its_row(tmp_path: Path, content: str | bytes, says: list[str]) -> None:
    refused(tmp_path, content, *says)


def test_a_first_row_may_have_numbers_as_pandas_writes_them(tmp_path: Path) -> None:
    assert read(tmp_path, "a,-1.0\nb,1e0 2.0\n").rows[0] == TableRow(1, "a", "-1.0")
    for text in ("a,e\n", "a,-\n", "a,.\n"):
        refused(tmp_path, text, "row 1: not an id and an encoding")


def test_quotes_cost_no_time(tmp_path: Path) -> None:
    """Many quoted cells, and one cell of millions of characters that never closes, are read quickly."""
    began = time.process_time()
    assert len(read(tmp_path, HEADER + '"a","1 2"\n' * 100_000).rows) == 100_000
    refused(tmp_path, HEADER + 'a,"' + 'b,""1 2\n' * 2_000_000, "row 2: a quote")
    assert time.process_time() - began < 20


cells = st.text(st.sampled_from('0123456789 -1,\n\r"yz.'), max_size=12)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_a_table_that_is_read_has_every_line_in_a_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    """Each line with a letter is read, or the file is refused: no line is lost in a quoted cell."""
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


NOTES = "ImageId,EncodedPixels,comment\n"


@pytest.mark.parametrize(
    ("text", "first"),
    [
        (f'{NOTES}z,-1,x\na,1 5,"see note\nb,-1\nc,-1"\nd,-1,x\n', 3),  # fewer cells than the header
        (f'{NOTES}a,1 5,"see\nb,-1,y,extra"\nd,-1,x\n', 2),  # more
        (f'{NOTES}a,,"see\nb,3 4 5 6,y"\nd,-1,x\n', 2),  # no value of its own
        (f'{NOTES}a,1 5,"see\r\nb;-1;y\r\nc;-1;y"\n', 2),
        (f'{NOTES}a,1 5,"see\n\nb,-1.0,"\n', 2),
        ('ImageId,EncodedPixels,"comment\na,1 5,x\nb,-1,"\nc,-1,y\n', 1),  # opens in the header
        ('comment,ImageId,"EncodedPixels\n",a,1 5\n,b,-1\n', 1),
        ('ImageId;EncodedPixels;"comment\na";1 5;x\nb;-1;\n', 1),
        ('ImageId,comment,EncodedPixels\na,"see,1 5\nb,y",-1\n', 2),  # is closed by the last one's own
        ('comment,ImageId,EncodedPixels\n"see,a,1 5\nx,b,-1\ny",c,-1\n', 2),
        ('EncodedPixels,ImageId,comment\n1 5,a,"see\n-1,b\n"\n', 2),
        (f'{HEADER}"a;1 5\nb;-1\nc;-1"\nd,-1\n', 2),
        (f'{HEADER}a,"1 5\nb\t-1\nc\t-1"\nd,-1\n', 2),
        (f'{HEADER}x,-1\n"a\t1 5\nb\t3 4"\n', 3),
        ('a,"1 5\nb;-1"\n', 1),  # no header
        (f'{NOTES}a,1 5,"\nb,-1",x\nc,-1,\n', 2),  # nothing but the row
        (f'{NOTES}a,1 5,\nb,3 4,"\n\nc,-1\n\n"\n', 3),
    ],
)
def test_rows_within_quotes_are_never_lost(tmp_path: Path, text: str, first: int) -> None:
    """The error names the line where the quote opens, for any number of cells and any delimiter."""
    refused(tmp_path, text, f'row {first}: a quote (") opens here and closes in row ')


@pytest.mark.parametrize(
    "comment",
    [
        "seen by A, B;\nsize: 5, 6",
        "left, apical,\nabout 12 mm, see 3\n\nA. Nonymous; 2019",
        "first:\n\tsecond, third\n-1 is not meant\n5 6",
        "one\nleft lung, 5, apical",
        "12, 13\n14, 15",
        "\nseen\n",
    ],
)
def test_prose_of_several_lines_is_a_comment(tmp_path: Path, comment: str) -> None:
    after = read(tmp_path, f'{NOTES}a,1 5,"{comment}"\nb,-1,\n')
    lines = comment.count("\n")
    assert after.rows == (TableRow(2, "a", "1 5"), TableRow(3 + lines, "b", "-1"))
    before = read(tmp_path, f'comment,ImageId,EncodedPixels\n"{comment}",a,1 5\n,b,-1\n')
    assert before.rows == after.rows
    assert read(tmp_path, f'ImageId,EncodedPixels,"{comment}"\na,1 5,\n').rows == (
        TableRow(2 + lines, "a", "1 5"),
    )


def test_white_space_of_any_kind_is_between_the_numbers_of_a_mask(tmp_path: Path) -> None:
    found = read(tmp_path, f'{HEADER}a,"1\t5\n2\t3 4 5 6\n\t7\t8"\nb,-1\n')
    assert found.rows == (TableRow(2, "a", "1\t5\n2\t3 4 5 6\n\t7\t8"), TableRow(5, "b", "-1"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize(
    ("first", "delimiter"),
    [
        ("sep=;", ";"),
        ("sep=,", ","),
        ("sep=\t", "\t"),
        (r"sep=\t", "\t"),
        ('"sep=;"', ";"),
        ("SEP=;;", ";"),
        ("\ufeffsep=,,", ","),
        ("\ufeff\n sep=;", ";"),
    ],
)
def test_a_first_line_of_excel_names_the_delimiter(
    tmp_path: Path, first: str, delimiter: str, end: str
) -> None:
    lines = [*first.split("\n"), f"ImageId{delimiter}EncodedPixels", f"a{delimiter}1 5", f"b{delimiter}-1"]
    found = read(tmp_path, end.join(lines))
    last = len(lines)
    assert found.delimiter == delimiter
    assert found.separator_line == last - 3
    assert found.header == ("ImageId", "EncodedPixels")
    assert found.rows == (TableRow(last - 1, "a", "1 5"), TableRow(last, "b", "-1"))
    headless = read(tmp_path, end.join([*lines[:-3], *lines[-2:]]))
    assert headless.header is None
    assert [cells.image_id for cells in headless.rows] == ["a", "b"]


def test_only_a_first_line_names_a_delimiter(tmp_path: Path) -> None:
    refused(
        tmp_path, "\nsep=|\nImageId|EncodedPixels\na|-1\n", "row 2: the delimiter '|' is none of , ; and tab"
    )
    found = read(tmp_path, f"{HEADER}sep=;,-1\n")
    assert (found.rows, found.separator_line) == ((TableRow(2, "sep=;", "-1"),), None)


@pytest.mark.parametrize(
    ("text", "delimiter", "width"),
    [
        ("ImageId;EncodedPixels;weight, kg\na;1 5;70,5\nb;-1;\n", ";", 3),
        ("weight, kg; height, m;ImageId;EncodedPixels\n70,5;1,8;a;1 5\n;;b;-1\n", ";", 4),
        ("ImageId\tEncodedPixels\tage; weight, kg\na\t1 5\t\nb\t-1\t\n", "\t", 3),
        ('"weight; kg",ImageId,EncodedPixels\n"7;5",a,1 5\n,b,-1\n', ",", 3),
        ("a;1 5\nb;-1\n", ";", None),
        ("a\t1 5\nb\t-1\n", "\t", None),
    ],
)
def test_the_delimiter_is_what_makes_cells_of_the_names(
    tmp_path: Path, text: str, delimiter: str, width: int | None
) -> None:
    found = read(tmp_path, text)
    assert found.delimiter == delimiter
    assert width == (None if found.header is None else len(found.header))
    assert [(cells.image_id, cells.text) for cells in found.rows] == [("a", "1 5"), ("b", "-1")]


def test_ids_with_a_delimiter_of_others_in_them(tmp_path: Path) -> None:
    found = read(tmp_path, "Doe, John;1 5\nRoe, Jane;-1\n")
    assert [cells.image_id for cells in found.rows] == ["Doe, John", "Roe, Jane"]


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("a,\u22121", "'\u2212' is no ASCII minus: write -1"),
        ('"a,1 5"', "the whole row is in quotes: remove them"),
        ('"ImageId,EncodedPixels"', "the whole row is in quotes: remove them"),
        ("\u201cImageId\u201d,\u201cEncodedPixels\u201d", 'are not ": remove them'),
        ("'a','1 5'", "these quotes, ' and ', are not \": remove them"),
    ],
)
def test_a_first_row_that_is_none_is_explained(tmp_path: Path, first: str, why: str) -> None:
    refused(tmp_path, f"{first}\nb,-1\n", "row 1: not an id and an encoding", why)


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """A pipe without a writer is reported on stderr, and then read once."""
    os.mkfifo(tmp_path / "t.csv")
    code = (
        "import sys; from pathlib import Path; from data.annotations.table import read_table\n"
        "print([row.image_id for row in read_table(Path(sys.argv[1]), 'truth', '').rows])"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "t.csv")]
    reader = subprocess.Popen(
        words, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    try:
        assert reader.stderr is not None
        said = reader.stderr.readline()  # comes before there is a writer
        assert (
            said == f"waiting for something to write the truth into {tmp_path / 't.csv'}, which is a pipe\n"
        )
        (tmp_path / "t.csv").write_text(f"{HEADER}a,-1\nb,1 2\n")
        assert reader.communicate(timeout=60) == ("['a', 'b']\n", "")
    finally:
        reader.kill()
        reader.wait()
