"""Data files and settings that nobody should have written, made from random numbers."""

from __future__ import annotations

import csv
import io
import json
import random
from typing import Any

from plaudit.config import default_settings

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet")
COLUMNS = (
    "text", "sentence", "label", "labels", "rating", "prompt", "response", "chosen", "rejected", "messages", "question",
    "answer", "completion", "score", "idx", "instruction", "input", "output", "conversations", "", " ", "Text", "\ufeff",
)  # fmt: skip
_SENTENCES = ("a warm and moving film", "the cast is dreadful", "", " ", "слово", "映画", "🎬", "\u2028", "a\tb", 'say "x"')


def data_file(seed: int) -> tuple[str, bytes]:
    """(suffix, content) of a data file: most are nearly right, some are random bytes."""
    draw = random.Random(f"data {seed}")
    suffix = draw.choice(SUFFIXES)
    if draw.random() < 0.03:
        return suffix, draw.randbytes(draw.randint(0, 2000))
    columns = draw.choices(COLUMNS, k=draw.randint(1, 5)) if draw.random() < 0.5 else draw.sample(COLUMNS, 3)
    rows = [{name: _value(draw, name) for name in columns} for _ in range(draw.choice((0, 1, 2, 20, 20, 60)))]
    text = _as_text(draw, suffix, columns, rows)
    return suffix, _damaged(draw, _encoded(draw, text))


def settings_file(seed: int) -> bytes:
    """A TOML file, or what looks like one."""
    draw = random.Random(f"settings {seed}")
    tables: dict[str, list[str]] = {}
    for name in draw.choices([*default_settings(), "ppo.learning_rate", "sft", "x.y.z", "ppo.kl_coeff"], k=6):
        table, _, key = name.rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {_toml_value(draw)}")
    lines = tables.pop("", [])
    for table, own in tables.items():
        lines += [draw.choice((f"[{table}]", f"[{table}]", f"[[{table}]]", f"['{table}']")), *own]
    if draw.random() < 0.05:
        lines.append(f"deep = {'[' * 5000}{']' * 5000}")
    return _damaged(draw, _encoded(draw, "\n".join(lines)))


def _value(draw: random.Random, name: str) -> Any:
    """A value that may or may not suit the column."""
    if draw.random() < 0.7:
        if name in ("label", "labels", "rating", "score", "idx"):
            return draw.choice((0, 1, 1, 0, 5, "positive", "negative", True))
        if name in ("messages", "conversations"):
            return [{"role": role, "content": draw.choice(_SENTENCES)} for role in ("user", "assistant")]
        return f"{draw.choice(_SENTENCES)} {draw.randint(0, 99)}"
    return draw.choice((
        None, "", "nan", "NaN", float("nan"), float("inf"), -1, 10**400, 1e308, True, [], {}, [[]], [None], [1, "a"],
        {"role": "user"}, [{"role": 1, "content": None}], [{"from": "human", "value": 3}], {"content": {"content": []}},
        "x" * 300_000, "\x00", "\ud800", "<|endoftext|>", "a\nb", "\r", '"', "=1+1", draw.random(),
    ))  # fmt: skip


def _as_text(draw: random.Random, suffix: str, columns: list[str], rows: list[dict[str, Any]]) -> str:
    if suffix in (".json", ".jsonl") or draw.random() < 0.1:
        lines = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows]
        if draw.random() < 0.1:
            lines.append(draw.choice(("[" * 100_000, "{" * 100_000, '{"a":' * 50_000, "null", "1", '"x"', "[]", "{}")))
        if draw.random() < 0.1:
            lines.append('{"text": 1' + "0" * 5000 + "}")  # Python refuses to read so many digits
        draw.shuffle(lines)
        return draw.choice(("\n".join(lines), f"[{','.join(lines)}]", ",\n".join(lines)))
    if suffix == ".txt":
        return "\n".join(str(value) for row in rows for value in row.values())
    out = io.StringIO()
    delimiter = "\t" if suffix == ".tsv" else draw.choice(",,,;|\t")
    writer = csv.writer(out, delimiter=delimiter, quoting=draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    if draw.random() < 0.9:
        writer.writerow(columns)
    for row in rows:
        cells = [row[name] for name in columns]
        if draw.random() < 0.02:
            cells = cells[:-1] if draw.random() < 0.5 else [*cells, "more"]
        writer.writerow(["" if cell is None else str(cell) if isinstance(cell, int) and cell > 10**300 else cell
                         for cell in cells if cell != 10**400])  # fmt: skip
    return out.getvalue()


def _encoded(draw: random.Random, text: str) -> bytes:
    encoding = draw.choice(("utf-8",) * 8 + ("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "cp1251", "utf-7"))
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf-") and encoding != "utf-7" else "replace")


def _damaged(draw: random.Random, content: bytes) -> bytes:
    """The content, in four of ten cases with one fault in its bytes."""
    at = draw.randint(0, len(content))
    fault = draw.random()
    if fault < 0.1:
        return content[:at]
    if fault < 0.2:
        return content[:at] + draw.choice((b"\x00", b"\xff", b"\x80", b'"', b"\r", b"\n\n", b"\xef\xbb\xbf", b"\x1a")) + content[at:]
    if fault < 0.3:
        return content[:at] + bytes([content[at] ^ 1 << draw.randint(0, 7)]) + content[at + 1 :] if at < len(content) else b""
    if fault < 0.4:
        return content.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b"")))
    return content


def _toml_value(draw: random.Random) -> str:
    return draw.choice((
        "1", "0", "-1", "0.5", "1e-3", "true", '"cpu"', "'float32'", "nan", "inf", "-inf", "1e400", "9" * 5000, "[]", "{}",
        "1979-05-27", "07:32:00", "0x10", "1_000", '""', '"\\u0000"', "'../x'", "[1, 2]", "{a = 1}", '"""\nx"""', "=", "",
        '"x' , "\x00", "1.0", "2.5", "'1e3'", "'1' ", "# nothing", "'\x1b[31m'", "9223372036854775808",
    ))  # fmt: skip
