import csv
import itertools
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from contracts import dataset
from contracts import table as tables
from contracts.dataset import read_dataset
from contracts.errors import InvalidInput
from contracts.table import MAX_ERRORS_LISTED, Table

QA = ("question", "answer")
GOOD = {"question": "Сколько стоит курс?", "answer": "100 рублей.", "context": "Цена курса: 100 рублей."}
ROWS = [GOOD, {"question": "Есть скидки?", "answer": "Да.", "context": "Скидки есть всегда."}]


def lines(records: Iterable[Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def read(tmp_path: Path, content: str | bytes, name: str = "my.jsonl", required=QA, optional=("context",)) -> Table:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_dataset(file, required, optional)


def write_parquet(file: Path, records: list[dict[str, Any]], schema: pyarrow.Schema | None = None) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(records, schema), file)
    return file


def accounts(table: Table) -> tuple[int, int, int, int]:
    return table.read, len(table.rows), table.rejected, table.duplicates


def reasons(table: Table) -> list[tuple[int, str]]:
    return [(error.row, error.reason) for error in table.errors]


# ---- one form of the same rows ----

MARCO = pyarrow.schema(
    [
        ("answers", pyarrow.list_(pyarrow.string())),
        (
            "passages",
            pyarrow.struct(
                [
                    ("is_selected", pyarrow.list_(pyarrow.int32())),
                    ("passage_text", pyarrow.list_(pyarrow.string())),
                    ("url", pyarrow.list_(pyarrow.string())),
                ]
            ),
        ),
        ("query", pyarrow.string()),
        ("query_id", pyarrow.int32()),
        ("query_type", pyarrow.string()),
        ("wellFormedAnswers", pyarrow.list_(pyarrow.string())),
    ]
)


def marco(question: str, answers: list[str], passages: dict[str, int], well_formed: Iterable[str] = ()) -> dict:
    """A row as MS MARCO v1.1 publishes it; ``passages`` are texts and whether they are selected."""
    return {
        "answers": answers,
        "passages": {
            "is_selected": [*passages.values()],
            "passage_text": [*passages],
            "url": ["http://a.example"] * len(passages),
        },
        "query": question,
        "query_id": 1,
        "query_type": "numeric",
        "wellFormedAnswers": [*well_formed],
    }


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def told(role: str, value: Any) -> dict[str, Any]:
    return {"from": role, "value": value}


RECORDS: dict[str, Callable[[str, str, str], Any]] = {
    "question-answer": lambda q, a, c: {"question": q, "answer": a, "context": c},
    "MS MARCO": lambda q, a, c: marco(q, [a], {c: 1, "Не отсюда.": 0} if c else {}),
}
WITHOUT_CONTEXT: dict[str, Callable[[str, str], Any]] = {
    "question-answer": lambda q, a: {"Question ": q, "ANSWER": a},
    "prompt-completion": lambda q, a: {"prompt": q, "completion": a},
    "prompt-completion of messages": lambda q, a: {
        "prompt": [said("user", q)],
        "completion": [said("assistant", a)],
    },
    "alpaca": lambda q, a: {"instruction": q, "input": "", "output": a},
    "messages": lambda q, a: {"messages": [said("system", "-"), said("user", q), said("assistant", a)]},
    "messages of parts": lambda q, a: {
        "messages": [said("user", [{"type": "text", "text": q}]), said("assistant", [{"type": "text", "text": a}])]
    },
    "sharegpt": lambda q, a: {"conversations": [told("human", q), told("gpt", a), told("human", "-")]},
}


def settled(text: str) -> str:
    """What reading makes of a cell."""
    return unicodedata.normalize("NFC", text.strip())


CELLS = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    .map(lambda text: settled(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "", text)))
    .filter(lambda text: text != "" and settled(text) == text)
)


def rows_of(*cells: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, ...]]]:
    row = st.tuples(*cells)
    return st.lists(row, min_size=1, max_size=5, unique_by=lambda row: tuple(" ".join(cell.split()) for cell in row))


