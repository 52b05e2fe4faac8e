"""Files made to hurt their reader: a clear refusal in bounded time, and nothing of them is indexed."""

import io
import os
import random
import resource
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import docx
import openpyxl
import pyarrow
import pytest
from pyarrow import parquet

from contracts.errors import InvalidInput
from services.retriever.reading import child
from services.retriever.reading.formats import BOUNDS
from services.retriever.retriever import Retriever
from services.retriever.settings import RetrieverSettings
from services.retriever.source import TABLES, TEXTS, read_source
from tests.services.retriever.test_reading import pdf, saved, workbook


def rezipped(content: bytes, part: str, xml: bytes) -> bytes:
    """Return an office file with one of its parts replaced."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, xml if name == part else old.read(name))
    return file.getvalue()


def document(text: str = "Курс стоит 45 000.") -> bytes:
    made = docx.Document()
    made.add_paragraph(text)
    return saved(made.save)


WORD = b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>%s</w:body></w:document>'


@pytest.mark.parametrize("name", ["a.docx", "a.xlsx"])
def test_a_zip_bomb_is_not_unpacked(name: str) -> None:
    file = io.BytesIO()
    bomb = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with bomb, bomb.open("[Content_Types].xml", "w", force_zip64=True) as entry:
        for _ in range(501):
            entry.write(b"\0" * 1_000_000)
    begun = time.monotonic()
    with pytest.raises(InvalidInput, match="would unpack to more than 500 MB"):
        read_source(name, file.getvalue())
    assert time.monotonic() - begun < 10


def test_what_fills_the_memory_ends_the_child_alone() -> None:
    heavy = rezipped(document(), "word/document.xml", WORD % (b"<w:p/>" * 40_000_000))
    with pytest.raises(InvalidInput, match=r"it needs more than 1\.5 GB|could not be read|damaged"):
        read_source("a.docx", heavy)


def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = workbook({"a": [["context"], *([f"Строка {n}"] for n in range(40_000))]})
    monkeypatch.setattr(child, "bounds_of", lambda _: BOUNDS._replace(seconds=0.5))
    begun = time.monotonic()
    with pytest.raises(InvalidInput, match=r"could not be read within 0\.5 s"):
        read_source("a.xlsx", slow)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("entity", ['SYSTEM "file://{secret}"', '"говорит тайну"'])
def test_an_entity_of_xml_brings_nothing_in(tmp_path: Path, entity: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("тайна", encoding="utf-8")
    declared = f"<!DOCTYPE d [<!ENTITY e {entity.format(secret=secret)}>]>".encode()
    xml = declared + WORD % "<w:p><w:r><w:t>Текст &e;</w:t></w:r></w:p>".encode()
    source = read_source("a.docx", rezipped(document(), "word/document.xml", xml))
    assert "тайн" not in " ".join(p.text for p in source.passages.values())


def test_a_billion_laughs_are_not_laughed() -> None:
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    xml = f'<!DOCTYPE d [<!ENTITY l0 "ха">{laughs}]>'.encode() + WORD % b"<w:p><w:r><w:t>&l11;</w:t></w:r></w:p>"
    begun = time.monotonic()
    with pytest.raises(InvalidInput):
        read_source("a.docx", rezipped(document(), "word/document.xml", xml))
    assert time.monotonic() - begun < 10


def test_what_needs_a_password_says_so() -> None:
    locked = pdf(["Текст"]).replace(b"trailer\n<<", b"trailer\n<< /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O (" + b"o" * 32 + b") /U (" + b"u" * 32 + b") >> /ID [(a) (a)]")  # fmt: skip # noqa: E501
    with pytest.raises(InvalidInput, match="needs a password"):
        read_source("a.pdf", locked)
    with pytest.raises(InvalidInput, match="encrypted, or of the format of before 2007"):
        read_source("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000))


def test_a_formula_is_what_it_came_to_and_never_its_text() -> None:
    content = workbook({"a": [["№", "context"], [1, '=HYPERLINK("http://evil","x")'], [2, "Обычный текст."]]})
    source = read_source("a.xlsx", content)
    assert [p.text for p in source.passages.values()] == ["Обычный текст."]
    assert source.receipt(set()).rejected == 1


def test_a_cell_of_a_million_characters() -> None:
    whole = read_source("a.csv", ("context\n" + "слово " * 166_000).encode())
    assert max(len(p.text) for p in whole.passages.values()) <= 1000
    with pytest.raises(InvalidInput, match="a cell has over 1,000,000 characters"):
        read_source("a.csv", ("context\n" + "слово " * 166_700).encode())


def test_elements_in_each_other_without_end() -> None:
    html = "<div>" * 20_000 + "Глубоко." + "</div>" * 20_000
    assert [p.text for p in read_source("a.html", html.encode()).passages.values()] == ["Глубоко."]


@pytest.mark.parametrize("suffix", [*TABLES, *TEXTS])
def test_what_is_not_what_its_name_says_is_refused_or_read_as_text(suffix: str) -> None:
    drawn = random.Random(suffix)
    whole = {
        ".pdf": pdf(["Текст"]),
        ".docx": document(),
        ".xlsx": workbook({"a": [["context"], ["Текст"]]}),
    }.get(suffix, '{"context": "Текст"}\n'.encode())
    hostile = [
        b"",
        b"\x89PNG\r\n\x1a\n" + drawn.randbytes(500),
        drawn.randbytes(2000),
        b"%PDF-1.7\n" + drawn.randbytes(500),
        b"PK\x03\x04" + drawn.randbytes(500),
        *(whole[: len(whole) * part // 7] for part in range(1, 7)),
    ]
    for content in hostile:
        try:
            source = read_source(f"a{suffix}", content)
        except InvalidInput:
            continue
        assert suffix not in (".xlsx", ".docx"), content[:20]
        assert source.passages


def test_nothing_of_a_refused_file_is_indexed_and_search_goes_on(settings: RetrieverSettings, knowledge: bytes) -> None:
    retriever = Retriever.open(settings)
    retriever.ingest("knowledge.csv", knowledge)
    before = retriever.search("рассрочка, оплата частями", 6)
    for name in ("a.pdf", "a.docx", "a.xlsx", "knowledge.csv"):
        with pytest.raises(InvalidInput):
            retriever.ingest(name, os.urandom(5000))
    assert retriever.search("рассрочка, оплата частями", 6) == before
    assert [document.name for document in retriever.documents()] == ["knowledge.csv"]
    retriever.close()


def test_a_workbook_that_lies_about_its_size(tmp_path: Path) -> None:
    content = workbook({"a": [["context"], ["Текст."]]})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml")
    liar = sheet.replace(b'<dimension ref="A1:A2"', b'<dimension ref="A1:XFD1048576"')
    assert liar != sheet
    source = read_source("a.xlsx", rezipped(content, "xl/worksheets/sheet1.xml", liar))
    assert [p.text for p in source.passages.values()] == ["Текст."]
    assert openpyxl.load_workbook(io.BytesIO(content)).sheetnames == ["a"]


def test_a_stray_cell_in_the_last_column_does_not_widen_every_row() -> None:
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet("a")
    sheet.append(["context"])
    for number in range(3_000):
        sheet.append([f"Запись {number}."])
    sheet.append(["x"] + [None] * 16_382 + ["y"])
    content = saved(book.save)
    tracemalloc.start()
    receipt = read_source("a.xlsx", content).receipt(set())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (receipt.accepted, receipt.rejected) == (3_000, 1)
    assert peak < 50_000_000


def test_a_parquet_of_a_kilobyte_does_not_take_the_memory_of_the_service() -> None:
    references = 100 * 60
    text = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * references, pyarrow.int32()), pyarrow.array(["я" * 500_000])
    )
    lists = pyarrow.ListArray.from_arrays(pyarrow.array(range(0, references + 1, 60), pyarrow.int32()), text)
    passages = pyarrow.StructArray.from_arrays([lists], ["passage_text"])
    file = io.BytesIO()
    parquet.write_table(
        pyarrow.table({"passages": passages}), file, compression="zstd", write_statistics=False, store_schema=False
    )
    content = file.getvalue()
    assert len(content) < 1_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidInput, match=r"memory|characters"):
        read_source("a.parquet", content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_what_an_archive_says_of_its_sizes_is_not_believed() -> None:
    large = rezipped(document(), "word/document.xml", WORD % (b"<w:p/>" * 40_000_000))
    size = struct.pack("<I", 240_000_000 + len(WORD % b""))
    assert large.count(size) >= 1
    with pytest.raises(InvalidInput):
        read_source("a.docx", large.replace(size, struct.pack("<I", 1_000)))


def test_a_pdf_that_takes_very_long_to_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "bounds_of", lambda _: BOUNDS._replace(seconds=2))
    form = b"q /Fm0 Do Q " * 30
    slow = pdf_of_forms(form, depth=12)
    begun = time.monotonic()
    with pytest.raises(InvalidInput, match=r"could not be read within 2 s|no text|damaged"):
        read_source("a.pdf", slow)
    assert time.monotonic() - begun < 20


def pdf_of_forms(content: bytes, depth: int) -> bytes:
    """Return a page that draws a form, which draws the next one many times, and so on."""
    parts = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"]
    resources = b"/Resources << /XObject << /Fm0 %d 0 R >> >>"
    parts.append(b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] " + resources % 5 + b" /Contents 4 0 R >>")
    parts.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    for number in range(depth):
        last = number == depth - 1
        inside = b"BT (text) Tj ET" if last else content
        head = b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] %s /Length %d >>\nstream\n%s\nendstream"
        parts.append(head % (b"" if last else resources % (6 + number), len(inside), inside))
    file = b"%PDF-1.7\n" + b"".join(b"%d 0 obj\n%s\nendobj\n" % (n, part) for n, part in enumerate(parts, 1))
    return file + b"trailer << /Root 1 0 R /Size %d >>\n%%%%EOF" % (len(parts) + 1)
