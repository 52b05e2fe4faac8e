"""A source, as its bytes arrive, to the passages that are indexed. Questions and answers are never among them."""

import re
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import PurePath

from contracts.dataset import knowledge_rows
from contracts.encoding import decode
from contracts.errors import InvalidInput
from contracts.retrieval import Receipt, RowError, Unit
from contracts.table import MAX_ERRORS_LISTED, Table, parse_table, take_records
from services.retriever.reading.child import extract
from services.retriever.reading.prose import Paragraph, Splitter, paragraphs_of_markdown, paragraphs_of_text

MAX_NAME_CHARS = 200
MAX_ROW_CHARS = 8_000
"""A row's context is one passage, as its author cut it, unless it is longer than this."""
MAX_PDF_BYTES = 50_000_000
_PASSAGES = uuid.UUID("6d0c7a55-2f0e-5d3b-9a43-5f1d2b8f7e10")
_LATIN = ("iso-8859-1", "iso8859-1", "latin1", "latin-1", "ascii", "us-ascii")
_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w-]+)|<\?xml[^>]+encoding\s*=\s*["']([\w-]+)""", re.I)


@dataclass(frozen=True, slots=True)
class SourcePassage:
    """One passage. The same text has the same ``id`` in every source, process and machine."""

    id: str
    source: str
    place: str
    """Where in the source it stands, such as ``row 3`` or ``Prices › Discounts, paragraph 2``."""
    text: str


@dataclass(slots=True)
class Source:
    """What was read. ``accepted`` has the passage ids of each accepted unit."""

    name: str
    unit: Unit = "row"
    read: int = 0
    rejected: int = 0
    duplicates: int = 0
    errors: list[RowError] = field(default_factory=list)
    accepted: dict[int, list[str]] = field(default_factory=dict)
    passages: dict[str, SourcePassage] = field(default_factory=dict)

    def receipt(self, before: Set[str]) -> Receipt:
        """Return what became of every unit, where the source's passages were ``before``.

        A unit is unchanged where its passages were there already: nothing else of it is indexed.
        """
        unchanged = sum(before >= set(ids) for ids in self.accepted.values())
        return Receipt(
            source=self.name,
            unit=self.unit,
            read=self.read,
            accepted=len(self.accepted) - unchanged,
            rejected=self.rejected,
            duplicates=self.duplicates,
            unchanged=unchanged,
            errors=self.errors,
            passages=len(self.passages),
        )

    def _add(self, number: int, place: str, text: str) -> None:
        """Take a passage of a unit."""
        id = passage_id(text)
        self.accepted.setdefault(number, []).append(id)
        self.passages.setdefault(id, SourcePassage(id, self.name, place, text))


def passage_id(text: str) -> str:
    """Return the UUIDv5 of the text, in which neither the Unicode form nor the kind of white space counts."""
    return str(uuid.uuid5(_PASSAGES, " ".join(unicodedata.normalize("NFC", text).split())))


def read_source(name: str, content: bytes, splitter: Splitter | None = None, encoding: str | None = None) -> Source:
    """Read a file of any supported type into passages.

    Args:
        name: the file's name. A label only, never used as a path.
        content: the file's bytes.
        splitter: cuts prose to the length that the embedding reads.
        encoding: of a text; None finds out, and refuses where that is not certain.

    Raises:
        InvalidInput: the name or the type is not accepted, or the content is refused for a reason that is named.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidInput(f"The file needs a name of 1 to {MAX_NAME_CHARS} printable characters. Rename it.")
    reader = _READERS.get(PurePath(name).suffix.lower())
    if reader is None:
        raise InvalidInput(
            f"{name} is of a type that cannot be indexed. Supported: {', '.join(TABLES)} with a column named context;"
            f" {', '.join(TEXTS)}."
        )
    return reader(name, content, splitter or Splitter(), encoding)


# ---- rows ----


def _read_table(name: str, content: bytes, splitter: Splitter, encoding: str | None) -> Source:
    """A row counts as a duplicate only where its question and answer repeat as well."""
    source = Source(name)
    table = parse_table(content, name, ("context",), ("question", "answer"), encoding)
    _add_table(source, table, splitter)
    return source


def _read_workbook(name: str, content: bytes, splitter: Splitter, encoding: str | None) -> Source:
    """Rows are counted through all sheets. Sheets without a context column are passed over, unless none has one."""
    source = Source(name)
    refusals = []
    for sheet, records in extract(name, ".xlsx", content).sheets.items():
        table = Table(f"{name}, sheet {sheet}", "xlsx", "")
        try:
            take_records(table, _as_wide_as_the_header(records), ("context",), ("question", "answer"))
        except InvalidInput as refusal:
            refusals.append(refusal)
            continue
        _add_table(source, table, splitter, f"sheet {sheet}, ")
    if not source.accepted:
        raise refusals[0] if refusals else InvalidInput(f"{name} has no valid row ({source.read} read).")
    return source


def _as_wide_as_the_header(records: list[list[str]]) -> Iterator[list[str]]:
    """Yield rows with the empty cells that a sheet has at their ends, which are not stored; longer ones as they are."""
    width = next(filter(None, map(len, records)), 0)
    for record in records:
        yield record + [""] * (width - len(record))


def _add_table(source: Source, table: Table, splitter: Splitter, where: str = "") -> None:
    first = source.read
    source.read += table.read
    source.rejected += table.rejected
    source.duplicates += table.duplicates
    source.errors += [error.model_copy(update={"row": first + error.row}) for error in table.errors]
    for row in table.rows:
        _add_row(source, first + row.number, f"{where}row {row.number}", row.context, splitter)


def _add_row(source: Source, number: int, place: str, text: str, splitter: Splitter) -> None:
    parts = [text] if len(text) <= MAX_ROW_CHARS else splitter.split(text)
    for n, part in enumerate(parts, 1):
        source._add(number, place if len(parts) == 1 else f"{place}, part {n}", part)


def _read_records(name: str, content: bytes, splitter: Splitter, encoding: str | None) -> Source:
    """JSON and Parquet: a row may hold several passages, as MS MARCO's do."""
    source = Source(name)
    seen: set[tuple[str, ...]] = set()
    is_parquet = PurePath(name).suffix.lower() == ".parquet"
    rows = extract(name, ".parquet", content).rows if is_parquet else knowledge_rows(content, name, encoding)
    for number, texts in enumerate(rows, 1):
        source.read += 1
        if isinstance(texts, str):
            source.rejected += 1
            if len(source.errors) < MAX_ERRORS_LISTED:
                source.errors.append(RowError(row=number, reason=texts))
        elif tuple(texts) in seen:
            source.duplicates += 1
        else:
            seen.add(tuple(texts))
            for n, text in enumerate(texts, 1):
                place = f"row {number}" if len(texts) == 1 else f"row {number}, passage {n}"
                _add_row(source, number, place, text, splitter)
    if not source.accepted:
        first = f" The first reason: row {source.errors[0].row}: {source.errors[0].reason}." if source.errors else ""
        raise InvalidInput(f"{name} has no valid row ({source.read} read).{first}")
    return source


