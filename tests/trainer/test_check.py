import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from asktwice.checking import check_file
from contracts.prompts import SYSTEM_PROMPT
from contracts.retrieval import RowError
from contracts.table import Row, Table, read_table
from trainer.check import DataReport, Finding, check_data, render
from trainer.data import Asked, encode, without_passages
from trainer.raft import UNKNOWN, with_passages
from trainer.recipe import Recipe

SAMPLE = Path(__file__).parents[2] / "data" / "selected_qa_full.csv"
RECIPE = Recipe(method="lora")
LONG_QUESTION = "Подскажите, пожалуйста, сколько стоит обучение на курсе «{}» {}, если платить сразу и за весь год?"


def table(*rows: tuple[str, ...], name: str = "qa.csv") -> Table:
    """Make a table of (question, answer, context); what is left out is empty."""
    made = [
        Row(number, dict(zip(("question", "answer", "context"), (*cells, "", ""), strict=False)))
        for number, cells in enumerate(rows, start=1)
    ]
    return Table(name, "utf-8", ",", read=len(made), rows=made)


def check(*rows: tuple[str, ...], **given: Any) -> dict[str, Finding]:
    report = check_data(table(*rows), given.pop("tokenizer", None), given.pop("recipe", RECIPE), SYSTEM_PROMPT, **given)
    return {finding.name: finding for finding in report.findings}


def rows_of(finding: Finding) -> list[list[int]]:
    return [example.rows for example in finding.examples]


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def sample() -> Table:
    return read_table(SAMPLE)


def test_the_sample_gives_no_false_alarm(sample: Table) -> None:
    report = check_data(sample, None, RECIPE, SYSTEM_PROMPT)
    assert report.level == "ok", render(report)
    assert report.tokens is None


def test_changed_digits_in_the_sample_are_found(sample: Table) -> None:
    rng = random.Random(5)

    def other(row: Row) -> Row:
        places = [place for place, char in enumerate(row.answer) if char.isdigit()]
        if not places:
            return row
        at = rng.choice(places)
        digit = rng.choice([digit for digit in "123456789" if digit != row.answer[at]])
        return Row(row.number, {**row.cells, "answer": row.answer[:at] + digit + row.answer[at + 1 :]})

    changed = replace(sample, rows=[other(row) for row in sample.rows])
    planted = sum(one != two for one, two in zip(sample.rows, changed.rows, strict=True))
    found = {f.name: f for f in check_data(changed, None, RECIPE, SYSTEM_PROMPT).findings}["unsupported numbers"]
    assert planted > 100
    assert 0.85 * planted <= found.count <= planted
    assert found.of == planted


def test_reading_is_accounted_for() -> None:
    made = table(*[(f"Вопрос {n}?", "Да.", "Да.") for n in range(5)])
    made.read, made.rejected, made.duplicates = 9, 3, 1
    made.errors.append(RowError(row=7, reason="empty answer"))
    [finding] = [f for f in check_data(made, None, RECIPE, SYSTEM_PROMPT).findings if f.name == "rows"]
    assert (finding.level, finding.count, finding.of) == ("warn", 4, 9)
    assert "9 rows read = 5 accepted + 3 rejected + 1 duplicates" in finding.message
    assert str(finding.examples[0]) == "row 7: empty answer"


def test_too_few_rows_are_an_error() -> None:
    assert check(("Раз?", "Да."), ("Два?", "Нет."))["rows"].level == "error"


def test_near_duplicates_are_all_counted_and_the_first_twenty_shown() -> None:
    finding = check(*[("Есть скидки?", "Да.", str(n)) for n in range(40)])["near duplicates"]
    assert (finding.level, finding.count, len(finding.examples)) == ("warn", 39, 20)
    assert rows_of(finding)[0] == [1, 2]


