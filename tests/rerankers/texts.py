"""Texts that every engine is asked about, whether it reads them in the request or has them in an index."""

from __future__ import annotations

from collections.abc import Iterator

MIXED = (
    "csv.reader returns an object that iterates over the lines of a file",
    "",
    "x",
    "A thread can be joined, which waits for its end.",
    "Der Leser öffnet die Datei und liest Zeile für Zeile.",
    "open(path) " * 40,
)
LONG = tuple(f"long {number} " + "word " * 2_000 for number in range(10))
NON_LATIN = ("如何读取 csv 文件", "Как прочитать файл csv", "كيف أقرأ ملف csv", "🙂🙃" * 20, "ไฟล์ csv", "\u0000\u200b")
MATCHING = "How to read a CSV file: open the file and pass it to csv.reader."
OTHER = "The weather in the mountains changes within minutes."


def indexable() -> Iterator[str]:
    """Those that an index can hold, each once: none that is blank."""
    yield from (text for text in (*MIXED, *LONG, *NON_LATIN, MATCHING, OTHER) if text)
