"""Data files and settings that nobody should have written, made from random numbers."""

from __future__ import annotations

import csv
import io
import json
import random
from typing import Any

from plaudit.config import default_settings

SUFFIXES = (".csv", ".tsv", ".jsonl") * 4 + (".json", ".txt", ".parquet")
LAYOUTS = (
    ("text", "label"), ("sentence", "label"), ("sentence", "label", "idx"), ("text", "rating"), ("prompt", "response"),
    ("prompt", "chosen", "rejected"), ("chosen", "rejected"), ("messages",), ("instruction", "input", "output"),
    ("prompt", "completion", "label"), ("conversations",), ("text",),
)  # fmt: skip
COLUMNS = (
    "text", "sentence", "label", "labels", "rating", "prompt", "response", "chosen", "rejected", "messages",
    "question", "answer", "completion", "score", "idx", "instruction", "input", "output", "conversations", "",
    " ", "Text", "\ufeff",
)  # fmt: skip
_SENTENCES = (
    "a warm and moving film",
    "the cast is dreadful",
    "",
    " ",
    "слово",
    "映画",
    "🎬",
    "\u2028",
    "a\tb",
    'say "x"',
)


def data_file(seed: int) -> tuple[str, bytes]:
    """(suffix, content) of a data file: most are nearly right, some are random bytes."""
    draw = random.Random(f"data {seed}")
    suffix = draw.choice(SUFFIXES)
    if draw.random() < 0.03:
        return suffix, draw.randbytes(draw.randint(0, 2000))
    columns = list(draw.choice(LAYOUTS)) if draw.random() < 0.8 else draw.choices(COLUMNS, k=draw.randint(1, 5))
    odd = draw.choice((0, 0, 0.02, 0.3))  # share of values that do not suit their column
    count = draw.choice((0, 1, 2, 20, 60, 60, 60))
    rows = [{name: _odd(draw) if draw.random() < odd else _value(draw, name) for name in columns} for _ in range(count)]
    text = _as_text(draw, suffix, columns, rows, odd)
    return suffix, _damaged(draw, _encoded(draw, text))


def settings_file(seed: int) -> bytes:
    """A TOML file, or what looks like one."""
    draw = random.Random(f"settings {seed}")
    tables: dict[str, list[str]] = {}
    known = [*default_settings()] * 3 + ["ppo.learning_rate", "sft", "x.y.z", "ppo.kl_coeff"]
    for name in draw.sample(known, 6):
        table, _, key = name.rpartition(".")
        default = default_settings().get(name)
        value = json.dumps(default) if draw.random() < 0.7 and default is not None else _toml_value(draw)
        tables.setdefault(table, []).append(f"{key} = {value}")
    lines = tables.pop("", [])
    for table, own in tables.items():
        lines += [draw.choices((f"[{table}]", f"[[{table}]]", f"['{table}']"), (18, 1, 1))[0], *own]
    if draw.random() < 0.05:
        lines.append(f"deep = {'[' * 5000}{']' * 5000}")
    return _damaged(draw, _encoded(draw, "\n".join(lines)))


def _value(draw: random.Random, name: str) -> Any:
    """A value that suits the column."""
    if name in ("label", "labels", "rating", "score", "idx"):
        return draw.choice((0, 1))
    if name in ("messages", "conversations"):
        return [
            {"role": role, "content": f"{draw.choice(_SENTENCES)} {draw.random()}"} for role in ("user", "assistant")
        ]
    return f"{draw.choice(_SENTENCES)} {draw.randint(0, 10**6)}"


def _odd(draw: random.Random) -> Any:
    return draw.choice((
        None, "", "nan", "NaN", float("nan"), float("inf"), -1, 7, 10**400, 1e308, True, "positive", [], {}, [[]],
        [None], [1, "a"], {"role": "user"}, [{"role": 1, "content": None}], [{"from": "human", "value": 3}],
        {"content": {"content": []}}, "x" * 300_000, "\x00", draw.choice(("\ud800", "a", 3)), "<|endoftext|>", "a\nb",
        "\r", '"', "=1+1",
    ))  # fmt: skip


def _as_text(draw: random.Random, suffix: str, columns: list[str], rows: list[dict[str, Any]], odd: float) -> str:
    if suffix in (".json", ".jsonl") or draw.random() < 0.05:
        lines = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows]
        if draw.random() < 0.05:
            lines.append(draw.choice(("[" * 100_000, "{" * 100_000, '{"a":' * 50_000, "null", "1", '"x"', "[]", "{}")))
        if draw.random() < 0.05:
            lines.append('{"text": 1' + "0" * 5000 + "}")  # Python refuses to read so many digits
        draw.shuffle(lines)
        joins = ("\n".join(lines), f"[{','.join(lines)}]", ",\n".join(lines))
        return draw.choices(joins, (8, 1, 1))[0]
    if suffix == ".txt":
        return "\n".join(str(value) for row in rows for value in row.values())
    out = io.StringIO()
    delimiter = "\t" if suffix == ".tsv" else draw.choice(",,,,,,,,;|")
    writer = csv.writer(
        out,
        delimiter=delimiter,
        quoting=draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)) if delimiter != "\t" else csv.QUOTE_MINIMAL,
    )
    if draw.random() < 0.95:
        writer.writerow(columns)
    for row in rows:
        cells = [row[name] for name in columns]
        if draw.random() < odd / 10:
            cells = cells[:-1] if draw.random() < 0.5 else [*cells, "more"]
        writer.writerow(["" if cell is None else str(cell) if isinstance(cell, int) and cell > 10**300 else cell
                         for cell in cells if cell != 10**400])  # fmt: skip
    return out.getvalue()


def _encoded(draw: random.Random, text: str) -> bytes:
    encoding = draw.choice(
        ("utf-8",) * 40 + ("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "cp1251", "utf-7")
    )
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf-") and encoding != "utf-7" else "replace")


def _damaged(draw: random.Random, content: bytes) -> bytes:
    """The content, in two of ten cases with one fault in its bytes."""
    at = draw.randint(0, len(content))
    fault = draw.random()
    if fault < 0.05:
        return content[:at]
    if fault < 0.1:
        return (
            content[:at]
            + draw.choice((b"\x00", b"\xff", b"\x80", b'"', b"\r", b"\n\n", b"\xef\xbb\xbf", b"\x1a"))
            + content[at:]
        )
    if fault < 0.15:
        return (
            content[:at] + bytes([content[at] ^ 1 << draw.randint(0, 7)]) + content[at + 1 :]
            if at < len(content)
            else b""
        )
    if fault < 0.2:
        return content.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b"")))
    return content


def _toml_value(draw: random.Random) -> str:
    return draw.choice((
        "1", "0", "-1", "0.5", "1e-3", "true", '"cpu"', "'float32'", "nan", "inf", "-inf", "1e400", "9" * 5000, "[]",
        "{}", "1979-05-27", "07:32:00", "0x10", "1_000", '""', '"\\u0000"', "'../x'", "[1, 2]", "{a = 1}", '"""\nx"""',
        "=", "", '"x' , "\x00", "1.0", "2.5", "'1e3'", "'1' ", "# nothing", "'\x1b[31m'", "9223372036854775808",
    ))  # fmt: skip
