"""Read the user's CSV: question, answer, context. Whole or not at all, every row accounted for.

Takes what spreadsheets write: UTF-8 with or without BOM, UTF-16 with BOM, cp1251; ``,`` ``;`` or tab; quoted newlines;
further columns. Where the encoding is not certain the file is refused rather than guessed.
"""

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.encoding import CONTROL, decode
from contracts.errors import InvalidInput
from contracts.retrieval import RowError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

QA_COLUMNS = ("question", "answer", "context")
MAX_FILE_BYTES = 200_000_000
MAX_CELL_CHARS = 1_000_000
MAX_ERRORS_LISTED = 100
_RUSSIAN_COLUMNS = {"вопрос": "question", "ответ": "answer", "контекст": "context"}
_DELIMITERS = (",", ";", "\t")
_CSV_ERRORS = {
    "unexpected end": "a quote is opened and never closed",
    "field larger": f"a cell has over {MAX_CELL_CHARS:,} characters",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One accepted row. ``number`` counts the file's data rows from 1; ``cells`` holds the asked columns, stripped."""

    number: int
    cells: dict[str, str]

    @property
    def question(self) -> str:
        return self.cells["question"]

    @property
    def answer(self) -> str:
        return self.cells.get("answer", "")

    @property
    def context(self) -> str:
        return self.cells.get("context", "")


@dataclass(slots=True)
class Table:
    """A file that was read. ``read == len(rows) + rejected + duplicates``."""

    name: str
    encoding: str
    delimiter: str
    read: int = 0
    rejected: int = 0
    duplicates: int = 0
    rows: list[Row] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    """The first rejected rows with their reasons, at most ``MAX_ERRORS_LISTED``."""

    @property
    def sha256(self) -> str:
        """Digest of the accepted rows in order; the file's encoding and delimiter do not matter."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(json.dumps(row.cells, ensure_ascii=False, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    def summary(self) -> str:
        """Return the one line that is always printed after reading."""
        return (
            f"{self.name}: {self.read} rows read = {len(self.rows)} accepted + {self.rejected} rejected"
            f" + {self.duplicates} duplicates ({self.encoding}, delimiter {self.delimiter!r})"
        )

    def reject(self, number: int, reason: str) -> None:
        """Count a row that is not taken."""
        self.rejected += 1
        if len(self.errors) < MAX_ERRORS_LISTED:
            self.errors.append(RowError(row=number, reason=reason))


def read_table(path: Path, required: Sequence[str] = QA_COLUMNS, optional: Sequence[str] = ()) -> Table:
    """Read a file; see :func:`parse_table`.

    Raises:
        InvalidInput: the file cannot be opened, or is refused for a reason that the message names.
    """
    return parse_table(read_bytes(path), path.name, required, optional)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of at most ``MAX_FILE_BYTES``.

    Raises:
        InvalidInput: the file cannot be opened, or is larger.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{path.name} is larger than {MAX_FILE_BYTES // 1_000_000} MB. Split it.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"Cannot read {path}: {error.strerror or error}.") from error


def parse_table(
    content: bytes,
    name: str,
    required: Sequence[str] = QA_COLUMNS,
    optional: Sequence[str] = (),
    encoding: str | None = None,
) -> Table:
    """Parse a CSV. Its header may be in Russian: Вопрос, Ответ, Контекст.

    Args:
        content: the file's bytes.
        name: what messages call it.
        required: columns that must be there and filled in every accepted row.
        optional: columns that are taken along where they are there; their cells may be empty.
        encoding: what the bytes are encoded in; None finds out.

    Raises:
        InvalidInput: not text, unknown encoding, missing or repeated column, unclosed quote, or no valid row.
    """
    text, encoding = decode(content, name, encoding)
    text, declared = _strip_separator_line(text)
    delimiter = declared or _find_delimiter(text, required)
    table = Table(name, encoding, delimiter)
    take_records(table, _records(text, delimiter, name), required, optional)
    require_rows(table)
    return table


def take_records(
    table: Table, records: Iterator[list[str]], required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Sort the records of a table into accepted, rejected and duplicates; the first filled one is the header.

    Raises:
        InvalidInput: a column is missing or repeated.
    """
    header = _header(next(filter(_is_filled, records), []), required, table.name)
    wanted = [*required, *(column for column in optional if column in header)]
    seen: set[tuple[str, ...]] = set()
    for record in records:
        if not _is_filled(record):
            continue  # a blank line, as Excel leaves at the end; not a row
        table.read += 1
        if len(record) != len(header):
            table.reject(table.read, f"{len(record)} cells where the header has {len(header)}")
            continue
        cells = dict(zip(header, record, strict=True))
        take_row(table, {column: cells[column] for column in wanted}, required, seen)


def take_row(table: Table, cells: dict[str, str], required: Sequence[str], seen: set[tuple[str, ...]]) -> bool:
    """Sort the row that was just read into accepted, rejected or duplicate; return whether it was accepted.

    Args:
        cells: the columns that are kept, as they were read.
        required: the columns that must be filled.
        seen: the rows before it, for this function alone.
    """
    cells = {column: unicodedata.normalize("NFC", cell.strip()) for column, cell in cells.items()}
    empty = [column for column in required if not cells[column]]
    if empty:
        table.reject(table.read, f"empty {', '.join(empty)}")
        return False
    if any(map(CONTROL.search, cells.values())):
        table.reject(table.read, "a control character, as binary data has")
        return False
    key = tuple(" ".join(cell.split()) for cell in cells.values())
    if key in seen:
        table.duplicates += 1
        return False
    seen.add(key)
    table.rows.append(Row(table.read, cells))
    return True


def require_rows(table: Table, why: str = "") -> None:
    """Refuse a file of which no row was accepted; ``why`` is told instead of the first reason.

    Raises:
        InvalidInput: there is none.
    """
    if not table.rows:
        first = f"The first reason: row {table.errors[0].row}: {table.errors[0].reason}." if table.errors else ""
        raise InvalidInput(f"{table.name} has no valid row ({table.read} read). {why or first}".rstrip())


def _strip_separator_line(text: str) -> tuple[str, str | None]:
    """Excel's ``sep=;`` first line names the delimiter."""
    match = re.match(r"sep=([,;\t])\r?\n", text)
    return (text[match.end() :], match.group(1)) if match else (text, None)


def _find_delimiter(text: str, required: Sequence[str]) -> str:
    """Return the delimiter under which the header, the first record, has the most of the required columns."""
    head = text[: 4 * MAX_CELL_CHARS]

    def found(delimiter: str) -> tuple[int, int]:
        try:
            names = _names(next(filter(_is_filled, _reader(head, delimiter, strict=False)), []))
        except csv.Error:
            return -1, 0  # where it is so under every delimiter, reading the records says why
        return sum(column in names for column in required), len(names)

    return max(_DELIMITERS, key=found)


def _is_filled(record: list[str]) -> bool:
    return any(cell.strip() for cell in record)


def _names(record: list[str]) -> list[str]:
    names = [cell.strip().strip("\ufeff").lower() for cell in record]
    return [_RUSSIAN_COLUMNS.get(name, name) for name in names]


def _header(record: list[str], required: Sequence[str], name: str) -> list[str]:
    header = _names(record)
    missing = [column for column in required if column not in header]
    if missing:
        there = ", ".join(column for column in header if column)[:200] or "nothing"
        raise InvalidInput(
            f"{name} lacks the column {', '.join(missing)}: its first row has {there}."
            f" Expected: {', '.join(required)}, separated by a comma, a semicolon or a tab."
        )
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        raise InvalidInput(f"{name} has the column {', '.join(repeated)} more than once.")
    return header


def _records(text: str, delimiter: str, name: str) -> Iterator[list[str]]:
    """Yield the records; a quote that is never closed, or closed in mid-cell, is an error with its line."""
    reader = _reader(text, delimiter, strict=True)
    count, start = -1, 1
    while True:
        start = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = next((plain for theirs, plain in _CSV_ERRORS.items() if theirs in str(error)), str(error))
            raise InvalidInput(f"{name}, row {max(count + 1, 0)} (line {start}): {what}. Nothing was read.") from error
        count += _is_filled(record)
        yield record


def _reader(text: str, delimiter: str, strict: bool) -> "CsvReader":
    """Return a reader with our limit of a cell; the csv module's own is one for the whole process."""
    csv.field_size_limit(MAX_CELL_CHARS)
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict)
