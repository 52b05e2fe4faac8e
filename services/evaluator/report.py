"""An evaluation as result.txt. Pure: the same result gives the same text, and nothing is said that it does not hold."""

from collections.abc import Sequence

from contracts.evaluation import Analysis, AskedQuestion, EvaluationResult, ModeAnswer, Preferred
from contracts.generation import Mode
from services.evaluator.lines import (
    ANALYSIS_HEADING,
    FT_HEADING,
    MEASURED_HEADING,
    RAG_HEADING,
    RULE,
    one_line,
    paragraphs,
)
from services.evaluator.summary import (
    QUANTIZATION,
    answer_of,
    measured_lines,
    model_name,
    shown_questions,
    times_and_ids,
)

_PREFERRED: dict[Preferred, str] = {"rag": "RAG", "ft": "Fine-tuning", "tie": "ничья"}


def result_text(result: EvaluationResult) -> str:
    """Return the whole of result.txt, UTF-8 encodable, lines ended by LF."""
    analysis = _section(ANALYSIS_HEADING.format(judge=one_line(result.analysis.model)), [_analysis(result.analysis)])
    measured = _section(MEASURED_HEADING, [*measured_lines(result), *times_and_ids(result)])
    return f"{sections(result)}\n{analysis}\n{measured}"


def sections(result: EvaluationResult, swapped: bool = False) -> str:
    """Return the two sections of answers, as result.txt begins and as the judge reads them; or in the other order."""
    names = {
        "model": model_name(result),
        "quantization": QUANTIZATION[result.quantization],
        "data": one_line(result.data_file),
    }
    both = [
        _answers(RAG_HEADING.format(**names), shown_questions(result), first_arm(result, Mode.rag)),
        _answers(FT_HEADING.format(**names), shown_questions(result), first_arm(result, Mode.ft)),
    ]
    return "\n".join(both[::-1] if swapped else both)


def first_arm(result: EvaluationResult, mode: Mode) -> str:
    """Return the first arm of a mode, whose answers stand in its section: of ``ft:<adapter>`` too."""
    return next((arm for arm in result.arms if arm.partition(":")[0] == mode), mode.value)


def shown_answer(answer: ModeAnswer | None) -> str:
    """Return an answer on one line, or the reason why there is none; never nothing."""
    if answer and answer.answer and (text := one_line(answer.answer.answer)):
        return text
    reason = one_line(answer.error or "") if answer else "вопрос не был задан"
    return f"[ошибка: {reason or 'модель вернула пустой ответ'}]"


def _section(heading: str, parts: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in (heading, RULE, *parts, RULE))


def _answers(heading: str, asked: Sequence[AskedQuestion], arm: str) -> str:
    blocks = (
        f"Вопрос {n}: {one_line(question.question.question)}\nОтвет {n}: {shown_answer(answer_of(question, arm))}"
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
