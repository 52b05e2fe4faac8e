"""PDF, DOCX, XLSX and HTML to paragraphs and rows, in a process of its own (:mod:`services.retriever.reading.child`).

``python -m services.retriever.reading.formats SUFFIX`` reads a file from its standard input and prints an
:class:`Extract` as JSON.
"""

import re
import resource
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, time
from typing import Any, BinaryIO, NamedTuple

from pydantic import BaseModel

from contracts.encoding import CONTROL
from contracts.retrieval import RowError
from services.retriever.reading.prose import Paragraph


class Bounds(NamedTuple):
    """What a file may take from its reader: seconds, bytes of memory, bytes of what is printed."""

    seconds: int
    memory: int
    printed: int


BOUNDS = Bounds(30, 1_500_000_000, 200_000_000)
TABLE_BOUNDS = Bounds(120, 4_000_000_000, 1_500_000_000)
"""Of Parquet, which is the one type of knowledge by the million."""
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
_DATA_CELL = 500
"""Characters of a cell at most for its blocks to be the lines of one cell; what is longer lays out a page."""
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_WHITE = {_W + "tab": "\t", _W + "br": "\n", _W + "cr": "\n", _W + "noBreakHyphen": "-"}
_UNSEEN = {
    *(_W + name for name in ("del", "moveFrom", "pPr", "rPr", "sdtPr", "txbxContent")),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
}


class Extract(BaseModel):
    """What was in a file: prose, or the sheets of a workbook by their names."""

    paragraphs: list[Paragraph] = []
    units: int = 0
    """How many there were, with those that hold nothing."""
    rejected: list[RowError] = []
    sheets: dict[str, list[list[str]]] = {}
    rows: list[list[str] | str] = []
    """Of a table whose rows may hold several texts; why a row has none."""
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
    for block in _blocks(opened.element.body, opened):
        if isinstance(block, Table):
            # A cell that goes over several columns is there several times.
            rows = [list({cell._tc: _paragraphs(cell._tc) for cell in row.cells}.values()) for row in block.rows]
            document.paragraph("\n".join(" | ".join(cells) for cells in rows if any(cells)))
            continue
        style = (block.style.name or "") if block.style is not None else ""
        text = "".join(_words(block._p))
        if level := _HEADING_STYLE.match(style):
            document.heading(int(level[1]), text)
        elif style == "Title":
            document.heading(0, text)
        else:
            document.paragraph(text)
    return document.extract()


def _blocks(body: Any, parent: Any) -> Iterator[Any]:
    """Yield the paragraphs and tables of a DOCX, those in content controls and tracked insertions as well."""
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    for child in body:
        if child.tag == _W + "p":
            yield Paragraph(child, parent)
        elif child.tag == _W + "tbl":
            yield Table(child, parent)
        elif child.tag not in _UNSEEN:
            yield from _blocks(child, parent)


def _paragraphs(cell: Any) -> str:
    return " ".join(filter(None, ("".join(_words(paragraph)).strip() for paragraph in cell.iter(_W + "p"))))


def _words(element: Any) -> Iterator[str]:
    """Yield the text of a paragraph as it is read when every tracked change is accepted."""
    for child in element:
        if child.tag == _W + "t":
            yield child.text or ""
        elif child.tag in _WHITE:
            yield _WHITE[child.tag]
        elif child.tag not in _UNSEEN:
            yield from _words(child)


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
            sheets[str(sheet.title)] = [_filled(row) for row in sheet.iter_rows()]
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
    in_cell = False

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
        if tag == "-comment":
            continue
        if tag == "-text":
            words.append(node.text_content or "")
            continue
        if tag in _HIDDEN:
            continue
        if entered:
            if tag in _CELLS and not in_cell:
                in_cell = node.css_first("table, h1, h2, h3, h4, h5, h6") is None and len(node.text()) <= _DATA_CELL
            elif tag not in _INLINE and tag not in _CELLS:
                words.append(" ") if in_cell else flush()
            stack.append((node, False))
            stack += [(child, True) for child in reversed(list(node.iter(include_text=True)))]
        elif tag in _HEADINGS:
            document.heading(_HEADINGS[tag], "".join(words))
            words.clear()
        elif tag in _CELLS:
            in_cell = False
            words.append(" | ")
        elif tag not in _INLINE and not in_cell:
            flush()
    flush()
    return document.extract()


def read_parquet(file: BinaryIO) -> Extract:
    """Return the texts of each row; see :func:`contracts.dataset.knowledge_rows`.

    Raises:
        Refused: it is no Parquet, is damaged, or has none of the columns.
    """
    from contracts.dataset import knowledge_rows
    from contracts.errors import InvalidInput

    name = "It.parquet"
    try:
        return Extract(rows=list(knowledge_rows(file.read(), name)))
    except InvalidInput as refusal:
        if "alloc" in refusal.detail:  # as Arrow says that there is no memory
            raise MemoryError from None
        raise Refused(refusal.detail.removeprefix(name).lstrip(": ")) from None


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


def _filled(row: Sequence[Any]) -> list[str]:
    """Return a row's cells up to the last one that is filled: one in column XFD makes sixteen thousand of each row."""
    cells = [_cell(cell.value) if cell.data_type != "e" else "" for cell in row]
    while cells and not cells[-1].strip():
        cells.pop()
    return cells


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) and value.time() == time.min:
        return value.date().isoformat()
    return str(value)


def bounds_of(suffix: str) -> Bounds:
    """Return what a file of this type may take."""
    return TABLE_BOUNDS if suffix == ".parquet" else BOUNDS


def _reject(found: Extract, number: int, reason: str) -> None:
    found.rejected.append(RowError(row=number, reason=reason))


def main() -> None:
    """Read one file under the bounds."""
    bounds = bounds_of(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (bounds.memory, bounds.memory))
    resource.setrlimit(resource.RLIMIT_CPU, (bounds.seconds, bounds.seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (bounds.printed, bounds.printed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    readers: dict[str, Callable[[BinaryIO], Extract]] = {
        ".pdf": read_pdf,
        ".docx": read_docx,
        ".xlsx": read_xlsx,
        ".html": read_html,
        ".parquet": read_parquet,
    }
    try:
        found = readers[sys.argv[1]](sys.stdin.buffer)
    except Refused as reason:
        found = Extract(refused=str(reason))
    sys.stdout.write(found.model_dump_json())


if __name__ == "__main__":
    main()
