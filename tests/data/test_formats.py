from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from plaudit.data.files import sources
from plaudit.data.formats import read, table
from plaudit.data.tables import profile
from plaudit.errors import DataError

Refused = Callable[[Callable[[], object]], str]
Write = Callable[[str, "str | bytes"], Path]


def rows(path: Path) -> list[tuple[int, dict[str, object]]]:
    return list(read(path).rows)


rows_of = rows


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


def test_space_around_the_objects_of_jsonl_is_ignored_in_each_reading(write: Write) -> None:
    table = read(write("t.jsonl", '{"text": "x"}\n \t{"Text": "y"}\n{"text": {"b": "z"}} \t\n'))
    for _ in range(3):
        assert list(table.rows) == [(1, {"text": "x"}), (2, {"text": "y"}), (3, {"text": {"b": "z"}})]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"Sentence": ["x", None], "label": [1, 0]}), path)
    table = read(path)
    assert (table.unit, list(profile(table)[0])) == ("row", ["sentence", "label"])
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
        (
            "t.tsv",
            "text\tlabel\né\t1\ncaf".encode() + b"\xe9\t0\n",
            "t.tsv, line 3: byte 19 is not UTF-8; save the file",
        ),
        (
            "t.tsv",
            b"text\tlabel\n\x81\x8d\x90\xfe\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff\t0\n",
            "t.tsv, line 2: byte 11 is not UTF-8",
        ),
        ("t.tsv", b"\xef\xbb\xbftext\n\xff\n", "t.tsv, line 2: byte 8 is not UTF-8; save the file as UTF-8"),
        ("t.jsonl", '{"text": "x"}\n{"text": \n', "t.jsonl, line 2: not JSON: "),
        ("t.jsonl", '{"text": "x"}\n["x"]\n', "t.jsonl, line 2: ['x'] is not an object"),
        ("t.jsonl", '{"text": "x"}\n{"text": "y"} {"text": "z"}\n', "t.jsonl, line 2: not JSON: Extra data"),
        ("t.jsonl", '{"text": "x"}\n  {"text": "y"}, \n', "t.jsonl, line 2: not JSON: Extra data"),
        ("t.jsonl", '{"text": "x"}\n{"a": {"b": 1, "b": 2}}\n', "t.jsonl, line 2: not JSON: two values for 'b'"),
        ("t.jsonl", "[" * 100_000, "t.jsonl, line 1: not JSON: "),
        ("t.jsonl", '{\n "text": "x"\n}\n{"text":\n', "t.jsonl, line 5: not JSON: "),
        ("t.json", '{"a": [{"text": "x"}], "b": [{"text": "y"}]}', "t.json: several lists of rows ('a', 'b')"),
        ("t.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "t.csv: a pointer of Git LFS"),
        ("t.csv.gz", "text,label\n", "t.csv.gz: cannot be read: Not a gzipped file"),
        ("t.zip", "PK\x03\x04", "t.zip: cannot be read as a zip archive"),
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
    assert refused(lambda: list(read(path).rows)).startswith(f"{path.parent}/{message}")


def test_a_missing_file_is_refused(tmp_path: Path, refused: Refused) -> None:
    for name in ("no.tsv", "no.parquet", "no.zip", "no.csv.gz"):
        path = tmp_path / name
        assert refused(lambda path=path: list(read(path).rows)).startswith(f"{path}: cannot be read")


def titles(path: Path, config: str = "") -> list[str]:
    return [source.title for source in sources(path, config)]


def test_a_folder_gives_its_data_files_and_those_of_its_sub_folders(write: Write, tmp_path: Path) -> None:
    for name in ("b.tsv", "a.JSONL", "README.md", "notes.txt", ".hidden.tsv", "sub/c.tsv.gz", ".git/d.tsv"):
        write(name, "")
    write("dataset_info.json", "{}")
    assert titles(tmp_path) == ["a", "b", "sub/c"]


def test_the_files_of_a_folder_without_data_are_named(write: Write, tmp_path: Path, refused: Refused) -> None:
    assert "no data files" in refused(lambda: sources(tmp_path))
    write("README.md", "x")
    write("picture.png", "x")
    assert "found 'README.md', 'picture.png'" in refused(lambda: sources(tmp_path))


TABLE = [(2, {"text": "one, two", "label": "1"}), (3, {"text": "three; four", "label": "0"})]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark", "utf-16-be with a mark"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_as_spreadsheets_write_it(encoding: str, delimiter: str, end: str, write: Write) -> None:
    rows = [["text", "label", "", ""], ["one, two", "1", "", ""], ["three; four", "0", "", ""], [""] * 4, [" "] * 9, []]
    text = end.join(delimiter.join(f'"{cell}"' if cell[1:] else cell for cell in row) for row in rows)
    name = encoding.split(" ")[0]
    path = write("t.csv", ("\ufeff" * (" " in encoding) + text).encode(name))
    assert list(profile(read(path))[0]) == ["text", "label"]
    assert rows_of(path) == TABLE


@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_object_of_a_json_file_counts_for_its_columns(place: int, write: Write) -> None:
    lines = ['{"text": "x", "label": 1}'] * 3
    lines[place] = '{"note": "first", "label": 1, "text": "x"}'
    assert set(profile(read(write("t.jsonl", "\n".join(lines))))[0]) == {"text", "label", "note"}


def test_a_json_file_holds_a_list_or_lines(write: Write) -> None:
    expected = [(1, {"text": "x"}), (2, {"text": "y"})]
    assert rows_of(write("a.json", '[\n {"text": "x"},\n {"text": "y"}\n]\n')) == expected
    assert rows_of(write("b.json", '{"text": "x"}\n{"text": "y"}\n')) == expected
    assert rows_of(write("c.jsonl", '{\n "text": "x"\n}\n{"text":\n "y"}\n')) == expected
    assert rows_of(write("d.json", '{"version": 1, "data": [{"text": "x"}, {"text": "y"}]}')) == expected
    assert rows_of(write("e.json", '{"text": {"0": "x", "1": "y"}, "label": {"0": 0, "1": 1}}')) == [
        (1, {"text": "x", "label": 0}),
        (2, {"text": "y", "label": 1}),
    ]
    conversation = [{"role": "user", "content": "x"}]
    assert rows_of(write("f.json", json.dumps({"messages": conversation}))) == [(1, {"messages": conversation})]


def test_label_names_in_parquet_are_used(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for names in (["positive", "negative"], ["fresh", "rotten"]):
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
        rows = {"text": ["x", "y", "z"], "label": [0, 1, -1]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "t.parquet")
        assert [values["label"] for _, values in read(tmp_path / "t.parquet").rows] == [*names, -1]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.xz"])
def test_packed_files_are_unpacked(name: str, write: Write) -> None:
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[name.rpartition(".")[2]]
    path = write(name, pack(b"text,label\nx,1\n"))
    assert rows(path) == [(2, {"text": "x", "label": "1"})]
    damaged = write(f"b{name}", pack(b"text,label\nx,1\n" * 99)[:-12])
    with pytest.raises(DataError, match=f"^{damaged}: cannot be read"):
        list(read(damaged).rows)


def test_an_archive_is_read_like_the_folder_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("SST-2/train.tsv", "SST-2/dev.tsv", "SST-2/original/README.txt", "__MACOSX/SST-2/._train.tsv"):
            archive.writestr(name, "sentence\tlabel\nfine \t1\n")
    assert titles(path) == ["dev", "train"]
    assert [values for _, values in read(path).rows] == [{"sentence": "fine ", "label": "1"}]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("cp1252", "a café – “très” bon"), ("cp1251", "Хороший фильм, очень добрая история"), ("latin-1", "caf\xe9 \x81")],
)
def test_windows_code_pages(encoding: str, text: str, write: Write) -> None:
    path = write("t.csv", f'text,label\n"{text}",1\n'.encode(encoding))
    assert read(path).encoding == encoding
    assert rows(path) == [(2, {"text": text, "label": "1"})]


