"""Read the user's CSV: question, answer, context. Whole or not at all, every row accounted for.

Takes what spreadsheets write: UTF-8 with or without BOM, UTF-16 with BOM, cp1251; ``,`` ``;`` or tab; quoted newlines;
further columns. Where the encoding is not certain the file is refused rather than guessed.
"""

import csv
import hashlib
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import InvalidInput
from contracts.retrieval import RowError

if TYPE_CHECKING:
    from _csv import Reader as CsvReader

QA_COLUMNS = ("question", "answer", "context")
MAX_FILE_BYTES = 200_000_000
MAX_CELL_CHARS = 1_000_000
MAX_ERRORS_LISTED = 100
_DELIMITERS = (",", ";", "\t")
# Letters of Russian text with their frequency in 1/100 of a percent, roughly: enough to tell encodings apart.
_FREQUENCIES = (
    "о1090 е850 а800 и740 н670 т630 с550 р470 в450 л440 к350 м320 д300 п280 у260 я200 ы190 ь170 г170 з160 б160 ч140"
    " й120 х100 ж90 ш70 ю60 ц50 щ40 э30 ф30 ъ4 ё20"
)
_LETTERS = {item[0]: int(item[1:]) / 10_000 for item in _FREQUENCIES.split()}
_CSV_ERRORS = {
    "unexpected end": "a quote is opened and never closed",
    "field larger": f"a cell has over {MAX_CELL_CHARS:,} characters",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


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


def parse_table(content: bytes, name: str, required: Sequence[str] = QA_COLUMNS, optional: Sequence[str] = ()) -> Table:
    """Parse a CSV.

    Args:
        content: the file's bytes.
        name: what messages call it.
        required: columns that must be there and filled in every accepted row.
        optional: columns that are taken along where they are there; their cells may be empty.

    Raises:
        InvalidInput: not text, unknown encoding, missing or repeated column, unclosed quote, or no valid row.
    """
    text, encoding = decode(content, name)
    text, declared = _strip_separator_line(text)
    delimiter = declared or _find_delimiter(text, required)
    table = Table(name, encoding, delimiter)
    records = _records(text, delimiter, name)
    header = _header(next(filter(_is_filled, records), []), required, name)
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
    require_rows(table)
    return table


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
    if any(map(_CONTROL.search, cells.values())):
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


def decode(content: bytes, name: str) -> tuple[str, str]:
    """Return the text and its encoding.

    Order: byte order mark, strict UTF-8, then cp1251 where it makes likelier Russian than the other 8-bit encodings.

    Raises:
        InvalidInput: the bytes are not text, or the encoding is none of these.
    """
    if content.startswith(b"PK\x03\x04"):
        raise InvalidInput(f"{name} is a spreadsheet or an archive, not a CSV. In Excel choose Save As, 'CSV UTF-8'.")
    if not content.strip():
        raise InvalidInput(f"{name} is empty.")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16"), "utf-16"
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{name} begins like UTF-16 but is not valid UTF-16. Save it as UTF-8.") from error
    if b"\x00" in content:
        raise InvalidInput(f"{name} is not a text file: it contains zero bytes. A CSV is expected.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _decode_cp1251(content, name), "cp1251"
    controls = len(_CONTROL.findall(text[:100_000]))
    if controls > 9 and controls * 100 > len(text[:100_000]):
        raise InvalidInput(f"{name} is not a text file. A CSV is expected.")
    return text, "utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "utf-8"


def _decode_cp1251(content: bytes, name: str) -> str:
    refusal = f"{name} is neither UTF-8 nor surely Russian text in cp1251"
    advice = "Save it as UTF-8 ('CSV UTF-8' in Excel)."
    try:
        text = content.decode("cp1251")
    except UnicodeDecodeError:
        raise InvalidInput(f"{refusal}. {advice}") from None
    if _CONTROL.search(text):
        raise InvalidInput(f"{refusal}: it has control characters. {advice}")
    sample = content[:200_000]
    likelihoods = {
        name: _russian_likelihood(sample.decode(name, "replace")) for name in ("koi8-r", "cp866", "mac-cyrillic")
    }
    rival = max(likelihoods, key=likelihoods.__getitem__)
    own = _russian_likelihood(text[:200_000])
    foreign = sum(ord(char) > 127 for char in text[:200_000])
    if own - likelihoods[rival] < math.log(20) or own < -6 * foreign:
        raise InvalidInput(f"{refusal}: it could as well be {rival}. {advice}")
    return text


def _russian_likelihood(text: str) -> float:
    """Return the log-likelihood of the non-ASCII characters as Russian: letter frequencies and where capitals stand."""
    total, previous = 0.0, ""
    for char in text:
        if ord(char) > 127:
            lower = char.lower()
            total += math.log(_LETTERS.get(lower, 0.005 if char in "«»—–№…“”„" else 1e-5))
            if char != lower:  # a capital inside a word is what the wrong 8-bit table makes
                total -= 6.0 if previous.isalpha() and previous.islower() else 1.0
        previous = char
    return total


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
    return [cell.strip().strip("\ufeff").lower() for cell in record]


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
