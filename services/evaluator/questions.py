"""What is asked: the five questions, a JSON body or an uploaded CSV. Read by hand, because a body may be absent."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile

from contracts.errors import InvalidInput, NotReady
from contracts.evaluation import EvaluateRequest, EvaluationQuestion, QuestionsOrigin
from contracts.table import Table, parse_table
from services.kit import invalid_input

MAX_QUESTIONS = 10_000
Readings = dict[str, Table]
"""A file by the digest of its accepted rows, which differs with the columns that have to be filled."""


@dataclass(frozen=True, slots=True)
class Questions:
    """``upload`` is the file that they came in, ``readings`` are those of it as a training would read it, ``rows``
    tells each item's number in it."""

    items: list[EvaluationQuestion]
    origin: QuestionsOrigin
    numbers: tuple[int, ...] = ()
    readings: Readings = field(default_factory=dict)
    upload: bytes = b""

    @property
    def rows(self) -> Sequence[int | None]:
        return self.numbers or [None] * len(self.items)


async def read_questions(request: Request, default: Path) -> Questions:
    """Return the questions that a request brings; the default ones where its body is empty.

    Raises:
        InvalidInput: the body is neither JSON nor a form with a CSV, or something in it is wrong.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _uploaded(request)
    body = await request.body()
    if not body:
        return default_questions(default)
    if kind != "application/json":
        raise InvalidInput(
            f"The body is {kind[:100] or 'of no stated type'}. Send no body for the default questions, JSON"
            ' {"questions": [...]} as application/json, or a CSV in the field "file" of a multipart form.'
        )
    return from_json(body)


def default_questions(path: Path) -> Questions:
    """Return the questions of a text file, one a line.

    Raises:
        NotReady: there is no such file, or nothing in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise NotReady(f"Cannot read the default questions from {path} ({type(error).__name__}).") from error
    items = [EvaluationQuestion(question=line) for line in lines if line.strip()]
    if not items:
        raise NotReady(f"{path} holds no question. Write one a line, or send questions with the request.")
    return Questions(items, QuestionsOrigin(kind="default", file=path.name))


def from_json(body: bytes) -> Questions:
    """Return the questions of a JSON body.

    Raises:
        InvalidInput: not JSON, or not an :class:`EvaluateRequest`.
    """
    try:
        return Questions(EvaluateRequest.model_validate_json(body).items(), QuestionsOrigin(kind="request"))
    except ValidationError as error:
        raise invalid_input(error.errors(include_input=False, include_context=False)) from error


async def _uploaded(request: Request) -> Questions:
    async with request.form(max_files=1, max_fields=1) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or len(form) != 1:
            raise InvalidInput('The form must hold one file, the CSV, in the field "file" and nothing else.')
        content, name = await file.read(), Path(file.filename or "").name or "the file"
    return await asyncio.to_thread(from_csv, content, name)


def from_csv(content: bytes, name: str) -> Questions:
    """Return the questions of a CSV with the column question and, maybe, answer and context.

    Raises:
        InvalidInput: the table is refused, or holds too many questions or one that is too long.
    """
    table = parse_table(content, name, required=("question",), optional=("answer", "context"))
    if len(table.rows) > MAX_QUESTIONS:
        raise InvalidInput(f"{name} holds {len(table.rows)} questions; at most {MAX_QUESTIONS} are asked at once.")
    items = []
    for row in table.rows:
        try:
            items.append(
                EvaluationQuestion(question=row.question, answer=row.answer or None, context=row.context or None)
            )
        except ValidationError as error:
            raise InvalidInput(f"{name}, row {row.number}: {error.errors()[0]['msg']}.") from error
    origin = QuestionsOrigin(
        kind="table",
        file=name,
        read=table.read,
        rejected=table.rejected,
        duplicates=table.duplicates,
        errors=table.errors,
    )
    return Questions(items, origin, tuple(row.number for row in table.rows), _readings(content, name), content)


def _readings(content: bytes, name: str) -> Readings:
    """Return the table in both ways that a training reads it: rows without a context may train, or not."""
    found: Readings = {}
    for required in (("question", "answer"), ("question", "answer", "context")):
        with suppress(InvalidInput):
            table = parse_table(content, name, required, ("context",) if len(required) == 2 else ())
            for row in table.rows:
                row.cells.setdefault("context", "")
            found.setdefault(table.sha256, table)
    return found