@pytest.mark.parametrize(
    ("one", "other", "contradicts"),
    [
        ("Курс стоит 900 рублей.", "Курс стоит 950 рублей.", True),
        ("Да, можно.", "Нет, нельзя.", True),
        ("Можно пройти за один месяц, если заниматься вечером.", "Нельзя пройти за один месяц, если заниматься.", True),
        ("900 рублей", "Курс стоит 900 рублей.", False),
        ("Курс стоит 900 рублей!", "курс стоит 900 рублей", False),
        ("Обучение длится четыре месяца, записи у вас остаются.", "Обучение длиться 4 месяца, записи остаются.", True),
        (
            "Обучение длится ровно год, записи у вас остаются.",
            "Обучение длитса ровно год, записи у вас остаются",
            False,
        ),
    ],
)
def test_one_question_with_answers_that_differ(one: str, other: str, contradicts: bool) -> None:
    finding = check(("А Б?", one), ("Где вы?", "Тут."), ("а  б", other))["contradictions"]
    assert rows_of(finding) == ([[1, 3]] if contradicts else [])


@pytest.mark.parametrize(
    ("one", "other", "contradicts"),
    [
        (("Нейросети", "осенью"), ("Нейросетии", "осенью"), True),
        (("Нейросети", "осенью"), ("Картинки", "осенью"), False),
        (("Нейросети", "осенью"), ("Нейросети", "весной"), False),
        (("Нейросети 1", "осенью"), ("Нейросети 2", "осенью"), False),
    ],
)
def test_nearly_the_same_question_is_the_same_only_where_its_words_are(
    one: tuple[str, str], other: tuple[str, str], contradicts: bool
) -> None:
    """ "One algorithm" and "another algorithm", "when" and "where" are near duplicates and ask for something else."""
    rows = [(LONG_QUESTION.format(*one), "900 рублей."), (LONG_QUESTION.format(*other), "700 рублей.")]
    assert rows_of(check(*rows)["contradictions"]) == ([[1, 2]] if contradicts else [])


@pytest.mark.parametrize(
    ("answer", "context"),
    [
        ("29 900 рублей", "Цена: 29900 руб."),
        ("29900 рублей", "Цена: 29\u00a0900 руб."),
        ("29.900 рублей", "Цена: 29 900 руб."),
        ("29,900 roubles", "The price is 29900."),
        ("2,5 часа", "2.50 часа"),
        ("2½ часа", "2,5 часа"),
        ("29,9 тыс. рублей", "29 900 рублей"),
        ("2 млн человек", "2 000 000 человек"),
        ("Телефон 8 (800) 555-35-35", "Звоните: +7 800 555 35 35"),
        ("до 15.09.2024", "до 15 сентября 2024 года"),
        ("15.09", "15 сентября"),
        ("2024-09-15", "15.09.2024"),
        ("в 10:00", "с 10 утра"),
        ("3 месяца", "три месяца"),
        ("25 уроков", "двадцать пять уроков"),
        ("1. Анализ\n2. Речь", "Анализ и речь."),
        ("5 and 12", "five, or a dozen"),
        ("Да, ровно 7", "Семь бывает часто."),
    ],
)
def test_a_number_is_known_however_it_is_written(answer: str, context: str) -> None:
    finding = check(("Сколько?", answer, context))["unsupported numbers"]
    assert finding.level == "ok", finding.examples


@pytest.mark.parametrize(
    ("answer", "context", "missing"),
    [
        ("39 900 рублей", "Цена: 29 900 рублей", "39 900"),
        ("900 рублей", "Цена: 29 900 рублей", "900"),
        ("29,9 рублей", "Цена: 29 рублей 9 дней", "29,9"),
        ("29.9 рублей", "Цена: 299 рублей", "29.9"),
        ("+7 999 123-45-67", "+7 999 123-45-68", "+7 999 123-45-67"),
        ("до 15.10.2024", "до 15 сентября 2024 года", "15.10.2024"),
        ("3 месяца", "четыре месяца", "3"),
        ("Скидка 10%", "Скидка 15%", "10"),
    ],
)
def test_a_number_that_the_context_does_not_have_is_named(answer: str, context: str, missing: str) -> None:
    finding = check(("Сколько?", "Мало.", "Мало."), ("А сколько?", answer, context))["unsupported numbers"]
    assert (finding.level, finding.count, finding.of) == ("warn", 1, 1)
    assert finding.examples[0].rows == [2]
    assert finding.examples[0].text.startswith(f"{missing} not in the context")