@pytest.mark.parametrize(
    ("encoding", "text"), [("cp1252", "a café – “très” bon {}"), ("cp1251", "Хороший фильм, очень добрая история {}")]
)
def test_a_folder_of_texts_names_its_code_page(encoding: str, text: str, write: Write, tmp_path: Path) -> None:
    for label in ("pos", "neg"):
        (tmp_path / label).mkdir()
        for i in range(5):
            write(f"{label}/{i}.txt", text.format(i).encode(encoding if i else "utf-8"))
    table = read(tmp_path)
    assert table.encoding == f"utf-8; {encoding} in 8 of 10 files"
    assert {values["text"] for _, values in table.rows} == {text.format(i) for i in range(5)}


def test_a_folder_of_texts_in_no_encoding_is_refused(write: Write, tmp_path: Path) -> None:
    for label in ("pos", "neg"):
        (tmp_path / label).mkdir()
        write(f"{label}/0.txt", bytes(range(0x80, 0x100)))
    with pytest.raises(DataError, match="2 files are neither UTF-8 nor in a code page; save them as UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("sep=;\ntext;label\na, b;1\n", (3, {"text": "a, b", "label": "1"})),
        ('"1","a film"\n"2","b"\n', (1, {"label": "1", "text": "a film"})),
        ('"2","title","a film"\n"1","t","b"\n', (1, {"label": "2", "title": "title", "text": "a film"})),
        ("a film,0\nb,1\n", (1, {"text": "a film", "label": "0"})),
        (
            '"0","1","Mon","NO_QUERY","ann","a film"\n"4","2","Tue","NO_QUERY","bob","b"\n',
            (1, {"label": "0", "id": "1", "date": "Mon", "query": "NO_QUERY", "user": "ann", "text": "a film"}),
        ),
    ],
)
def test_tables_with_a_delimiter_in_the_first_line_or_without_a_header(
    content: str, expected: tuple[int, dict[str, object]], write: Write
) -> None:
    assert rows(write("t.csv", content))[0] == expected


