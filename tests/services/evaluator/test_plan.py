"""What is asked is what nobody was trained on, and who was trained on what is known or said to be unknown."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.artifacts import AdapterManifest, BaseModelRecord, DataRecord, Home, LossRecord, write_atomically
from contracts.errors import InvalidInput
from contracts.evaluation import AskedQuestion, EvaluationQuestion
from contracts.generation import Mode
from contracts.table import read_table
from services.evaluator.arms import parse_arms, passage_for
from services.evaluator.plan import Plan, make_plan
from services.evaluator.questions import Questions, default_questions, from_csv
from tests.services.evaluator.fakes import make_adapter

ADAPTER = "qa.0123456789ab"
ROWS = 20
TRAINED, DEV, TEST = range(1, 11), range(11, 13), range(13, 21)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        f"Сколько стоит товар номер {n}?,Товар {n} стоит {100 * n} рублей.,Цена товара {n}: {100 * n} рублей."
        for n in range(1, ROWS + 1)
    ]
    path = tmp_path / "товары.csv"
    path.write_text("question,answer,context\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def home(tmp_path: Path, data: Path) -> Home:
    """A home with one adapter that was trained on half of the file."""
    home, now = Home(path=tmp_path / "artifacts"), datetime.now(UTC)
    manifest = AdapterManifest(
        id=ADAPTER, name="qa", modes=[Mode.ft], files={}, created=now, published=now,
        base=BaseModelRecord(model="tiny", revision="sha256:0", quantization="nf4", compute_dtype="float32"),
        data=DataRecord(file=data.name, sha256=read_table(data).sha256, rows=ROWS, train_rows=[*TRAINED],
                        dev_rows=[*DEV], test_rows=[*TEST]),
        system_prompt_sha256="0", recipe={}, seed=1, losses=LossRecord(train=1, dev=1, best_step=1, steps=1),
        seconds={"train": 12.0}, versions={},
    )  # fmt: skip
    write_atomically(home.adapters / ADAPTER / "manifest.json", manifest.model_dump_json().encode())
    return home


def plan(home: Home, data: Path, questions: Questions, modes: str = "rag,ft", measure: int = 0) -> Plan:
    served = [make_adapter(ADAPTER, data.name)]
    return make_plan(questions, parse_arms(modes.split(",")), served, home=home, data=data, measure=measure)


def five(tmp_path: Path) -> Questions:
    path = tmp_path / "questions.txt"
    path.write_text("Первый?\nВторой?\n", encoding="utf-8")
    return default_questions(path)


def test_beside_the_questions_only_rows_that_nobody_was_trained_on_are_measured(
    home: Home, data: Path, tmp_path: Path
) -> None:
    made = plan(home, data, five(tmp_path), measure=5)
    assert [each.question for each in made.shown] == ["Первый?", "Второй?"]
    held_out = [each for each in made.asked if each.held_out]
    assert len(held_out) == 5
    assert {each.row for each in held_out} <= set(TEST)
    assert [each.row for each in held_out] == sorted(each.row or 0 for each in held_out)
    again = plan(home, data, five(tmp_path), measure=5)
    assert again.frozen() == made.frozen()
    everything = plan(home, data, five(tmp_path), measure=100)
    assert [each.row for each in everything.asked if each.held_out] == [*TEST]
    assert sorted(row.number for row in made.train) == [*TRAINED, *DEV]
    assert made.frozen()["adapters"] == {"ft": ADAPTER}


def test_the_file_that_was_trained_on_is_asked_for_its_test_rows_alone_in_any_encoding(home: Home, data: Path) -> None:
    content = data.read_text(encoding="utf-8").encode("cp1251")
    made = plan(home, data, from_csv(content, "другое имя.csv"))
    assert [each.row for each in made.asked] == [*TEST]
    assert made.origin.trained_on == len(TRAINED) + len(DEV)


def test_another_file_is_asked_whole_and_its_training_rows_are_known(home: Home, data: Path) -> None:
    made = plan(home, data, from_csv("question,answer\nСколько стоит кот?,Сто.\nА пёс?,Двести.\n".encode(), "q.csv"))
    assert len(made.asked) == 2
    assert made.origin.trained_on is None
    assert len(made.train) == len(TRAINED) + len(DEV)


def test_where_the_data_is_gone_nobody_claims_to_know_what_was_trained_on(home: Home, tmp_path: Path) -> None:
    made = plan(home, tmp_path / "gone.csv", five(tmp_path))
    assert (made.train, made.unknown) == ([], ["ft"])
    with pytest.raises(InvalidInput, match=r"gone\.csv cannot be read"):
        plan(home, tmp_path / "gone.csv", five(tmp_path), measure=5)


def test_a_file_that_changed_since_the_training_is_not_measured_on(home: Home, data: Path, tmp_path: Path) -> None:
    with data.open("a", encoding="utf-8") as file:
        file.write("А это новая строка?,Да.,Новая.\n")
    with pytest.raises(InvalidInput, match="has changed since"):
        plan(home, data, five(tmp_path), measure=60)


def test_what_is_asked_already_is_not_asked_again(home: Home, data: Path) -> None:
    questions = from_csv("question,answer\nСколько стоит товар номер 15?,1500 рублей.\n".encode(), "q.csv")
    assert [each.row for each in plan(home, data, questions, measure=100).asked] == [1, 13, 14, *range(16, 21)]


def test_an_adapter_that_is_not_known_does_not_hide_what_another_was_trained_on(home: Home, data: Path) -> None:
    questions = from_csv("question,answer\nЧто нового?,Всё.\n".encode(), "q.csv")
    made = plan(home, data, questions, modes="ft,ft:other.0123456789ab")
    assert made.unknown == ["ft:other.0123456789ab"]
    assert len(made.train) == len(TRAINED) + len(DEV)


def test_without_a_tuned_arm_nothing_was_trained_on_and_every_row_may_measure(
    home: Home, data: Path, tmp_path: Path
) -> None:
    made = plan(home, data, five(tmp_path), modes="base,rag", measure=100)
    assert (made.train, made.unknown) == ([], [])
    assert sum(each.held_out for each in made.asked) == ROWS


@pytest.mark.parametrize(
    "modes", ["", "RAG", "rag,rag", "base:qa.0123456789ab", "ft:../../etc", "ft:", ",".join(["x"] * 13)]
)
def test_arms_that_are_none_are_refused(modes: str) -> None:
    with pytest.raises(InvalidInput, match="modes"):
        parse_arms(modes.split(","))


def test_controls_answer_from_the_right_context_and_from_another(home: Home, data: Path, tmp_path: Path) -> None:
    oracle, shuffled = parse_arms(["oracle", "shuffled"])
    texts = ["Первый.", " Первый. ", "Второй.", None]
    asked = [AskedQuestion(question=EvaluationQuestion(question="?", context=text), answers=[]) for text in texts]
    assert [passage_for(oracle, asked, n) for n in range(4)] == ["Первый.", "Первый.", "Второй.", None]
    assert [passage_for(shuffled, asked, n) for n in range(4)] == ["Второй.", "Второй.", "Первый.", "Первый."]
    with pytest.raises(InvalidInput, match="need questions with a context"):
        plan(home, data, five(tmp_path), modes="rag,oracle")
