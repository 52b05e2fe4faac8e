"""A run as tables: both answers side by side, and every answer with what was measured of it. Safe in a spreadsheet."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from contracts.evaluation import AskedQuestion, EvaluationResult, ModeAnswer
from contracts.groups import normalized
from contracts.measurement import AnswerMetrics
from services.evaluator.arms import CONTROLS
from services.evaluator.report import shown_answer
from services.evaluator.summary import answer_of

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_INNER = re.compile(r'([;\t\r\n]["\s]*)([=+\-@＝＋－＠])')
_NUMBERS = tuple(
    name
    for name in AnswerMetrics.model_fields
    if name not in ("values", "unsupported", "not_measured", "judge_note", "correct", "abstained", "abstention_right")
)


def item_id(number: int) -> str:
    """Return what a question is called in the tables and in the verdict; ``number`` counts from 1."""
    return f"q{number}"


def cluster_of(question: AskedQuestion, number: int) -> str:
    """Return what a question's answers hang together by: a digest of its context, or else of the question itself."""
    text = normalized(question.question.context or "") or normalized(question.question.question)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else item_id(number)


def side_by_side(result: EvaluationResult) -> bytes:
    """Return answers.csv: a row a question, the answers beside each other. Probes, of which some are made up, stand in
    items.csv alone."""
    rows = []
    for n, asked in enumerate(result.asked, start=1):
        if asked.probe:
            continue
        row: dict[str, object] = {"n": n, "question": asked.question.question, "reference": asked.question.answer}
        for arm in result.arms:
            answer = answer_of(asked, arm)
            given = answer.answer if answer else None
            row[arm] = given.answer if given else shown_answer(answer)
            row[f"{arm}_seconds"] = given.timings_ms.total / 1000 if given else None
        for arm in result.arms:
            answer = answer_of(asked, arm)
            if answer and answer.mode.retrieves:
                found = answer.answer.sources if answer.answer else []
                row[f"{arm}_sources"] = "\n".join(f"[{s.n}] {s.title}" for s in found)
        rows.append(row)
    return csv_of(rows)


def items_table(result: EvaluationResult) -> bytes:
    """Return items.csv: a row an answer; its first four columns are what ``asktwice verdict`` reads."""
    return csv_of([_item(result, number, question, given) for number, question, given in _items(result)])


def item_lines(result: EvaluationResult) -> bytes:
    """Return items.jsonl: a line an answer, with its passages and all that was measured of it."""
    lines = []
    for number, question, given in _items(result):
        line = {
            "item": item_id(number),
            "row": question.row,
            "held_out": question.held_out,
            "regime": question.regime,
            "probe": question.probe,
            "question": question.question.model_dump(mode="json"),
            **given.model_dump(mode="json"),
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines).encode("utf-8", "replace")


def _items(result: EvaluationResult) -> Iterator[tuple[int, AskedQuestion, ModeAnswer]]:
    for number, question in enumerate(result.asked, start=1):
        for given in question.answers:
            yield number, question, given


def _item(result: EvaluationResult, number: int, question: AskedQuestion, given: ModeAnswer) -> dict[str, Any]:
    metrics = given.metrics or AnswerMetrics()
    scored = result.measurement.metric if result.measurement else "correct"
    return {
        "item": item_id(number),
        "cluster": cluster_of(question, number),
        "arm": given.arm,
        "score": None if given.arm in CONTROLS or question.leaked or question.probe else getattr(metrics, scored),
        "correct": metrics.correct,
        "row": question.row,
        "held_out": question.held_out,
        "regime": question.regime,
        "probe": question.probe,
        "question": question.question.question,
        "reference": question.question.answer,
        "answer": given.answer.answer if given.answer else None,
        "error": given.error,
        "seconds": given.answer.timings_ms.total / 1000 if given.answer else None,
        "abstained": metrics.abstained,
        "abstention_right": metrics.abstention_right,
        **{name: getattr(metrics, name) for name in _NUMBERS},
        "judge_says": metrics.judge_note.rationale if metrics.judge_note else None,
        "judge_marked": metrics.judge_note.marked if metrics.judge_note else None,
        "missing": "; ".join(metrics.values.missing) if metrics.values else None,
        "contradicted": "; ".join(metrics.values.contradicted) if metrics.values else None,
    }


def csv_of(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return rows as a CSV for spreadsheets: with a byte order mark, and nothing in it that they would run."""
    import pandas

    text = io.StringIO()
    safe = [{column: _safe_cell(cell) for column, cell in row.items()} for row in rows]
    pandas.DataFrame(safe).to_csv(text, index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return text.getvalue().encode("utf-8-sig", "replace")


def _safe_cell(cell: object) -> object:
    """A spreadsheet runs cells that begin like a formula; one that splits at semicolons begins cells inside of ours."""
    if not isinstance(cell, str):
        return cell
    cell = _INNER.sub(r"\1'\2", cell)
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