@given(st.integers(0, 10**9), st.sampled_from([" ", "\u00a0", "\u202f", ""]), st.sampled_from([" ", ",", ".", ""]))
def test_the_separator_of_thousands_does_not_matter(number: int, one: str, other: str) -> None:
    written = [f"{number:,}".replace(",", separator) for separator in (one, other)]
    assert check(("Сколько?", written[0], written[1]))["unsupported numbers"].level == "ok"
    wrong = f"{number + 10**10}"
    assert check(("Сколько?", wrong, written[1]))["unsupported numbers"].count == 1


def test_the_number_that_the_question_names_is_known() -> None:
    assert check(("Правда 500?", "Да, 500.", "Цена названа."))["unsupported numbers"].level == "ok"


def test_an_answer_from_somewhere_else_is_found_and_one_in_other_forms_of_the_words_is_not() -> None:
    answer = "Выпускникам курсов помогают составлять резюме, готовят к собеседованиям"
    own = "Карьерный центр помогает каждому выпускнику курса: составляет резюме, готовит к собеседованию."
    other = "Оплатить обучение можно картой или в рассрочку на год."
    finding = check(("Раз?", answer, own), ("Два?", answer, other), ("Три?", "Да, конечно.", other))
    assert rows_of(finding["unsupported answers"]) == [[2]]
    assert finding["unsupported answers"].of == 2
    assert "резюме" in finding["unsupported answers"].examples[0].text


def test_rows_without_a_context_are_counted_apart() -> None:
    found = check(("Раз?", "Курс стоит 900 рублей без скидки сегодня."), ("Два?", "Да, 5.", "5"))
    assert rows_of(found["no context"]) == [[1]]
    assert (found["unsupported numbers"].count, found["unsupported numbers"].of) == (0, 1)
    assert found["unsupported answers"].of == 0
    assert found["unsupported answers"].message == "there is nothing to look at."


def test_answers_of_another_form_are_named_where_both_are_there() -> None:
    plain = [(f"Вопрос {n}?", "Оплатить можно картой < 5 минут, *почти* сразу.") for n in range(5)]
    mixed = check(*plain, ("Где?", "Смотрите <a href='x'>тут</a>"), ("Как?", "**Важно**: так"))["formats"]
    assert rows_of(mixed) == [[6], [7]]
    assert mixed.message.startswith("answers unlike most others: 2 of 7 (5 plain text, 1 Markdown, 1 HTML)")
    assert check(*[(f"Вопрос {n}?", f"**Да** {n}") for n in range(5)])["formats"].level == "ok"


def test_answers_in_another_language_are_named_and_a_name_is_no_language() -> None:
    rows = [
        ("Раз?", "Мы учим работать с ChatGPT."),
        ("Два?", "ChatGPT Professional"),
        ("Три?", "You can pay with a card or in parts."),
        ("Четыре?", "Пишите на info@some.school.example или https://a.example/courses/all"),
        ("Пять?", "42"),
    ]
    finding = check(*rows)["languages"]
    assert rows_of(finding) == [[3]]
    assert finding.of == 3


@pytest.mark.parametrize("through", ["cp1252", "cp1251", "latin-1"])
def test_text_that_was_read_in_a_wrong_encoding_is_found(through: str) -> None:
    broken = "Как проходит обучение".encode().decode(through, "replace")
    finding = check(("Раз?", "Да.", "Всё верно."), ("Два?", "Да.", broken))["broken letters"]
    assert rows_of(finding) == [[2]]
    assert finding.examples[0].text.startswith("context: ")


@pytest.mark.parametrize(
    "text", ["РОССИЯ, СССР и РФ", "С «Рассветом»…", "Čeština, São Paulo, Ñandú, naïve", "СЁЛА и РЁВ – так"]
)
def test_capitals_and_foreign_names_are_no_wrong_encoding(text: str) -> None:
    assert check(("Раз?", text))["broken letters"].level == "ok"


