"""PDF, DOCX, XLSX and HTML to paragraphs and rows, in a process of its own (:mod:`services.retriever.reading.child`).

``python -m services.retriever.reading.formats SUFFIX`` reads a file from its standard input and prints an
:class:`Extract` as JSON.
"""

import re
import resource
import sys
import zipfile
from collections.abc import Callable
from datetime import datetime, time
from typing import Any, BinaryIO

from pydantic import BaseModel

from contracts.encoding import CONTROL
from contracts.retrieval import RowError
from services.retriever.reading.prose import Paragraph

CPU_SECONDS = 30
MEMORY_BYTES = 1_500_000_000
MAX_TEXT_BYTES = 200_000_000
"""Of what is printed."""
MAX_UNPACKED_BYTES = 500_000_000
MAX_ENTRIES = 10_000
MAX_PAGES = 5_000
_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
# At the end of a line; PDFium writes U+0002 for the hyphens that it knows to be such.
_HYPHENATED = re.compile(r"(?<=[^\W\d_])(?:[-\u00ad\u2010\ufffe]\n|\x02\n?)(?=[^\W\d_])")
_SPACES = re.compile(r"\s+")
_HEADING_STYLE = re.compile(r"(?:heading|заголовок) (\d)", re.IGNORECASE)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_HIDDEN = {"script", "style", "noscript", "template", "svg", "math", "head", "iframe", "object", "select", "button"}
_INLINE = {
    "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins", "kbd",
    "label", "mark", "q", "rp", "rt", "ruby", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt",
    "u", "var", "wbr",
}  # fmt: skip
_CELLS = {"td", "th"}


class Extract(BaseModel):
    """What was in a file: prose, or the sheets of a workbook by their names."""

    paragraphs: list[Paragraph] = []
    units: int = 0
    """How many there were, with those that hold nothing."""
    rejected: list[RowError] = []
    sheets: dict[str, list[list[str]]] = {}
    refused: str | None = None


class Refused(Exception):
    """Nothing of the file is taken; the message says why and what to do."""


class _Document:
    """Paragraphs as they come, under the headings that came before them."""

    def __init__(self) -> None:
        self.paragraphs: list[Paragraph] = []
        self._headings: list[tuple[int, str]] = []

    def heading(self, level: int, text: str) -> None:
        self._headings = [(own, said) for own, said in self._headings if own < level]
        if text := _SPACES.sub(" ", text).strip():
            self._headings.append((level, text))

    def paragraph(self, text: str) -> None:
        if text := text.strip():
            path = tuple(said for _, said in self._headings)
            self.paragraphs.append(Paragraph(text, len(self.paragraphs) + 1, path))

    def extract(self) -> Extract:
        return Extract(paragraphs=self.paragraphs, units=len(self.paragraphs))


