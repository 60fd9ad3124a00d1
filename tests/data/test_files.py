from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from plaudit.data.files import files_below as data_files
from plaudit.data.formats import read

Refused = Callable[[Callable[[], object]], str]
Write = Callable[[str, "str | bytes"], Path]


def rows(path: Path) -> list[tuple[int, dict[str, object]]]:
    return list(read(path).rows)


def test_tsv_has_no_quoting(write: Write) -> None:
    path = write("t.tsv", 'sentence\tlabel\n"half a quote \t1\nsay "x" \t0\n')
    assert rows(path) == [
        (2, {"sentence": '"half a quote ', "label": "1"}),
        (3, {"sentence": 'say "x" ', "label": "0"}),
    ]


def test_csv_has_quoting_and_the_line_of_a_row_is_its_first(write: Write) -> None:
    path = write("t.csv", 'text,label\r\n"one, ""two""\nthree",1\r\nfour,0\r\n')
    assert rows(path) == [
        (2, {"text": 'one, "two"\nthree', "label": "1"}),
        (4, {"text": "four", "label": "0"}),
    ]


def test_jsonl(write: Write) -> None:
    path = write("t.jsonl", '{"Text": "x", "label": true}\n\n{"text": "y", "label": 0}\n')
    assert rows(path) == [(1, {"text": "x", "label": True}), (3, {"text": "y", "label": 0})]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"Sentence": ["x", None], "label": [1, 0]}), path)
    table = read(path)
    assert (table.unit, table.columns) == ("row", ("sentence", "label"))
    assert list(table.rows) == [(1, {"sentence": "x", "label": 1}), (2, {"sentence": None, "label": 0})]


def test_a_byte_order_mark_windows_line_ends_and_upper_case_columns_are_read(write: Write) -> None:
    path = write("t.tsv", b"\xef\xbb\xbf Text\tLABEL\r\nx\t1\r\n\r\n")
    assert rows(path) == [(2, {"text": "x", "label": "1"})]


def test_only_line_feeds_end_a_line(write: Write) -> None:
    odd = "one\x85two\u2028three\x0cfour"
    assert rows(write("t.tsv", f"text\tlabel\n{odd}\t1\n")) == [(2, {"text": odd, "label": "1"})]
    assert rows(write("t.jsonl", '{"text": "one\u2028two"}\n')) == [(1, {"text": "one\u2028two"})]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.tsv", "text\tlabel\n{}\t1\n"), ("t.csv", 'text,label\n"{}",1\n'), ("t.jsonl", '{{"text": "{}"}}\n')],
)
def test_a_million_characters_in_a_field_are_read(name: str, content: str, write: Write) -> None:
    path = write(name, content.format("word " * 200_000))
    before = csv.field_size_limit(131_072)  # Python's default
    try:
        assert rows(path)[0][1]["text"] == "word " * 200_000
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "", "t.tsv: the file is empty"),
        ("t.jsonl", " \n\n", "t.jsonl: the file is empty"),
        ("t.tsv", "text\tlabel\n\n", "t.tsv: no rows below the header"),
        ("t.csv", "text,label\n", "t.csv: no rows below the header"),
        ("t.tsv", "text\tlabel\nx\t1\ny\n", "t.tsv, line 3: 1 cells, but the header has 2"),
        ("t.csv", 'text,label\n"x\ny",1\nz,1,2\n', "t.csv, line 4: 3 cells, but the header has 2"),
        ("t.csv", 'text,label\nx,1\n"never closed,1\n', "t.csv, line 3: not CSV: unexpected end of data"),
        ("t.tsv", "text\tText\nx\ty\n", "t.tsv: two columns have the name 'text'; rename one"),
        ("t.tsv", b"text\tlabel\nfine\t1\ncaf\xe9\t0\n", "t.tsv, line 3: byte 21 is not UTF-8; save the file as UTF-8"),
        ("t.tsv", b"\xef\xbb\xbftext\n\xff\n", "t.tsv, line 2: byte 8 is not UTF-8; save the file as UTF-8"),
        ("t.jsonl", '{"text": "x"}\n{"text": \n', "t.jsonl, line 2: not JSON: "),
        ("t.jsonl", '{"text": "x"}\n["x"]\n', "t.jsonl, line 2: ['x'] is not an object"),
        ("t.jsonl", "[" * 100_000, "t.jsonl, line 1: not JSON: "),
        ("t.jsonl", '{\n "text": "x"\n}\n', "t.jsonl, line 1: not JSON: "),
        ("t.jsonl", '{"text": "x", "text": "y"}\n', "t.jsonl, line 1: not JSON: two values for 'text'"),
        ("t.jsonl", '{"a": 1}\n{"text": "x", "Text ": "y"}\n', "t.jsonl, line 2: two columns have the name 'text'"),
        ("t.json", "[]", "t.json: no rows"),
        ("t.json", '[{"text": "x"}, 5]', "t.json, item 2: 5 is not an object"),
        ("t.json", '{"data": 1', "t.json, line 1: not JSON: "),
        ("t.csv", "text,label\nx\0,1\n", "t.csv, line 2: has a NUL character"),
        ("t.tsv", "text\tlabel\n".encode("utf-16-le"), "t.tsv, line 1: has a NUL character"),
        ("t.csv", b"\xff\xfet\x00e\x00x", "t.csv, line 1: byte 6 is not UTF-16"),
        ("t.parquet", "text", "t.parquet: cannot be read as parquet: "),
    ],
)
def test_bad_files_are_refused(name: str, content: str | bytes, message: str, write: Write, refused: Refused) -> None:
    path = write(name, content)
    assert refused(lambda: read(path)).startswith(f"{path.parent}/{message}")


