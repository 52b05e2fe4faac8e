"""Every type of file: what its reader would see on the screen is found, where it stands is told, nothing is made up."""

import io
import json
from collections.abc import Callable

import docx
import openpyxl
import pyarrow
import pytest
from docx.oxml import parse_xml
from matplotlib import rc_context
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from pyarrow import parquet

from contracts.errors import InvalidInput
from services.retriever.source import Source, read_source


def places(source: Source) -> list[tuple[str, str]]:
    return [(p.place, p.text) for p in source.passages.values()]


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def pdf(pages: list[str]) -> bytes:
    def write(file: io.BytesIO) -> None:
        with rc_context({"pdf.fonttype": 42}), PdfPages(file) as book:
            for text in pages:
                figure = Figure()
                figure.text(0.1, 0.5, text)
                book.savefig(figure)

    return saved(write)


def workbook(sheets: dict[str, list[list[object]]]) -> bytes:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    return saved(book.save)


def test_the_pages_of_a_pdf() -> None:
    source = read_source(
        "price.pdf", pdf(["Курс стоит 45 000 рублей.\nОплата ча-\nстями.", "", "Discounts on Tuesdays."])
    )
    assert places(source) == [
        ("page 1", "Курс стоит 45 000 рублей.\nОплата частями."),
        ("page 3", "Discounts on Tuesdays."),
    ]
    receipt = source.receipt(set())
    assert (receipt.unit, receipt.read, receipt.accepted, receipt.rejected) == ("page", 3, 2, 1)
    assert receipt.errors[0].row == 2
    assert "OCR" in receipt.errors[0].reason


def test_a_pdf_of_scans_alone_is_refused() -> None:
    with pytest.raises(InvalidInput, match="OCR"):
        read_source("scan.pdf", pdf(["", ""]))


def test_headings_paragraphs_and_tables_of_a_docx() -> None:
    document = docx.Document()
    document.add_heading("Цены", 1)
    document.add_paragraph("Курс стоит 45 000 рублей.")
    document.add_heading("Скидки", 2)
    table = document.add_table(2, 2)
    for cell, text in zip(
        (c for row in table.rows for c in row.cells), ["день", "скидка", "вторник", "5 %"], strict=True
    ):
        cell.text = text
    document.add_heading("Адрес", 1)
    document.add_paragraph("")
    document.add_paragraph("Москва.")
    assert places(read_source("a.docx", saved(document.save))) == [
        ("Цены, paragraph 1", "Цены\nКурс стоит 45 000 рублей."),
        ("Цены › Скидки, paragraph 2", "Скидки\nдень | скидка\nвторник | 5 %"),
        ("Адрес, paragraph 3", "Адрес\nМосква."),
    ]


def test_the_rows_of_all_sheets_of_a_workbook() -> None:
    content = workbook(
        {
            "Курсы": [
                ["Вопрос", "Ответ", "Контекст"],
                ["q", "a", "Курс стоит 45 000."],
                ["q", "a", None],
                [],
                ["q2", "", 7.0],
            ],
            "Заметки": [["не таблица"], ["совсем"]],
            "Ещё": [["context"], ["Скидки по вторникам."]],
        }
    )
    source = read_source("a.xlsx", content)
    assert places(source) == [
        ("sheet Курсы, row 1", "Курс стоит 45 000."),
        ("sheet Курсы, row 3", "7"),
        ("sheet Ещё, row 1", "Скидки по вторникам."),
    ]
    receipt = source.receipt(set())
    assert (receipt.read, receipt.accepted, receipt.rejected) == (4, 3, 1)
    assert (receipt.errors[0].row, receipt.errors[0].reason) == (2, "empty context")


def test_a_workbook_without_the_column_is_refused_with_what_it_has() -> None:
    with pytest.raises(InvalidInput, match=r"a\.xlsx, sheet Лист lacks the column context: its first row has цена"):
        read_source("a.xlsx", workbook({"Лист": [["цена"], [5]]}))


def test_the_text_of_a_page_of_html() -> None:
    html = """<html><head><title>Школа</title><style>p { color: red }</style><meta charset="utf-8"></head><body>
      <script>alert("нет")</script><h1>Цены  и
      скидки</h1><p>Курс <b>стоит</b>&nbsp;45&nbsp;000.<p>Рассрочка&hellip;
      <table><tr><td>день<td>скидка<tr><td>вторник<td>5 %</table><h2>Где</h2><div>Москва<div>Центр</div></div></html>"""
    assert places(read_source("a.html", html.encode())) == [
        (
            "Школа › Цены и скидки, paragraphs 1-4",
            "Цены и скидки\nКурс стоит 45 000.\n\nРассрочка…\n\nдень | скидка\n\nвторник | 5 %",
        ),
        ("Школа › Цены и скидки › Где, paragraphs 5-6", "Где\nМосква\n\nЦентр"),
    ]


def test_html_is_in_the_encoding_that_it_declares() -> None:
    html = '<html><head><meta http-equiv="Content-Type" content="text/html; charset=koi8-r"></head><p>Да</html>'
    assert places(read_source("a.htm", html.encode("koi8-r"))) == [("paragraph 1", "Да")]