def every_form(folder: Path, records: list[Any], ascii_only: bool) -> Iterable[Path | str]:
    texts = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    for name, text in (
        ("a.jsonl", "\n".join(texts)),
        ("b.ndjson", "\r\n\r\n".join(texts) + "\r\n"),
        ("c.json", f" [{' ,'.join(texts)}]\n"),
        ("d.json", json.dumps(records, ensure_ascii=ascii_only, indent=1)),
    ):
        (folder / name).write_bytes(text.encode())
        yield folder / name
    yield write_parquet(folder / "e.parquet", records, MARCO if "query" in records[0] else None)
    yield "hf:some/thing"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows_of(CELLS, CELLS, st.one_of(st.just(""), CELLS)), st.booleans())
@example([('"', "a\u2028b\x85c", ""), ("=1\r\n2", "\ufeff}{][", "1\r2"), ("\\ud800", "\U0001f600", '{"a":1}')], False)
def test_the_same_rows_have_the_same_digest_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str, str]], ascii_only: bool
) -> None:
    def check(source: Path | str, expected: list[tuple[str, str, str]]) -> str:
        table = read_dataset(source, QA, ("context",))
        assert [(row.question, row.answer, row.context) for row in table.rows] == expected, source
        assert [row.number for row in table.rows] == [*range(1, len(expected) + 1)]
        assert accounts(table) == (len(expected), len(expected), 0, 0)
        return table.sha256

    def digests(header: tuple[str, ...], expected: list[tuple[str, str, str]], forms: dict[str, Any]) -> set[str]:
        found = set()
        for name, delimiter in (("a.csv", ","), ("b.tsv", "\t")):
            with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
                csv.writer(file, delimiter=delimiter).writerows([header, *(row[: len(header)] for row in expected)])
            found.add(check(tmp_path / name, expected))
        for form in forms.values():
            records = [form(*row[: len(header)]) for row in expected]
            monkeypatch.setattr(datasets, "load_dataset", lambda *_, records=records, **__: iter(records))
            found |= {check(source, expected) for source in every_form(tmp_path, records, ascii_only)}
        return found

    assert len(digests((*QA, "context"), rows, RECORDS)) == 1
    bare = [*{(" ".join(q.split()), " ".join(a.split())): (q, a, "") for q, a, _ in rows}.values()]
    assert len(digests(QA, bare, WITHOUT_CONTEXT) | digests((*QA, "context"), bare, RECORDS)) == 1


@pytest.mark.parametrize("form", [*WITHOUT_CONTEXT])
def test_the_summary_names_the_form(tmp_path: Path, form: str) -> None:
    table = read(tmp_path, lines([WITHOUT_CONTEXT[form]("а", "б")]))
    assert f"1 rows read = 1 accepted + 0 rejected + 0 duplicates (utf-8, {form.split(' of ')[0]}" in table.summary()


def test_the_rules_of_the_csv_hold(tmp_path: Path) -> None:
    text = lines([GOOD, {**GOOD, "answer": " 100  рублей. "}, {**GOOD, "answer": "\x07"}, {**GOOD, "answer": None}])
    table = read(tmp_path, text)
    assert accounts(table) == (4, 1, 2, 1)
    assert reasons(table) == [(3, "a control character, as binary data has"), (4, "empty answer")]
    assert read(tmp_path, lines(ROWS).encode("utf-16")).rows == read(tmp_path, lines(ROWS).encode("cp1251")).rows
    assert read(tmp_path, lines(ROWS), required=("question",), optional=()).rows[1].cells == {
        "question": "Есть скидки?"
    }