def test_a_missing_file_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert refused(lambda: read(tmp_path / "no.tsv")).endswith("no.tsv: cannot be read: No such file or directory")
    refused(lambda: read(tmp_path / "no.parquet"))


def test_a_folder_gives_its_data_files_by_name(write: Write, tmp_path: Path) -> None:
    for name in ("b.tsv", "a.JSONL", "README.md", ".hidden.tsv", "sub/c.tsv"):
        write(name, "")
    assert [p.name for p in data_files(tmp_path)] == ["a.JSONL", "b.tsv"]


def test_a_folder_without_data_files_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert "no data files" in refused(lambda: data_files(tmp_path))


def test_a_file_of_another_format_is_refused(write: Write, refused: Refused) -> None:
    message = refused(lambda: data_files(write("t.txt", "x")))
    assert "ends in .tsv, .csv, .jsonl, .json, .parquet" in message
    assert "chosen and rejected" in message


def test_the_files_of_a_folder_without_data_are_named(write: Write, tmp_path: Path, refused: Refused) -> None:
    write("README.md", "x")
    write("data/train.csv", "x")
    assert "found 'README.md', 'data'" in refused(lambda: data_files(tmp_path))


TABLE = [(2, {"text": "one, two", "label": "1"}), (3, {"text": "three; four", "label": "0"})]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark", "utf-16-be with a mark"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_as_spreadsheets_write_it(encoding: str, delimiter: str, end: str, write: Write) -> None:
    rows = [["text", "label", "", ""], ["one, two", "1", "", ""], ["three; four", "0", "", ""], [""] * 4, [" "] * 9, []]
    text = end.join(delimiter.join(f'"{cell}"' if cell[1:] else cell for cell in row) for row in rows)
    name = encoding.split(" ")[0]
    path = write("t.csv", ("\ufeff" * (" " in encoding) + text).encode(name))
    assert rows_of(path) == TABLE


def rows_of(path: Path) -> list[tuple[int, dict[str, object]]]:
    table = read(path)
    assert table.columns == ("text", "label")
    return list(table.rows)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_object_of_a_json_file_counts_for_its_columns(place: int, write: Write) -> None:
    lines = ['{"text": "x", "label": 1}'] * 3
    lines[place] = '{"note": "first", "label": 1, "text": "x"}'
    assert set(read(write("t.jsonl", "\n".join(lines))).columns) == {"text", "label", "note"}


def test_a_json_file_holds_a_list_or_lines(write: Write) -> None:
    rows = [(1, {"text": "x"}), (2, {"text": "y"})]
    assert read(write("a.json", '[\n {"text": "x"},\n {"text": "y"}\n]\n')).rows == rows
    assert read(write("b.json", '{"text": "x"}\n{"text": "y"}\n')).rows == rows


def test_label_names_in_parquet_are_used(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for names in (["positive", "negative"], ["fresh", "rotten"]):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        rows = {"text": ["x", "y", "z"], "label": [0, 1, -1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
        assert [values["label"] for _, values in read(tmp_path / "t.parquet").rows] == [*names, -1]
