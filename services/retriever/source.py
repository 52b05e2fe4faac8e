"""A source, as its bytes arrive, to the passages that are indexed. Questions and answers are never among them."""

import re
import unicodedata
import uuid
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from pathlib import PurePath

from contracts.errors import InvalidInput
from contracts.retrieval import Receipt, RowError
from contracts.table import decode, parse_table

TABLES = (".csv", ".tsv")
TEXTS = (".txt", ".md")
MAX_NAME_CHARS = 200
_PASSAGES = uuid.UUID("6d0c7a55-2f0e-5d3b-9a43-5f1d2b8f7e10")
_BLANK_LINES = re.compile(r"\n\s*\n")
_HEADING_ALONE = re.compile(r"^(#{1,6} .+)\n\s*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SourcePassage:
    """One passage. The same text has the same ``id`` in every source, process and machine."""

    id: str
    title: str
    text: str


@dataclass(slots=True)
class Source:
    """What was read. ``rows`` are the passage ids of the accepted rows, one for each."""

    name: str
    read: int
    rejected: int = 0
    duplicates: int = 0
    errors: list[RowError] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    passages: dict[str, SourcePassage] = field(default_factory=dict)

    def receipt(self, before: Set[str]) -> Receipt:
        """Return what became of every row, where the source's passages were ``before``.

        A row is unchanged where its passage was there already: nothing else of it is indexed.
        """
        unchanged = sum(id in before for id in self.rows)
        return Receipt(
            source=self.name,
            read=self.read,
            accepted=len(self.rows) - unchanged,
            rejected=self.rejected,
            duplicates=self.duplicates,
            unchanged=unchanged,
            errors=self.errors,
            passages=len(self.passages),
        )

    def _add(self, rows: Iterable[tuple[str, str]]) -> None:
        for title, text in rows:
            id = passage_id(text)
            self.rows.append(id)
            self.passages.setdefault(id, SourcePassage(id, title, text))


def passage_id(text: str) -> str:
    """Return the UUIDv5 of the text, in which neither the Unicode form nor the kind of white space counts."""
    return str(uuid.uuid5(_PASSAGES, " ".join(unicodedata.normalize("NFC", text).split())))


def read_source(name: str, content: bytes) -> Source:
    """Read a CSV with a ``context`` column, or a text of paragraphs.

    Args:
        name: the file's name. A label only, never used as a path.
        content: the file's bytes.

    Raises:
        InvalidInput: the name or the type is not accepted, or the content is refused for a reason that is named.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise InvalidInput(f"The file needs a name of 1 to {MAX_NAME_CHARS} printable characters. Rename it.")
    suffix = PurePath(name).suffix.lower()
    if suffix in TABLES:
        return _read_table(name, content)
    if suffix in TEXTS:
        return _read_paragraphs(name, content)
    raise InvalidInput(
        f"{name} is of a type that cannot be indexed. Supported: {', '.join(TABLES)} with a column named context,"
        f" and {', '.join(TEXTS)}."
    )


def _read_table(name: str, content: bytes) -> Source:
    """A row counts as a duplicate only where its question and answer repeat as well."""
    table = parse_table(content, name, required=("context",), optional=("question", "answer"))
    source = Source(name, table.read, table.rejected, table.duplicates, table.errors)
    source._add((f"{name}, row {row.number}", row.context) for row in table.rows)
    return source


def _read_paragraphs(name: str, content: bytes) -> Source:
    """Paragraphs are parted by blank lines; a Markdown heading goes with the paragraph under it."""
    text, _ = decode(content, name)
    text = _HEADING_ALONE.sub(r"\1\n", text.replace("\r\n", "\n"))
    paragraphs = [part.strip() for part in _BLANK_LINES.split(text) if part.strip()]
    source = Source(name, read=len(paragraphs))
    once = {passage_id(part): (f"{name}, paragraph {n}", part) for n, part in reversed([*enumerate(paragraphs, 1)])}
    source.duplicates = len(paragraphs) - len(once)
    source._add(reversed(once.values()))
    return source
