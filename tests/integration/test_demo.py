"""What the first command leaves behind."""

import csv
import json
import re
from pathlib import Path

from tests.integration.conftest import Demo, make_demo

RULE = "=" * 24
QUESTIONS = Path("data/questions.txt").read_text(encoding="utf-8").splitlines()


def blocks(section: str) -> list[str]:
    return [block.strip("\n") for block in section.split(RULE)[1:-1]]


def test_result_txt_has_the_agreed_format(demo: Demo) -> None:
    content = demo.result.read_bytes()
    assert b"\r" not in content
    text = content.decode("utf-8")
    assert text.endswith(f"{RULE}\n")
    headings = [
        "RAG (Retrieval-Augmented Generation) Qdrant + asktwice-tiny (с INT4 квантизацией) без Fine-tuning",
        "asktwice-tiny (с INT4 квантизацией) + Fine-tuning на дата сете selected_qa_full.csv",
        "Анализ качества ответов (gpt-4o-mini)",
        "Измерения и вывод",
    ]
    places = [text.index(f"{heading}\n{RULE}\n") for heading in headings]
    assert places == sorted(places)
    assert places[0] == 0
    sections = [text[start:end] for start, end in zip(places, [*places[1:], None], strict=True)]
    for section in sections[:2]:
        pattern = [
            rf"Вопрос {n}: {re.escape(question)}\nОтвет {n}: \S[^\n]*" for n, question in enumerate(QUESTIONS, 1)
        ]
        assert [bool(re.fullmatch(p, b)) for p, b in zip(pattern, blocks(section), strict=True)] == [True] * 5
        assert "[ошибка" not in section
    for section in sections[:3]:
        assert section.endswith(f"{RULE}\n\n")
    [analysis] = blocks(sections[2])
    assert "OPENAI_API_KEY" in analysis
    assert "\n" not in analysis
    assert "не Qwen" in sections[3]


def test_everything_is_where_it_was_said_to_be(demo: Demo) -> None:
    [evaluation] = [path for path in (demo.home / "evaluations").iterdir() if path.is_dir()]
    assert (evaluation / "result.txt").read_bytes() == demo.result.read_bytes()
    result = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))
    shown = [asked["question"]["question"] for asked in result["asked"] if not asked["held_out"]]
    assert shown == QUESTIONS
    with (evaluation / "answers.csv").open(encoding="utf-8-sig", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(QUESTIONS) + 60
    [adapter] = [path for path in (demo.home / "adapters").iterdir() if not path.name.startswith(".")]
    for name in ("manifest.json", "adapter_config.json", "adapter_model.safetensors", "loss.png"):
        assert (adapter / name).stat().st_size > 0
    assert str(demo.result) in demo.stderr
    assert str(evaluation) in demo.stderr
    for word in ("Question", "RAG", "Fine-tuning"):
        assert word in demo.stdout


def test_the_first_result_ends_with_a_verdict_on_rows_that_were_never_trained_on(demo: Demo) -> None:
    [evaluation] = [path for path in (demo.home / "evaluations").iterdir() if path.is_dir()]
    [adapter] = [path for path in (demo.home / "adapters").iterdir() if not path.name.startswith(".")]
    trained = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))["data"]
    result = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))
    held_out = [asked for asked in result["asked"] if asked["held_out"]]
    assert len(held_out) == 60
    assert not {asked["row"] for asked in held_out} & {*trained["train_rows"], *trained["dev_rows"]}
    measured = result["measurement"]
    assert measured["leakage"]["checked"]
    assert not measured["leakage"]["invalid"]
    assert {arm["arm"]: arm["answered"] for arm in measured["arms"]} == {"rag": 60, "ft": 60}
    [line] = [line for line in demo.result.read_text(encoding="utf-8").splitlines() if line.startswith("Вывод:")]
    assert line in demo.stderr
    frozen = json.loads((evaluation / "manifest.json").read_text(encoding="utf-8"))
    assert (frozen["held_out"], frozen["verdict"]["margin"]) == (60, 0.05)
    page = (evaluation / "report.html").read_text(encoding="utf-8")
    assert result["id"] in page


