"""An evaluation as result.txt. Pure: the same result gives the same text, and nothing is said that it does not hold."""

from collections.abc import Iterator, Sequence
from statistics import median

from contracts.artifacts import printed_model_name
from contracts.evaluation import Analysis, AskedQuestion, EvaluationResult, ModeAnswer, Preferred
from contracts.generation import Answer, Mode
from services.evaluator.lines import (
    ANALYSIS_HEADING,
    FT_HEADING,
    MEASURED_HEADING,
    RAG_HEADING,
    RULE,
    one_line,
    paragraphs,
)

NAMES = {Mode.rag: "RAG", Mode.ft: "Fine-tuning"}
BUNDLED_MODEL = "asktwice-tiny"
_PREFERRED: dict[Preferred, str] = {"rag": "RAG", "ft": "Fine-tuning", "tie": "ничья"}
_QUANTIZATION = {"nf4": "(с INT4 квантизацией)", "none": "(без квантизации)"}


def result_text(result: EvaluationResult) -> str:
    """Return the whole of result.txt, UTF-8 encodable, lines ended by LF."""
    analysis = _section(ANALYSIS_HEADING.format(judge=one_line(result.analysis.model)), [_analysis(result.analysis)])
    return (
        f"{sections(result)}\n{analysis}\n{_section(MEASURED_HEADING, [*_measured(result), *_times_and_ids(result)])}"
    )


def sections(result: EvaluationResult, swapped: bool = False) -> str:
    """Return the two sections of answers, as result.txt begins and as the judge reads them; or in the other order."""
    names = {
        "model": _model(result),
        "quantization": _QUANTIZATION[result.quantization],
        "data": one_line(result.data_file),
    }
    both = [
        _answers(RAG_HEADING.format(**names), result.asked, Mode.rag),
        _answers(FT_HEADING.format(**names), result.asked, Mode.ft),
    ]
    return "\n".join(both[::-1] if swapped else both)


def shown_answer(answer: ModeAnswer | None) -> str:
    """Return an answer on one line, or the reason why there is none; never nothing."""
    if answer and answer.answer and (text := one_line(answer.answer.answer)):
        return text
    reason = one_line(answer.error or "") if answer else "вопрос не был задан"
    return f"[ошибка: {reason or 'модель вернула пустой ответ'}]"


def answer_of(question: AskedQuestion, mode: Mode) -> ModeAnswer | None:
    """Return what one mode answered to a question."""
    return next((answer for answer in question.answers if answer.mode is mode), None)


def _section(heading: str, parts: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in (heading, RULE, *parts, RULE))


def _answers(heading: str, asked: Sequence[AskedQuestion], mode: Mode) -> str:
    blocks = (
        f"Вопрос {n}: {one_line(question.question.question)}\nОтвет {n}: {shown_answer(answer_of(question, mode))}"
        for n, question in enumerate(asked, start=1)
    )
    return _section(heading, [f"\n{RULE}\n".join(blocks)])


def _analysis(analysis: Analysis) -> str:
    text = paragraphs(analysis.text or "")
    if not text:
        return one_line(analysis.error or "Анализа нет: модель-судья ничего не вернула.")
    return f"{_opinion(analysis)}\n\n{text}" if analysis.swapped_text or analysis.swapped_error else text


def _opinion(analysis: Analysis) -> str:
    """Say what the text below is: an opinion, and whether it outlives the other order of the sections."""
    line = "Это мнение модели об этих вопросах, а не измерение; в выводе оно не учтено."
    if analysis.swapped_error:
        return f"{line} В обратном порядке разделов она не ответила: {one_line(analysis.swapped_error)}"
    one, other = analysis.preferred, analysis.swapped_preferred
    if one is None or other is None:
        return f"{line} Разделы показаны ей в обоих порядках; итога она не назвала."
    if one == other:
        return f"{line} Разделы показаны ей в обоих порядках, итог один и тот же: {_PREFERRED[one]}."
    return (
        f"{line} Разделы показаны ей в обоих порядках, и итог зависит от порядка ({_PREFERRED[one]}; наоборот:"
        f" {_PREFERRED[other]}), то есть ничья."
    )


def _measured(result: EvaluationResult) -> Iterator[str]:
    """Yield what does not change from run to run while data, model and adapter stay."""
    for mode in NAMES:
        yield _counts(result.asked, mode)
    yield _model_line(result)
    if result.store:
        yield f"Хранилище: {one_line(result.store)}"
    if result.embedding:
        yield f"Векторы поиска: {_embedding(result.embedding)}"
    yield _origin(result)
    if result.analysis.text:
        yield f"Анализ выше: мнение модели {one_line(result.analysis.model)} об этих ответах, в выводе не учтено."
    yield _verdict(result)
    yield _repeat(result)