def read_pdf(file: BinaryIO) -> Extract:
    """Return the text layer, page by page. A page without one, as a scan is, is rejected.

    Raises:
        Refused: it needs a password, has too many pages, or is damaged.
    """
    from pypdfium2 import PdfDocument, PdfiumError

    try:
        pdf = PdfDocument(file.read())
    except PdfiumError as error:
        if "password" in str(error).lower():
            raise Refused("needs a password. Take it off and send it again.") from None
        raise Refused("is not a PDF, or is damaged. Save it anew.") from None
    if len(pdf) > MAX_PAGES:
        raise Refused(f"has {len(pdf):,} pages, and {MAX_PAGES:,} are read. Split it.")
    found = Extract(units=len(pdf))
    for number in range(1, len(pdf) + 1):
        try:
            text = str(pdf[number - 1].get_textpage().get_text_bounded())
        except PdfiumError:
            _reject(found, number, "the page is damaged")
            continue
        text = CONTROL.sub("", _HYPHENATED.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
        paragraphs = [part.strip() for part in _BLANK_LINES.split(text) if part.strip()]
        if not paragraphs:
            _reject(found, number, "the page has no text; a scan has to go through text recognition (OCR) first")
        found.paragraphs += [Paragraph(part, number) for part in paragraphs]
    return found


def read_docx(file: BinaryIO) -> Extract:
    """Return the paragraphs and the tables, a table's rows as lines.

    Raises:
        Refused: it is no DOCX, or damaged, or too large when it is unpacked.
    """
    _check_archive(file)
    import docx
    from docx.opc.exceptions import PackageNotFoundError
    from docx.table import Table

    try:
        opened = docx.Document(file)
    except (PackageNotFoundError, KeyError, ValueError, SyntaxError):
        raise Refused("is not a DOCX, or is damaged. Save it anew.") from None
    document = _Document()
    for block in opened.iter_inner_content():
        if isinstance(block, Table):
            rows = [list(dict.fromkeys(cell.text.strip() for cell in row.cells)) for row in block.rows]
            document.paragraph("\n".join(" | ".join(filter(None, cells)) for cells in rows))
            continue
        style = (block.style.name or "") if block.style is not None else ""
        if level := _HEADING_STYLE.match(style):
            document.heading(int(level[1]), block.text)
        elif style == "Title":
            document.heading(0, block.text)
        else:
            document.paragraph(block.text)
    return document.extract()


def read_xlsx(file: BinaryIO) -> Extract:
    """Return the rows of every sheet as text; of a formula what it last came to.

    Raises:
        Refused: it is no XLSX, or damaged, or too large when it is unpacked.
    """
    _check_archive(file)
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
        sheets = {}
        for sheet in book.worksheets:
            sheet.reset_dimensions()  # what a file says of its size need not be so
            sheets[str(sheet.title)] = [[_cell(value) for value in row] for row in sheet.iter_rows(values_only=True)]
    except (InvalidFileException, KeyError, ValueError, TypeError, SyntaxError, OSError):
        raise Refused("is not an XLSX, or is damaged. Save it anew.") from None
    return Extract(sheets=sheets)


def read_html(file: BinaryIO) -> Extract:
    """Return the text that a browser shows, block by block; a table's rows as lines. The bytes are UTF-8."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(file.read())
    document = _Document()
    if (title := tree.css_first("title")) is not None:
        document.heading(0, title.text())
    words: list[str] = []

    def flush() -> None:
        document.paragraph(_SPACES.sub(" ", "".join(words)).strip(" |"))
        words.clear()

    # Entered, and left after its children: without recursion, for elements may stand in each other without end.
    stack: list[tuple[Any, bool]] = [(tree.body or tree.root, True)]
    while stack:
        node, entered = stack.pop()
        if node is None:
            continue
        tag = node.tag
        if tag == "-text":
            words.append(node.text_content or "")
            continue
        if tag in _HIDDEN:
            continue
        if entered:
            if tag not in _INLINE and tag not in _CELLS:
                flush()
            stack.append((node, False))
            stack += [(child, True) for child in reversed(list(node.iter(include_text=True)))]
        elif tag in _HEADINGS:
            document.heading(_HEADINGS[tag], "".join(words))
            words.clear()
        elif tag in _CELLS:
            words.append(" | ")
        elif tag not in _INLINE:
            flush()
    flush()
    return document.extract()


def _check_archive(file: BinaryIO) -> None:
    """
    Raises:
        Refused: the archive is no archive, is encrypted, or would fill the memory.
    """
    start = file.read(8)
    file.seek(0)
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        raise Refused("is encrypted, or of the format of before 2007. Take the password off, or save it anew.")
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise Refused("is not what its name says, or is damaged.") from None
    file.seek(0)
    if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
        raise Refused(f"would unpack to more than {MAX_UNPACKED_BYTES // 1_000_000} MB or {MAX_ENTRIES:,} files.")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time.min:
        return value.date().isoformat()
    return str(value)


def _reject(found: Extract, number: int, reason: str) -> None:
    found.rejected.append(RowError(row=number, reason=reason))


def main() -> None:
    """Read one file under the bounds."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_TEXT_BYTES, MAX_TEXT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    readers: dict[str, Callable[[BinaryIO], Extract]] = {
        ".pdf": read_pdf,
        ".docx": read_docx,
        ".xlsx": read_xlsx,
        ".html": read_html,
    }
    try:
        found = readers[sys.argv[1]](sys.stdin.buffer)
    except Refused as reason:
        found = Extract(refused=str(reason))
    sys.stdout.write(found.model_dump_json())


if __name__ == "__main__":
    main()