# ---- hostile lines ----


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "а", "answer": NaN}', "NaN, which JSON has not"),
        ('{"question": "а", "answer": "б", "score": -Infinity}', "-Infinity, which JSON has not"),
        ('{"question": "а", "question": "б", "answer": "в"}', "a key is there twice"),
        ('{"question": "а", "Question": "б", "answer": "в"}', "a key is there twice"),
        ('{"question": "а", "answer": "б", "more": {"x": 1, "x": 1}}', "a key is there twice"),
        ('{"question": "а", "answer": "\\ud83d"}', "half a character (a lone surrogate)"),
        ('{"question": "а", "answer": "б", "\\udc00": 1}', "half a character (a lone surrogate)"),
        (f'{{"question": "а", "answer": "б", "n": {"9" * 309}}}', "a number of over 308 digits"),
        (f'{{"question": "а", "answer": "б", "n": {"9" * 10_000}}}', "a number of over 308 digits"),
        (f'{{"question": "а", "answer": "б", "n": {"[" * 64}{"]" * 64}}}', "nested deeper than 64"),
        (f'{{"question": "а", "answer": "{"б" * 500_000}"}}', "over 1 MB"),
        ("[1, 2]", "a list, not an object"),
        ("42", "a number, not an object"),
        ("null", "null, not an object"),
        ('{"question": 1, "answer": "б"}', "question is a number, not text"),
        ('{"question": "а", "answer": true}', "answer is true or false, not text"),
        ('{"question": "а", "answer": {"text": "б"}}', "answer is an object, not text"),
        ('{"question": "а", "answer": "б", "context": ["в"]}', "context is a list, not text"),
        ('{"question": " \\n", "answer": "б"}', "empty question"),
        ('{"question": "а", "answer": ""}', "empty answer"),
        ('{"question": "а"}', "no answer"),
        ("{}", "of no known form: its keys are none"),
        ('{"prompt": "а", "chosen": "б"}', "of no known form: its keys are prompt, chosen"),
    ],
)
@pytest.mark.parametrize("array", [False, True])
def test_a_bad_record_costs_itself_alone(tmp_path: Path, line: str, reason: str, array: bool) -> None:
    records = [json.dumps(ROWS[0]), line, json.dumps(ROWS[1])]
    table = read(tmp_path, f"[{','.join(records)}]" if array else "\n\n".join(records))
    assert reasons(table) == [(2, reason)]
    assert [row.number for row in table.rows] == [1, 3]
    assert accounts(table) == (3, 2, 1, 0)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "а", "ans', "the JSON breaks off"),
        ('{"question": "а", "answer": "б"', "the JSON breaks off"),
        ('{"question": "а", "answer":', "the JSON breaks off"),
        ('{"question": "а", "answer": "б"} {}', "not JSON: Extra data at character 34"),
        ("{'question': 'а'}", "not JSON: Expecting property name enclosed in double quotes at character 2"),
        ('{"question": "а\tб", "answer": "в"}', "not JSON: Invalid control character at at character 16"),
        (f'{{"question": "а", "answer": "б", "n": {"[" * 100_000}{"]" * 100_000}}}', "nested deeper than 64"),
        ("[" * 100_000, "nested deeper than 64"),
        ("[NaN", "NaN, which JSON has not"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_line_that_is_not_json_costs_itself_alone(tmp_path: Path, line: str, reason: str, last: bool) -> None:
    table = read(tmp_path, lines(ROWS) + line if last else f"{line}\n{lines(ROWS)}")
    assert reasons(table) == [(3 if last else 1, reason)]
    assert accounts(table) == (3, 2, 1, 0)


def test_a_line_may_hold_just_1_mb(tmp_path: Path) -> None:
    room = 1_000_000 - len('{"question":"q","answer":""}')
    table = read(
        tmp_path, f'{{"question":"q","answer":"{"a" * room}"}}\n{{"question":"q","answer":"{"b" * (room + 1)}"}}'
    )
    assert (reasons(table), len(table.rows[0].answer)) == ([(2, "over 1 MB")], room)


def test_so_many_reasons_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    table = read(tmp_path, "no\n" * (MAX_ERRORS_LISTED + 5) + lines(ROWS))
    assert (table.rejected, len(table.errors)) == (MAX_ERRORS_LISTED + 5, MAX_ERRORS_LISTED)


def test_only_cr_and_lf_end_a_line(tmp_path: Path) -> None:
    texts = [json.dumps({**row, "answer": "a\u2028b\x85c"}, ensure_ascii=False) for row in ROWS]
    assert [row.answer for row in read(tmp_path, "\r".join(texts)).rows] == ["a\u2028b\x85c"] * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("[]", "no valid row (0 read)"),
        ("[[]]", "row 1: a list, not an object"),
        ('"question"', "row 1: a text, not an object"),
        ("[{},\n{}", "broken after element 2 (line 2: Expecting ',' delimiter)"),
        ("[{}\n{}]", "broken after element 1 (line 2: Expecting ',' delimiter)"),
        ("[{},]", "broken after element 1 (line 1"),
        ("[{}] []", "broken after element 1 (line 1: Extra data)"),
        ('[{"question": "а', "broken after element 0 (line 1: Unterminated string starting at)"),
        ("[" * 100_000, "nested too deeply"),
        (b"\x00\x01", "not a text file"),
        ('{"question": "а", "answer": 1}', "no valid row (1 read). The first reason: row 1: answer is a number"),
    ],
)
def test_what_is_refused_is_refused_whole_with_the_reason(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, content, "my.json")
    assert says in refused.value.detail