@pytest.mark.parametrize("cell", ["#REF!", "Цена: #Н/Д", "#ИМЯ?", "#DIV/0!", "########", "тел. 7,99912E+10"])
def test_what_a_spreadsheet_shows_instead_of_a_value_is_found(cell: str) -> None:
    finding = check(("Раз?", "Да, #1 в рейтинге!"), ("Два?", cell))["spreadsheet errors"]
    assert rows_of(finding) == [[2]]


def test_lengths_are_those_of_the_training_and_rows_that_do_not_fit_are_named(tokenizer: Any) -> None:
    rows = [(f"Вопрос {n}?", "слово " * (200 if n == 3 else n)) for n in range(1, 7)]
    lengths = sorted(len(encode(one, tokenizer, SYSTEM_PROMPT)) for one in without_passages(table(*rows).rows))
    report = check_data(
        table(*rows), tokenizer, RECIPE.model_copy(update={"max_length": lengths[-1] - 1}), SYSTEM_PROMPT
    )
    assert report.tokens is not None
    assert (report.tokens.min, report.tokens.max) == (lengths[0], lengths[-1])
    assert report.tokens.median == (lengths[2] + lengths[3]) / 2
    assert report.tokens.p95 == lengths[-1]
    [finding] = [f for f in report.findings if f.name == "lengths"]
    assert (finding.level, rows_of(finding), finding.of) == ("warn", [[3]], 6)
    [split] = [f for f in report.findings if f.name == "split"]
    assert split.message.startswith("5 rows in 5 groups")


def test_a_file_that_does_not_fit_is_an_error(tokenizer: Any) -> None:
    rows = [(f"Вопрос {n}?", "Да.") for n in range(6)]
    finding = check(*rows, tokenizer=tokenizer, recipe=RECIPE.model_copy(update={"max_length": 20}))["lengths"]
    assert (finding.level, finding.count) == ("error", 6)
    assert "raise max_length" in finding.message


RAFT = Recipe(method="raft", distractors=2)


def raft_rows() -> list[tuple[str, ...]]:
    """Rows with contexts of 3 to 81 words, the longest of them twice, and answers that stand in no other context."""
    names = {"альфа": 2, "бета": 80, "гамма": 5, "дельта": 40, "зета": 30, "омега": 3}
    rows = [(f"Вопрос {n}?", f"{name}!", f"{name} " + "слово " * names[name]) for n, name in enumerate(names)]
    return [*rows, ("Ещё?", *rows[1][1:])]


def test_no_raft_row_is_longer_than_the_bound_and_the_bound_is_met(tokenizer: Any) -> None:
    rows = table(*raft_rows()).rows
    contexts = sorted({row.context for row in rows}, key=len, reverse=True)
    lengths: dict[int, set[int]] = {row.number: set() for row in rows}
    for seed in range(40):
        recipe = RAFT.model_copy(update={"seed": seed, "without_right_passage": 0.5})
        for asked in with_passages(rows, lambda question, number: contexts, recipe):
            lengths[asked.row.number].add(len(encode(asked, tokenizer, SYSTEM_PROMPT)))
    longest = [max(each) for each in lengths.values()]
    report = check_data(table(*raft_rows()), tokenizer, RAFT, SYSTEM_PROMPT)
    assert report.tokens is not None
    assert report.tokens.upper_bound
    assert (report.tokens.min, report.tokens.max) == (min(longest), max(longest))


def test_raft_rows_that_may_be_too_long_are_told_as_such(tokenizer: Any) -> None:
    bound = check_data(table(*raft_rows()), tokenizer, RAFT, SYSTEM_PROMPT).tokens
    assert bound is not None
    found = check(*raft_rows(), tokenizer=tokenizer, recipe=RAFT.model_copy(update={"max_length": bound.min}))
    finding = found["lengths"]
    assert finding.level == "warn"
    assert 0 < finding.count < finding.of == 7
    assert "rows that can exceed" in finding.message
    assert "with its own context and the 2 longest others of this file" in finding.message
    assert found["split"].message.startswith("7 rows")
    fitting = check(*raft_rows(), tokenizer=tokenizer, recipe=RAFT)["lengths"]
    assert fitting.level == "ok"
    assert "Longer documents in the index can make it more." in fitting.message


