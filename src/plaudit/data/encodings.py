"""The text in a file: UTF-8, UTF-16 with a byte order mark, or a Windows code page."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from plaudit.data.files import Source, reading
from plaudit.errors import DataError

_BLOCK = 1 << 20
_CYRILLIC, _CYRILLIC_SMALL = range(0xC0, 0x100), range(0xE0, 0x100)  # of code page 1251


def encoding_of(source: Source) -> str:
    """The encoding of a file, for Python.

    Raises:
        DataError: the file is empty, has a NUL character, or is not text.
    """
    with reading(source.name), source.open() as file:
        start = file.read(4)
        utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if utf16 else "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)()
        line, at, blank, block = 1, 0, True, start
        while True:
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                pending = len(error.object) - len(block)  # bytes that the decoder had kept
                bad = at + error.start - pending
                where = f"line {line + block.count(bytes([10]), 0, max(0, error.start - pending))}: byte {bad}"
                break
            if "\0" in text:
                line += text.count("\n", 0, text.index("\0"))
                raise DataError(f"{source.name}, line {line}: has a NUL character; save the file as UTF-8 text")
            blank = blank and not text.strip()
            if not block:
                if blank:
                    raise DataError(f"{source.name}: the file is empty")
                return encoding
            line, at = line + text.count("\n"), at + len(block)
            block = file.read(_BLOCK)
    if encoding == "utf-8" and (page := _code_page(source)):
        return page
    found = "UTF-16, although it begins like it" if utf16 else "UTF-8"
    raise DataError(f"{source.name}, {where} is not {found}; save the file as UTF-8")


def encoding_of_texts(source: Source) -> tuple[str, int]:
    """The code page of those files of a folder of texts that are not UTF-8, and how many these are.

    Raises:
        DataError: they are in no code page that is read.
    """
    count, raw = 0, b""
    with reading(source.name):
        for _, opened in source.texts:
            with opened() as file:
                content = file.read()
            try:
                content.decode()
            except UnicodeDecodeError:
                count += 1
                raw += content if len(raw) < 16 * _BLOCK else b""
    page = code_page(raw) if count else ""
    if count and not page:
        raise DataError(f"{source.name}: {count} files are neither UTF-8 nor in a code page; save them as UTF-8")
    return page, count


def _code_page(source: Source) -> str:
    with source.open() as file:
        return code_page(file.read(16 * _BLOCK))


def code_page(raw: bytes) -> str:
    """cp1251 if most letters are Cyrillic in it, cp1252 if most are ASCII; "" if it is neither, or damaged UTF-8."""
    text = raw.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    if sum(1 for c in text if c > "\x7f") - broken >= broken or b"\0" in raw:
        return ""
    high = [byte for byte in raw if byte > 0x7F]
    letters = sum(1 for byte in raw if chr(byte).isalpha() and byte < 0x80)
    cyrillic = sum(1 for byte in high if byte in _CYRILLIC)
    if cyrillic > letters and cyrillic > 0.8 * len(high):
        return "cp1251" if sum(1 for byte in high if byte in _CYRILLIC_SMALL) > cyrillic / 2 else ""
    if len(high) > letters or re.search(rb"[\x01-\x08\x0e-\x1a]", raw):
        return ""
    return "cp1252" if not set(high) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1"


@dataclass(frozen=True)
class Text:
    """The text of a source, line by line."""

    source: Source
    encoding: str

    def open(self, newline: str) -> Any:
        """A context that gives the text as a file."""
        return _Decoded(self.source, self.encoding, newline)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Lines that are not blank, with their numbers. Only line feeds end a line, not U+2028 and others."""
        with self.open("\n") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n").removesuffix("\r")


class _Decoded:
    def __init__(self, source: Source, encoding: str, newline: str) -> None:
        self.context, self.how = source.open(), (encoding, newline)

    def __enter__(self) -> io.TextIOWrapper:
        encoding, newline = self.how
        self.file = io.TextIOWrapper(self.context.__enter__(), encoding=encoding, newline=newline)
        return self.file

    def __exit__(self, *problem: Any) -> None:
        self.file.detach()
        self.context.__exit__(*problem)