# ---- prose ----


def _read_text(name: str, content: bytes, splitter: Splitter, encoding: str | None) -> Source:
    return _of_prose(name, paragraphs_of_text(decode(content, name, encoding)[0]), splitter)


def _read_markdown(name: str, content: bytes, splitter: Splitter, encoding: str | None) -> Source:
    return _of_prose(name, paragraphs_of_markdown(decode(content, name, encoding)[0]), splitter)


def _read_html(name: str, content: bytes, splitter: Splitter, encoding: str | None) -> Source:
    if encoding is None and (declared := _CHARSET.search(content[:4096])):
        try:
            content.decode("utf-8")  # as it then is, whatever is declared
        except UnicodeDecodeError:
            encoding = (declared[1] or declared[2]).decode()
            if encoding.lower() in _LATIN:
                encoding = "cp1252"  # as browsers do: https://encoding.spec.whatwg.org/#names-and-labels
    text, _ = decode(content, name, encoding)
    return _of_prose(name, extract(name, ".html", text.encode()).paragraphs, splitter)


def _read_docx(name: str, content: bytes, splitter: Splitter, encoding: str | None) -> Source:
    return _of_prose(name, extract(name, ".docx", content).paragraphs, splitter)


def _read_pdf(name: str, content: bytes, splitter: Splitter, encoding: str | None) -> Source:
    """A page is a unit, and no passage goes over its end, so that a passage's place is its page."""
    if len(content) > MAX_PDF_BYTES:
        raise InvalidInput(f"{name} is larger than {MAX_PDF_BYTES // 1_000_000} MB. Split it.")
    found = extract(name, ".pdf", content)
    source = Source(
        name, "page", read=found.units, rejected=len(found.rejected), errors=found.rejected[:MAX_ERRORS_LISTED]
    )
    _add_prose(source, found.paragraphs, splitter)
    return source


def _of_prose(name: str, paragraphs: Sequence[Paragraph], splitter: Splitter) -> Source:
    source = Source(name, "paragraph", read=len(paragraphs))
    _add_prose(source, paragraphs, splitter)
    return source


def _add_prose(source: Source, paragraphs: Sequence[Paragraph], splitter: Splitter) -> None:
    """A unit all of whose passages were there before it, in this source, is a duplicate."""
    new: set[int] = set()
    for piece in splitter.pieces(paragraphs, by_unit=source.unit == "page"):
        first, last = piece.units[0], piece.units[-1]
        numbers = f"{source.unit} {first}" if first == last else f"{source.unit}s {first}-{last}"
        place = ", ".join(filter(None, (" › ".join(piece.headings)[:200], numbers)))
        is_new = passage_id(piece.text) not in source.passages
        for unit in set(piece.units):
            source._add(unit, place, piece.text)
            if is_new:
                new.add(unit)
    for unit in source.accepted.keys() - new:
        del source.accepted[unit]
        source.duplicates += 1
    if not source.accepted:
        first_reason = f" The first reason: {source.errors[0].reason}." if source.errors else ""
        raise InvalidInput(f"{source.name} has no text that could be indexed.{first_reason}")


_Reader = Callable[[str, bytes, Splitter, str | None], Source]
_ROW_READERS: dict[str, _Reader] = {
    ".csv": _read_table, ".tsv": _read_table, ".xlsx": _read_workbook, ".json": _read_records,
    ".jsonl": _read_records, ".ndjson": _read_records, ".parquet": _read_records,
}  # fmt: skip
_PROSE_READERS: dict[str, _Reader] = {
    ".txt": _read_text, ".md": _read_markdown, ".html": _read_html, ".htm": _read_html, ".docx": _read_docx,
    ".pdf": _read_pdf,
}  # fmt: skip
_READERS = _ROW_READERS | _PROSE_READERS
TABLES, TEXTS = tuple(_ROW_READERS), tuple(_PROSE_READERS)
"""The types that are read, by their suffixes."""