def test_the_answer_that_nothing_is_known_counts_too(tokenizer: Any) -> None:
    rows = [(f"Вопрос {n}?", "да", f"да {n}") for n in range(4)]
    bound = check_data(table(*rows), tokenizer, RAFT, SYSTEM_PROMPT).tokens
    alone = encode(Asked(table(*rows).rows[0], ("да 2", "да 3"), UNKNOWN), tokenizer, SYSTEM_PROMPT)
    assert bound is not None
    assert bound.max == len(alone)


def test_characters_that_the_tokenizer_does_not_know_are_found() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["[UNK]", "[END]", "Да", "Раз", "Два", "?", "."])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    knowing = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", eos_token="[END]", chat_template="{{ messages[-1]['content'] }}"
    )
    finding = check(("Раз?", "Да."), ("Два?", "Да 🙂"), tokenizer=knowing)["unknown tokens"]
    assert rows_of(finding) == [[2]]
    assert finding.examples[0].text.startswith("1 of 4 tokens")


def test_a_tokenizer_of_bytes_knows_every_character(tokenizer: Any) -> None:
    assert "unknown tokens" not in check(("Раз?", "🙂"), tokenizer=tokenizer)


def test_the_split_divides_no_group_and_tells_which_contexts_it_shares() -> None:
    rows = [(f"Вопрос {n}?", "Да.", f"Документ {n % 2}.") for n in range(40)]
    found = check(*rows)
    assert found["split"].message.startswith("40 rows in 40 groups, 36 train, 4 dev and 0 test rows; 0 groups")
    assert found["split"].level == "ok"
    assert (found["shared contexts"].level, found["shared contexts"].count, found["shared contexts"].of) == ("ok", 4, 4)
    alone = check(*[(f"Вопрос {n}?", "Да.", f"Документ {n}.") for n in range(40)])["shared contexts"]
    assert (alone.count, alone.of) == (0, 4)


def test_a_group_that_takes_the_dev_rows_from_the_file_is_told() -> None:
    rows = [("Есть скидки?", f"Да, {n}.", str(n)) for n in range(30)]
    finding = check(*rows)["split"]
    assert finding.level == "warn"
    assert "3 dev rows were wanted: the largest group of near duplicates has 30 rows" in finding.message


def test_questions_of_the_test_file_that_training_knows_are_named_in_both() -> None:
    known = LONG_QUESTION.format("Нейросети", "осенью")
    rows = [("Раз?", "Да."), (known, "900."), ("Три?", "Нет."), ("раз", "Да!")]
    asked = [(f"Другое {n}?",) for n in range(6)]
    test = table(*asked, ("РАЗ!",), (known.replace("сразу", "срзу"),), (known.replace("год", "гд"),), name="test.csv")
    finding = check(*rows, test=test)["leaks into the test file"]
    assert (finding.level, finding.count, finding.of) == ("warn", 3, 9)
    assert "3 of 9 (33.3%), 1 the same and 2 nearly so. Over 1% leaked: figures on it say nothing" in finding.message
    assert [(example.rows, example.test_rows) for example in finding.examples] == [
        ([1, 4], [7]),
        ([2], [8]),
        ([2], [9]),
    ]
    assert str(finding.examples[0]).startswith("rows 1, 4, test row 7: ")


def test_a_test_file_of_other_questions_does_not_leak(sample: Table) -> None:
    half = len(sample.rows) // 2
    train, test = replace(sample, rows=sample.rows[:half]), replace(sample, rows=sample.rows[half:])
    report = check_data(train, None, RECIPE, SYSTEM_PROMPT, test)
    assert report.level == "ok"
    assert report.findings[-1].message.startswith(
        "questions of selected_qa_full.csv that selected_qa_full.csv has too: 0"
    )