def test_every_step_says_how_long_it_took(demo: Demo) -> None:
    steps = re.findall(r"✓ (.+): [\d.]+ s", demo.stderr)
    assert steps == [
        "Indexing the contexts",
        "Training",
        "Starting the services",
        "Asking every question in rag and ft",
    ]
    assert re.search(r"about \d+ s left", demo.stderr)
    assert re.search(r"300 rows read = 300 accepted \+ 0 rejected \+ 0 duplicates", demo.stderr)


def test_the_answers_differ_by_mode_and_rag_reads_its_sources(demo: Demo) -> None:
    [evaluation] = [path for path in (demo.home / "evaluations").iterdir() if path.is_dir()]
    asked = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))["asked"][:5]
    by_mode = [{a["mode"]: a["answer"] for a in question["answers"]} for question in asked]
    assert all(answers["rag"]["sources"] and not answers["ft"]["sources"] for answers in by_mode)
    assert all(answers["ft"]["adapter"] and not answers["rag"]["adapter"] for answers in by_mode)
    assert sum(answers["rag"]["answer"] != answers["ft"]["answer"] for answers in by_mode) >= 4


def test_a_second_run_reuses_what_is_done_and_asks_anew(demo: Demo) -> None:
    before = {path.name for path in (demo.home / "evaluations").iterdir()}
    again = make_demo(demo.home.parent)
    assert "nothing to do" in again.stderr
    assert "300 rows read = 0 accepted + 0 rejected + 0 duplicates + 300 unchanged; 66 passages" in again.stdout
    assert len({path.name for path in (demo.home / "evaluations").iterdir()} - before) == 1
    assert len([path for path in (demo.home / "adapters").iterdir() if not path.name.startswith(".")]) == 1
    print(f"first run {demo.seconds:.0f} s, second run {again.seconds:.0f} s")
    assert again.seconds < demo.seconds / 2  # nothing is trained again; the questions are asked again


def test_the_users_own_file_in_cp1251_with_semicolons(tmp_path: Path) -> None:
    rows = ["question;answer;context;лишнее"]
    for n, (what, price) in enumerate([("чайник", 1200), ("утюг", 2300), ("тостер", 1700), ("фен", 900)], start=1):
        context = f"Наш магазин продаёт {what}. Цена: {price} рублей."
        rows += [
            f'Сколько стоит {what}?;Цена {price} рублей.;"{context}";{n}',
            f'Почём {what}?;Он стоит {price} рублей.;"{context}";{n}',
            f'А {what} у вас есть?;Да, {what} есть,\nцена {price} рублей.;"{context}";{n}'.replace(
                f"Да, {what} есть,\nцена {price} рублей.", f'"Да, {what} есть,\nцена {price} рублей."'
            ),
        ]
    file = tmp_path / "мой магазин.csv"
    file.write_bytes("\r\n".join(rows).encode("cp1251"))
    questions = tmp_path / "вопросы.txt"
    questions.write_text("Почём у вас фен?\n", encoding="utf-8")
    own = make_demo(tmp_path, DATA=str(file), QUESTIONS=str(questions))
    assert "12 rows read = 12 accepted" in own.stderr
    text = own.result.read_text(encoding="utf-8")
    assert "Fine-tuning на дата сете мой магазин.csv\n" in text
    [evaluation] = (own.home / "evaluations").iterdir()
    one, *held_out = json.loads((evaluation / "results.json").read_text(encoding="utf-8"))["asked"]
    assert all(asked["held_out"] and asked["question"]["answer"] for asked in held_out)
    found = [source["text"] for a in one["answers"] if a["mode"] == "rag" for source in a["answer"]["sources"]]
    assert found[0] == "Наш магазин продаёт фен. Цена: 900 рублей."
    assert all("Наш магазин" in text for text in found)