def test_a_file_that_is_not_there_or_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nowhere.jsonl", "nowhere.parquet", "nowhere.csv"):
        with pytest.raises(InvalidInput, match=rf"Cannot read .*{name}: No such file"):
            read_dataset(str(tmp_path / name))
    monkeypatch.setattr(tables, "MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidInput, match=r"my\.jsonl is larger than"):
        read(tmp_path, lines(ROWS))


# ---- forms ----


def test_the_first_accepted_row_says_the_form_and_others_are_rejected(tmp_path: Path) -> None:
    qa, chat = WITHOUT_CONTEXT["question-answer"], WITHOUT_CONTEXT["messages"]
    both = {**chat("д", "е"), "question": "не он", "answer": "не он"}
    table = read(tmp_path, lines([qa("", "б"), chat("а", "б"), qa("в", "г"), both]))
    assert reasons(table) == [
        (1, "empty question"),
        (3, "another form: question-answer, where the rows before are messages"),
    ]
    assert [row.question for row in table.rows] == ["а", "д"]


def test_of_a_conversation_the_first_question_and_its_answer_are_taken_and_the_rest_is_counted(tmp_path: Path) -> None:
    records = [
        [told("system", "s"), told("gpt", "Здравствуйте!"), told("human", "а"), told("gpt", "б"), told("human", "в")],
        [told("human", "а"), told("gpt", "б"), told("system", "повтор: не считается")],
        [told("human", "а"), told("system", "s"), told("gpt", "г")],
        [told("user", "без ответа")],
        [told("human", "а"), told("human", "б"), told("gpt", "в")],
        [told("gpt", "а")],
        [told("human", "а"), told("tool", "б"), told("gpt", "в")],
        "а",
        ["а"],
        [{"value": "а"}],
        [told("human", "а"), told("gpt", None)],
        [],
    ]
    table = read(tmp_path, lines({"conversations": record} for record in records))
    assert [row.cells for row in table.rows] == [
        {"question": "а", "answer": "б", "context": ""},
        {"question": "а", "answer": "г", "context": ""},
    ]
    assert table.summary() == (
        "my.jsonl: 12 rows read = 2 accepted + 9 rejected + 1 duplicates"
        " (utf-8, sharegpt; left out: 2 system messages and 2 other messages)"
    )
    assert reasons(table) == [
        (4, "no answer follows the first question"),
        (5, "no answer follows the first question"),
        (6, "no message is the user's"),
        (7, "no answer follows the first question"),
        (8, "the conversation is not a list of messages"),
        (9, "a message is not an object"),
        (10, "a message does not say whose it is"),
        (11, "empty answer"),
        (12, "no message is the user's"),
    ]


def test_parts_of_a_message_are_joined_and_must_be_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Что"}, {"type": "text", "text": "здесь?"}]
    image = [*parts, {"type": "image_url", "image_url": {"url": "http://a.example"}}]
    chats = [[said("developer", "s"), said("user", content), said("assistant", "б")] for content in (parts, image)]
    table = read(tmp_path, lines({"messages": chat} for chat in chats))
    assert [row.question for row in table.rows] == ["Что\nздесь?"]
    assert reasons(table) == [(2, "a part of a message is not text")]


def test_prompts_of_messages_hold_one(tmp_path: Path) -> None:
    good = {"prompt": [said("system", "s"), said("user", "а")], "completion": [said("assistant", "б")]}
    talk = {**good, "prompt": [said("user", "а"), said("assistant", "б"), said("user", "в")]}
    swapped = {**good, "completion": [said("user", "б")]}
    table = read(tmp_path, lines([good, talk, swapped, {"prompt": "в", "completion": [said("assistant", "г")]}]))
    assert [(row.question, row.answer) for row in table.rows] == [("а", "б"), ("в", "г")]
    assert reasons(table) == [
        (2, "the prompt is not one message of the user"),
        (3, "the completion is not one message of the assistant"),
    ]
    assert "left out: 1 system messages)" in table.summary()


def test_the_input_of_an_instruction_is_part_of_the_question(tmp_path: Path) -> None:
    records = [
        {"instruction": "Переведи.", "input": "Hello", "output": "Привет", "system": "Ты переводчик.", "history": []},
        {"instruction": "Почему?", "input": None, "output": "Потому."},
        {"instruction": "А ещё?", "output": "Нет.", "history": [["Почему?", "Потому."]]},
        {"instruction": ["а"], "output": "б"},
    ]
    table = read(tmp_path, lines(records))
    assert [row.question for row in table.rows] == ["Переведи.\n\nHello", "Почему?"]
    assert reasons(table) == [
        (3, "it goes on from a history, and single questions are trained"),
        (4, "instruction is a list, not text"),
    ]
    assert "alpaca; left out: 1 system messages)" in table.summary()


@pytest.mark.parametrize("form", [*WITHOUT_CONTEXT])
def test_a_form_without_a_required_context_is_refused_once(tmp_path: Path, form: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path, lines(WITHOUT_CONTEXT[form](f"{n}", "б") for n in range(200)), required=(*QA, "context"))
    assert f"It is {form.split(' of ')[0]} without context, required here." in refused.value.detail


def test_where_a_context_is_required_the_rows_without_are_rejected(tmp_path: Path) -> None:
    table = read(
        tmp_path, lines([GOOD, {**GOOD, "context": ""}, {"question": "а", "answer": "б"}]), required=(*QA, "context")
    )
    assert reasons(table) == [(2, "empty context"), (3, "no context")]


def test_a_csv_is_read_as_before_and_has_the_cells_that_were_asked_for(tmp_path: Path) -> None:
    table = read(tmp_path, "question;answer\nСколько стоит курс?;Сто рублей.\n", "my.csv")
    assert table.rows[0].cells == {"question": "Сколько стоит курс?", "answer": "Сто рублей.", "context": ""}
    assert table.summary().endswith("(utf-8, delimiter ';')")
    with pytest.raises(InvalidInput, match="lacks the column context"):
        read(tmp_path, "question;answer\nа;б\n", "my.txt", required=(*QA, "context"))


# ---- MS MARCO, Parquet ----


def test_ms_marco_as_it_is_published(tmp_path: Path) -> None:
    rows = [
        marco("what is rba", ["Results-Based Accountability."], {"one": 0, "two": 1, "three": 1}, well_formed=[]),
        marco("why", ["because", "so"], {"one": 0, "two": 0}, well_formed=["It is because."]),
        marco("who", [], {"one": 1}),
        marco("where", ["No Answer Present."], {"one": 1}),
        marco("when", [""], {"one": 1}),
        marco("", ["a"], {"one": 1}),
        {**marco("how", ["a"], {"one": 1}), "passages": {"is_selected": [1], "passage_text": ["a", "b"], "url": []}},
        {**marco("how", ["a"], {}), "answers": None},
        marco("no passages", ["a"], {}),
    ]
    table = read_dataset(write_parquet(tmp_path / "train.parquet", rows, MARCO), QA, ("context",))
    assert [(row.number, row.question, row.answer, row.context) for row in table.rows] == [
        (1, "what is rba", "Results-Based Accountability.", "two\n\nthree"),
        (2, "why", "because", "one\n\ntwo"),
        (9, "no passages", "a", ""),
    ]
    assert reasons(table) == [
        (3, "no answer"),
        (4, "no answer"),
        (5, "no answer"),
        (6, "empty question"),
        (7, "passages has not one is_selected for each passage_text"),
        (8, "answers is not a list or passages not an object"),
    ]
    assert table.summary() == "train.parquet: 9 rows read = 3 accepted + 6 rejected + 0 duplicates (parquet, MS MARCO)"


def test_parquet_of_more_than_one_batch_reads_known_columns_only(tmp_path: Path) -> None:
    never = pyarrow.array([2**62] * 250, pyarrow.timestamp("ms"))  # Python has no such date
    questions = pyarrow.array([f"Вопрос {n}" for n in range(250)])
    columns = {"Question": questions, "answer": questions, "context": pyarrow.nulls(250, pyarrow.string()), "at": never}
    parquet.write_table(pyarrow.table(columns), tmp_path / "my.parquet")
    table = read_dataset(tmp_path / "my.parquet", QA, ("context",))
    assert accounts(table) == (250, 250, 0, 0)
    assert table.rows[249].cells == {"question": "Вопрос 249", "answer": "Вопрос 249", "context": ""}


def test_parquet_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_parquet(tmp_path / "my.parquet", ROWS)
    whole = file.read_bytes()
    for content in (b"", b"PAR1", whole[:-10], whole[:4] + bytes(len(whole) - 4), b"question,answer\na,b\n"):
        with pytest.raises(InvalidInput, match=r"my\.parquet cannot be read as Parquet: .*\. Nothing was read\."):
            read(tmp_path, content, "my.parquet")
    text = pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.binary()).cast(pyarrow.string(), safe=False)
    parquet.write_table(pyarrow.table({"question": text, "answer": text}), file)
    with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
        read_dataset(file, QA)
    with pytest.raises(InvalidInput, match=r"none of the columns that are read: it has a, b\. Expected: question"):
        read_dataset(write_parquet(file, [{"a": 1, "b": 2}]))
    with pytest.raises(InvalidInput, match="a column more than once: answer, Answer"):
        read_dataset(write_parquet(file, [{"answer": "а", "Answer": "б"}]))
    with pytest.raises(InvalidInput, match="It is question-answer without context"):
        read_dataset(write_parquet(file, [{"question": "а", "answer": "б"}]))
    packed = write_parquet(tmp_path / "packed.parquet", [{**GOOD, "answer": "а" * 900_000, "notes": "б" * 90_000}])
    assert packed.stat().st_size < 200_000
    monkeypatch.setattr(dataset, "MAX_TEXT_CHARS", 1_800_000)
    with pytest.raises(InvalidInput, match="over 1,800,000 characters"):
        read_dataset(packed)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidInput, match="pip install pyarrow"):
        read_dataset(file)