def test_json_with_a_context_or_a_text() -> None:
    rows = [
        {"question": "q", "context": "Первый."},
        {"text": "Второй."},
        {"id": 5},
        {"context": "Первый."},
        {"context": "Третий\x00."},
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n{broken\n"
    for name, content in (("a.jsonl", lines), ("a.json", json.dumps(rows, ensure_ascii=False))):
        source = read_source(name, content.encode())
        receipt = source.receipt(set())
        assert places(source) == [("row 1", "Первый."), ("row 2", "Второй.")]
        assert receipt.read == receipt.accepted + receipt.rejected + receipt.duplicates + receipt.unchanged
        assert (receipt.accepted, receipt.duplicates) == (2, 1)
        assert [error.row for error in receipt.errors] == ([3, 5, 6] if name == "a.jsonl" else [3, 5])


def test_the_passages_of_ms_marco() -> None:
    rows = [
        {"query": "q1", "answers": ["a"], "passages": {"is_selected": [0, 1], "passage_text": ["One.", "Two."]}},
        {"query": "q2", "answers": [], "passages": {"is_selected": [0, 0], "passage_text": ["Two.", " "]}},
    ]
    content = saved(lambda file: parquet.write_table(pyarrow.Table.from_pylist(rows), file))
    source = read_source("dev.parquet", content)
    assert places(source) == [("row 1, passage 1", "One."), ("row 1, passage 2", "Two.")]
    assert source.receipt(set()).accepted == 2


def test_markdown_is_read_as_markdown() -> None:
    text = "---\ntitle: x\n---\nНачало.\n\nЦены\n====\n\n```\n# не заголовок\n```\n\n- один\n- два\n"
    assert places(read_source("a.md", text.encode())) == [
        ("paragraph 1", "Начало."),
        ("Цены, paragraphs 2-3", "Цены\n```\n# не заголовок\n```\n\n- один\n- два"),
    ]


def test_the_encoding_can_be_named() -> None:
    assert places(read_source("a.txt", "Größe".encode("cp1252"), encoding="cp1252")) == [("paragraph 1", "Größe")]


def test_a_table_of_word_keeps_the_places_of_its_cells() -> None:
    made = docx.Document()
    table = made.add_table(0, 4)
    for line in ("Тариф|Январь|Февраль|Март", "Базовый|1000|1000|2000", "Полный|||3"):
        for cell, value in zip(table.add_row().cells, line.split("|"), strict=True):
            cell.text = value
    wide = table.add_row().cells
    wide[1].merge(wide[3]).text = "нет"
    wide[0].text = "Старый"
    [passage] = read_source("a.docx", saved(made.save)).passages.values()
    assert passage.text.splitlines() == [
        "Тариф | Январь | Февраль | Март",
        "Базовый | 1000 | 1000 | 2000",
        "Полный |  |  | 3",
        "Старый | нет",
    ]


def test_tracked_insertions_and_content_controls_of_word_are_read_and_deletions_are_not() -> None:
    word = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    made = docx.Document()
    paragraph = made.add_paragraph("Курс стоит ")
    inserted = f'<w:ins {word} w:id="1" w:author="a"><w:r><w:t>45 000</w:t></w:r></w:ins>'
    deleted = f'<w:del {word} w:id="2" w:author="a"><w:r><w:delText>9</w:delText></w:r></w:del>'
    for xml in (inserted, deleted):
        paragraph._p.append(parse_xml(xml))
    paragraph.add_run(" рублей.")
    control = f"<w:sdt {word}><w:sdtContent><w:p><w:r><w:t>Договор 17.</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    made.element.body.insert(0, parse_xml(control))
    [passage] = read_source("a.docx", saved(made.save)).passages.values()
    assert passage.text == "Договор 17.\n\nКурс стоит 45 000 рублей."


def test_comments_and_blocks_in_cells_do_not_part_a_text_of_html() -> None:
    page = """<body><p>Цена: <!-- -->45 000<!-- --> рублей за <b>кур</b>с<!-- -->ы</p>
      <table><tr><td><p>Курс A</p></td><td><p>1000</p></td></tr><tr><td>Курс B</td><td>2000</td></tr></table>"""
    [passage] = read_source("a.html", page.encode()).passages.values()
    assert passage.text.split("\n\n") == ["Цена: 45 000 рублей за курсы", "Курс A | 1000", "Курс B | 2000"]


def test_a_table_that_lays_out_a_page_of_html_is_parted_as_the_page_is() -> None:
    cells = f"<td><h2>Первое</h2><p>{'один ' * 200}</p></td><td><p>{'два ' * 200}</p><p>три</p></td>"
    page = f"<table><tr>{cells}</tr></table>"
    texts = [passage.text.split() for passage in read_source("a.html", page.encode()).passages.values()]
    assert not any({"один", "два"} <= set(text) for text in texts)


def test_errors_of_a_spreadsheet_are_no_knowledge() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for value in ("context", "#N/A", "#REF!", "Текст."):
        sheet.append([value])
    receipt = read_source("a.xlsx", saved(book.save)).receipt(set())
    assert (receipt.read, receipt.accepted) == (1, 1)


def test_html_that_declares_latin_1_is_read_as_browsers_read_it() -> None:
    page = "<meta charset=iso-8859-1><p>“45” €</p>".encode("cp1252")
    [passage] = read_source("a.html", page).passages.values()
    assert passage.text == "“45” €"
    with pytest.raises(InvalidInput, match="is not known"):
        read_source("a.html", b"<meta charset=unicode_escape><p>\xff\\ud800")