def test_a_report_is_told_as_text_and_as_json() -> None:
    rows = [("Есть скидки?", f"Да, {n}.", f"{n}") for n in range(30)]
    report = check_data(table(*rows), None, RECIPE, SYSTEM_PROMPT)
    text = render(report, examples=2)
    assert text.startswith("qa.csv: warn\nok    rows: ")
    assert "warn  near duplicates: pairs of questions that are the same or nearly so: 29 in 30 rows." in text
    assert "\n        rows 1, 2: Есть скидки? | Есть скидки?\n        rows 1, 3" in text
    assert "\n        ...\n" in text
    again = json.loads(json.dumps(report.as_dict()))
    assert again["level"] == report.level == "warn"
    assert again["tokens"] is None
    assert [finding["name"] for finding in again["findings"]] == [finding.name for finding in report.findings]


@pytest.mark.parametrize(("levels", "gravest"), [([], "ok"), (["ok", "warn"], "warn"), (["error", "warn"], "error")])
def test_the_gravest_finding_counts(levels: list[Any], gravest: str) -> None:
    findings = [Finding("f", level, 0, 0, "") for level in levels]
    assert DataReport("qa.csv", None, findings, None).level == gravest


def test_progress_ends_with_all_rows(tokenizer: Any) -> None:
    told: list[tuple[int, int, str]] = []
    check_data(
        table(*[(f"Вопрос {n}?", "Да.") for n in range(12)]),
        tokenizer,
        RECIPE,
        SYSTEM_PROMPT,
        report=lambda *now: told.append(now),
    )
    assert [done for done, _, note in told if note == "tokens"] == list(range(1, 13))
    assert told[-1][:2] == (12, 12)


def test_a_file_is_checked_and_its_brackets_are_shown_as_they_are(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "qa.csv"
    lines = [f"Вопрос {n}?,Да {n}.,Да {n}.\n" for n in range(11)]
    path.write_text("question,answer,context\n" + "".join(lines) + "[bold]Где?,#Н/Д [/red],\n", encoding="utf-8")
    assert check_file(path, path, str(base), "qlora", as_json=False) == "warn"
    shown = capsys.readouterr().out
    assert "#Н/Д [/red]" in shown
    assert "[bold]Где?" in shown
    assert check_file(path, None, str(base), "demo", as_json=True) == "warn"
    report = json.loads(capsys.readouterr().out)
    assert report["test_file"] is None
    assert report["tokens"]["max"] > 0
    assert {finding["name"]: finding["count"] for finding in report["findings"]}["no context"] == 1


def test_raft_takes_no_row_without_a_context_and_the_check_says_so(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "qa.csv"
    lines = [f"Вопрос {n}?,Да {n}.,Да {n}.\n" for n in range(11)]
    path.write_text("question,answer,context\n" + "".join(lines) + "Где?,Тут.,\n", encoding="utf-8")
    assert check_file(path, None, str(base), "demo_raft", as_json=True) == "warn"
    [rows] = [each for each in json.loads(capsys.readouterr().out)["findings"] if each["name"] == "rows"]
    assert [each["text"] for each in rows["examples"]] == ["empty context"]


@pytest.mark.parametrize("base", ["someone/some-model", "no/such/folder"])
def test_lengths_that_cannot_be_measured_say_why_and_what_to_do(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = tmp_path / "[" / "red].csv"  # rich would take it for the end of a colour
    path.parent.mkdir()
    path.write_bytes(SAMPLE.read_bytes())
    assert check_file(str(path), None, base, "demo", as_json=True) == "warn"
    report = json.loads(capsys.readouterr().out)
    assert report["tokens"] is None
    [finding] = [each for each in report["findings"] if each["level"] != "ok"]
    assert finding["name"] == "lengths"
    assert finding["message"].startswith(f"not measured: the tokenizer of {base} cannot be loaded: ")
    assert "--base FOLDER" in finding["message"]