@pytest.mark.parametrize("name", ["t.txt", "t", "t.data"])
def test_without_a_suffix_the_content_decides(name: str, write: Write) -> None:
    known = frozenset({"text", "label"})

    def first(content: str) -> dict[str, object]:
        return next(iter(table(sources(write(name, content))[0], known).rows))[1]

    assert first('{"text": "x"}\n{"text": "y"}\n') == {"text": "x"}
    assert first("text\tlabel\nx\t1\n") == {"text": "x", "label": "1"}
    assert first("__label__pos a film\n") == {"label": ["pos"], "text": "a film"}
    assert first("a film, a label\nanother\n") == {"text": "a film, a label"}


def test_folders_named_by_labels(write: Write, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("pos", "neg", "unsup"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "0_9.txt").write_text(f"a {label} film\nof two lines")
    (tmp_path / "train" / "labeledBow.feat").write_text("9 0:9")
    found = sources(tmp_path)
    assert [source.title for source in found] == ["test", "train"]
    assert sorted(values["text"] for _, values in table(found[1]).rows) == [
        "a neg film\nof two lines",
        "a pos film\nof two lines",
    ]


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/a-*
  - split: test
    path: ["data/b.csv"]
- config_name: small
  data_files: small.csv
dataset_info:
- config_name: default
  features:
  - name: label
    dtype:
      class_label:
        names:
          '0': positive
          '1': negative
---
# Card
"""


def test_a_clone_of_a_hub_repository_is_read_as_its_card_says(write: Write, tmp_path: Path, refused: Refused) -> None:
    for name in ("data/a-1.csv", "data/a-2.csv", "data/b.csv", "small.csv", "data/other.csv"):
        write(name, "text,label\nx,0\n")
    write("README.md", CARD)
    assert titles(tmp_path) == ["train", "train", "test"]
    assert titles(tmp_path, "small") == ["train"]
    assert next(iter(table(sources(tmp_path)[0]).rows))[1] == {"text": "x", "label": "positive"}
    assert "choose one of: default, small" in refused(lambda: sources(tmp_path, "large"))
    write("README.md", CARD.replace("default", "whole"))
    assert "several configurations: whole, small; choose one with --data.config" in refused(lambda: sources(tmp_path))
    write("README.md", "no card")
    assert titles(tmp_path, "data") == ["data/a-1", "data/a-2", "data/b", "data/other"]