def _times_and_ids(result: EvaluationResult) -> Iterator[str]:
    """Yield what differs from run to run, a line each, so that two results can be compared without them."""
    if result.adapter:
        yield f"Адаптер: {one_line(result.adapter)}"
    for mode, name in NAMES.items():
        seconds = [answer.timings_ms.total / 1000 for answer in _given(result.asked, mode)]
        if seconds:
            yield (
                f"Время ответа, {name}: медиана {_number(median(seconds))} с, максимум {_number(max(seconds))} с"
                f" (одновременных вопросов не более {result.concurrency})"
            )
    yield f"Весь запуск: {_number(result.seconds)} с"
    yield f"Начало: {result.created:%Y-%m-%d %H:%M:%S} UTC"
    yield f"Номер запуска: {result.id}"


def _given(asked: Sequence[AskedQuestion], mode: Mode) -> list[Answer]:
    found = (answer_of(question, mode) for question in asked)
    return [answer.answer for answer in found if answer and answer.answer]


def _counts(asked: Sequence[AskedQuestion], mode: Mode) -> str:
    given = _given(asked, mode)
    line = f"{NAMES[mode]}: ответов {len(given)} из {len(asked)}, ошибок {len(asked) - len(given)}"
    if not given:
        return line
    line += (
        f"; токенов в запросах {sum(answer.usage.prompt_tokens for answer in given)},"
        f" в ответах {sum(answer.usage.completion_tokens for answer in given)}"
    )
    if mode.retrieves:
        line += f"; источников на ответ в среднем {_number(sum(len(answer.sources) for answer in given) / len(given))}"
    return line


def _model(result: EvaluationResult) -> str:
    return one_line(printed_model_name(result.model))


def _model_line(result: EvaluationResult) -> str:
    where = [f"профиль {one_line(result.profile)}"] if result.profile else []
    where += [f"устройство {one_line(result.device)}"] if result.device else []
    told = f", {', '.join(where)}" if where else ""
    line = f"Отвечала модель: {_model(result)} {_QUANTIZATION[result.quantization]}{told}"
    if _model(result) != BUNDLED_MODEL:
        return line
    return f"{line}. Это маленькая модель из комплекта AskTwice, а не Qwen: о больших моделях её ответы не говорят."


def _embedding(name: str) -> str:
    shown = one_line(name)
    if not shown.startswith("hashed-"):
        return shown
    return f"{shown} (хешированные n-граммы символов: замена модели эмбеддингов, смысла слов не знает)"


def _origin(result: EvaluationResult) -> str:
    origin, name = result.origin, one_line(result.origin.file or "")
    if origin.kind != "table":
        return f"Вопросы: {len(result.asked)}, {f'из {name}' if name else 'из запроса'}"
    line = (
        f"Вопросы: {len(result.asked)}, из {name}: строк {origin.read} = принято {len(result.asked)}"
        f" + отклонено {origin.rejected} + повторов {origin.duplicates}"
    )
    if origin.errors:
        line += f"; первая отклонённая: строка {origin.errors[0].row} ({one_line(origin.errors[0].reason)})"
    return line


def _verdict(result: EvaluationResult) -> str:
    """The answers were not compared with references here, so there is no winner to name, and it says so."""
    count = len(result.asked)
    references = sum(bool(question.question.answer) for question in result.asked)
    if not any(_given(result.asked, mode) for mode in NAMES):
        return "Вывод: ни на один вопрос нет ответа, сравнивать нечего. Причины стоят на месте ответов."
    missing = [name for mode, name in NAMES.items() if not _given(result.asked, mode)]
    if missing:
        return (
            f"Вывод: {missing[0]} не ответил ни на один вопрос, поэтому сравнения нет. Причины стоят на месте ответов."
        )
    if references:
        return (
            f"Вывод: эталонные ответы заданы для {references} из {count}, но точность по ним в этом запуске не"
            " измерялась; какой подход точнее, отсюда не следует."
        )
    return (
        f"Вывод: {_by_questions(count)} без эталонных ответов нельзя сказать, какой подход точнее."
        " Прочитайте ответы рядом; для вывода о точности нужны вопросы с эталонными ответами."
    )


def _by_questions(count: int) -> str:
    return f"по {count} вопросу" if count % 10 == 1 and count % 100 != 11 else f"по {count} вопросам"


def _repeat(result: EvaluationResult) -> str:
    if result.origin.kind == "default":
        return "Повторить запуск: asktwice evaluate"
    how = "-H 'Content-Type: application/json' --data-binary @questions.json"
    if result.origin.kind == "table":  # a form may be larger than a body
        how = "-F file=@questions.csv"
    return f"Повторить запуск: curl -X POST http://127.0.0.1:8000/evaluate {how} (файл лежит в папке запуска)"


def _number(value: float) -> str:
    return f"{value:.1f}".replace(".", ",")