# ---- the hub ----


def test_a_dataset_of_the_hub_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(path: str, **options: Any) -> Iterable[Any]:
        asked.append((path, options))
        return iter([{**GOOD, "score": float("nan")}, {"question": "\ud800", "answer": "б"}, {"question": "а"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    table = read_dataset("hf:some/data.set@refs/convert/parquet:test", QA, ("context",))
    assert table.summary() == (
        "hf:some/data.set@refs/convert/parquet:test: 3 rows read = 1 accepted + 2 rejected + 0 duplicates"
        " (hub, question-answer)"
    )
    assert reasons(table) == [(2, "half a character (a lone surrogate)"), (3, "no answer")]
    read_dataset(Path("hf:some/data.set"), QA)
    read_dataset(Path("hf:some/data.set/v1.1 en"), QA)
    read_dataset("hf:some/data.set/v1.1@0a1b:test", QA)
    plain = {"name": None, "split": "train", "revision": None, "streaming": True}
    assert asked == [
        ("some/data.set", plain | {"split": "test", "revision": "refs/convert/parquet"}),
        ("some/data.set", plain),
        ("some/data.set", plain | {"name": "v1.1 en"}),
        ("some/data.set", plain | {"name": "v1.1", "split": "test", "revision": "0a1b"}),
    ]


@pytest.fixture
def two_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``some/data``, which the package takes from a folder of that name as it does from the hub."""
    folder = tmp_path / "some" / "data"
    folder.mkdir(parents=True)
    configs = ""
    for config, split in (("v1.1", "train"), ("v2.1", "test")):
        (folder / f"{config}.jsonl").write_text(lines([{**GOOD, "question": config}]), encoding="utf-8")
        configs += f"- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {config}.jsonl\n"
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("two_configs")
@pytest.mark.parametrize(("source", "question"), [("hf:some/data/v1.1", "v1.1"), ("hf:some/data/v2.1:test", "v2.1")])
def test_a_config_of_a_dataset_is_read(source: str, question: str) -> None:
    assert [row.question for row in read_dataset(source, QA).rows] == [question]


@pytest.mark.usefixtures("two_configs")
@pytest.mark.parametrize(
    ("source", "example"),
    [
        ("hf:some/data", "hf:some/data/v1.1"),
        ("hf:some/data:test", "hf:some/data/v1.1:test"),
        ("hf:some/data/v3@main:test", "hf:some/data/v1.1@main:test"),
    ],
)
def test_the_configs_are_listed_where_none_of_them_is_named(source: str, example: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_dataset(source)
    assert refused.value.detail == (
        f"{source} has to name one of the dataset's configs (subsets): v1.1, v2.1. For example: {example}"
    )


def test_a_cell_of_the_hub_is_bounded_as_in_a_csv(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [GOOD, {**GOOD, "answer": "а" * 1_000_001}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: iter(rows))
    assert reasons(read_dataset("hf:some/data")) == [(2, "answer has over 1,000,000 characters")]


def test_a_dataset_of_the_hub_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: itertools.repeat(GOOD))
    monkeypatch.setattr(dataset, "MAX_TEXT_CHARS", 10_000)
    with pytest.raises(InvalidInput, match=r"hf:some/data holds over 10,000 characters\. Take a part of it\."):
        read_dataset("hf:some/data")


@pytest.mark.parametrize(
    "error", [ConnectionError("no route\nto host"), ValueError("Bad split: no"), FileNotFoundError()]
)
@pytest.mark.parametrize("late", [False, True])
def test_a_hub_that_fails_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, late: bool
) -> None:
    def rows() -> Iterable[Any]:
        yield GOOD
        raise error

    def load(*_: Any, **__: Any) -> Iterable[Any]:
        if late:
            return rows()
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InvalidInput, match="download the file and give its path") as refused:
        read_dataset("hf:some/data")
    assert f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}" in refused.value.detail


@pytest.mark.parametrize(
    "source", ["hf:", "hf:name", "hf:a/b/", "hf:a/b/c/d", "hf:a/b/..", "hf:a/b@", "hf:a/b:", "hf:../../b", "hf:a b/c"]
)
def test_what_is_no_id_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(InvalidInput, match="is not hf:owner/name"):
        read_dataset(source)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidInput, match="pip install datasets"):
        read_dataset("hf:some/data")


# ---- nothing crashes it ----

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(sorted(dataset._KEYS)) | st.text(), inner)
    ),
    max_leaves=8,
)
KEYED = st.dictionaries(
    st.sampled_from(sorted(dataset._KEYS)),
    JSON | st.lists(st.dictionaries(st.sampled_from(["role", "content", "from", "value", "type", "text"]), JSON)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(
    st.lists(JSON | KEYED, max_size=4).map(lines)
    | st.lists(JSON | KEYED, max_size=4).map(json.dumps)
    | st.text('[]{},:"\\ \n\rqu1eE-.\ud800', max_size=80).filter(lambda text: text.isascii())
    | st.binary(max_size=80),
    st.sampled_from(["fuzz.json", "fuzz.jsonl"]),
)
def test_no_content_crashes_it(tmp_path: Path, content: str | bytes, name: str) -> None:
    good = (lines([GOOD]).rstrip("\n") + "\n").encode()
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    for whole in (raw, raw + b"\n" + good):
        try:
            table = read(tmp_path, whole, name)
        except InvalidInput:
            continue
        assert table.rows
        assert table.read == len(table.rows) + table.rejected + table.duplicates
        assert all(row.question and row.answer for row in table.rows)
        assert table.sha256
