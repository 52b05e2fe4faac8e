"""Where evaluations live: ``home/evaluations/<id>/``, written so that a kill at any moment loses no answer.

While an evaluation runs, its process holds a lock on ``answers.jsonl``; the kernel lets go of it when the process dies,
however it dies. That is how an interrupted evaluation is told from one that another process is still working on.
"""

import csv
import fcntl
import io
import json
import logging
import os
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from contracts.artifacts import MANIFEST, Home, write_atomically, write_json_atomically
from contracts.errors import AskTwiceError, NotFound, NotReady
from contracts.evaluation import EvaluationQuestion, EvaluationResult, Job, JobState, ModeAnswer
from contracts.table import QA_COLUMNS
from services.evaluator.page import report_html
from services.evaluator.plan import Plan
from services.evaluator.report import result_text
from services.evaluator.tables import item_lines, items_table, side_by_side

UNFINISHED: tuple[JobState, ...] = ("queued", "running")
QUESTIONS, QUESTIONS_TABLE = "questions.json", "questions.csv"
ANSWERS, JOB, PLAN = "answers.jsonl", "job.json", "plan.json"
RESULTS, TABLE, RESULT = "results.json", "answers.csv", "result.txt"
ITEMS, ITEM_LINES, REPORT = "items.csv", "items.jsonl", "report.html"
_ID = re.compile(r"ev_\d{8}T\d{6}Z_[0-9a-f]{8}")


class KeptAnswer(BaseModel):
    """One line of answers.jsonl."""

    index: int
    answer: ModeAnswer


log = logging.getLogger("asktwice")


class EvaluationStore:
    """All evaluations of one home. Every method may block on the disk."""

    def __init__(self, home: Home):
        self._folder = home.evaluations
        self._locks: dict[str, int] = {}

    def create(self, plan: Plan) -> Job:
        """Make a new evaluation that runs, with nothing answered yet.

        Its questions are kept as they can be sent again: as the table that they came in, else as a JSON body, no longer
        than the one that they came in.
        """
        id = f"ev_{datetime.now(UTC):%Y%m%dT%H%M%SZ}_{secrets.token_hex(4)}"
        folder = self._folder / id
        folder.mkdir(parents=True)
        self._locks[id] = os.open(folder / ANSWERS, os.O_CREAT | os.O_WRONLY, 0o644)
        fcntl.flock(self._locks[id], fcntl.LOCK_EX)
        if plan.origin.kind == "table":
            write_atomically(folder / QUESTIONS_TABLE, plan.upload or _questions_table(plan.shown))
        else:
            write_atomically(folder / QUESTIONS, _questions_body(plan.shown))
        write_json_atomically(folder / MANIFEST, {"id": id, **plan.frozen()})
        write_atomically(folder / PLAN, TypeAdapter(Plan).dump_json(plan))
        job = Job(id=id, state="running", done=0, total=plan.total)
        self.save(job)
        return job

    def left(self) -> list[str]:
        """Return the evaluations that ended with their process and can be gone on with, the oldest first."""
        found = []
        for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if _ID.fullmatch(folder.name) and (folder / PLAN).exists() and not (folder / RESULT).exists():
                try:
                    state = Job.model_validate_json((folder / JOB).read_bytes()).state
                except (OSError, ValidationError):
                    continue
                if state in (*UNFINISHED, "interrupted") and folder.name not in self._locks:
                    found.append(folder.name)
        return found

    def resume(self, id: str) -> tuple[Job, Plan] | None:
        """Take over an evaluation whose process ended, with the answers that are on the disk.

        Returns:
            None where another process has it.

        Raises:
            OSError, ValueError: its files cannot be read.
        """
        folder = self._at(id)
        handle = os.open(folder / ANSWERS, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        try:
            content = (folder / ANSWERS).read_bytes()
            os.ftruncate(handle, content.rfind(b"\n") + 1)  # what a kill cut off would spoil the next line
            plan = TypeAdapter(Plan).validate_json((folder / PLAN).read_bytes())
            done = {(kept.index, kept.answer.arm): kept for kept in self.kept(id)}
            for kept in done.values():
                plan.asked[kept.index].answers.append(kept.answer)
        except BaseException:
            os.close(handle)
            raise
        self._locks[id] = handle
        job = Job(id=id, state="running", done=len(done), total=plan.total)
        self.save(job)
        return job, plan

    def keep(self, id: str, index: int, answer: ModeAnswer) -> None:
        """Make one answer durable before the next question is asked."""
        line = KeptAnswer(index=index, answer=answer).model_dump_json().encode("utf-8", "replace") + b"\n"
        with (self._at(id) / ANSWERS).open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def kept(self, id: str) -> list[KeptAnswer]:
        """Return the answers that are on the disk; a last line that a kill cut off is left out."""
        lines = (self._at(id) / ANSWERS).read_bytes().split(b"\n")[:-1]
        return [KeptAnswer.model_validate_json(line) for line in lines]

    def finish(self, result: EvaluationResult) -> None:
        """Write results.json and its views; result.txt last, because its presence means that all is there.

        Raises:
            FileExistsError: the evaluation is finished already; it is never overwritten.
        """
        folder = self._at(result.id)
        if (folder / RESULT).exists():
            raise FileExistsError(f"{folder / RESULT} is there already")
        write_atomically(folder / RESULTS, (result.model_dump_json(indent=2) + "\n").encode("utf-8", "replace"))
        write_atomically(folder / TABLE, side_by_side(result))
        write_atomically(folder / ITEMS, items_table(result))
        write_atomically(folder / ITEM_LINES, item_lines(result))
        write_atomically(folder / REPORT, report_html(result).encode("utf-8", "replace"))
        write_atomically(folder / RESULT, result_text(result).encode())

    def save(self, job: Job) -> None:
        """Write the state of an evaluation; a final one ends this process's hold on it."""
        try:
            write_json_atomically(self._at(job.id) / JOB, job.model_dump())
        finally:
            if job.state not in UNFINISHED and (lock := self._locks.pop(job.id, None)) is not None:
                os.close(lock)

    def job(self, id: str) -> Job:
        """Return the state of an evaluation; one whose process died becomes ``interrupted``, its answers kept.

        Raises:
            NotFound: there is no such evaluation.
        """
        folder = self._at(id)
        try:
            job = Job.model_validate_json((folder / JOB).read_bytes())
        except (OSError, ValidationError) as error:
            raise NotFound(f"There is no evaluation {id}.") from error
        if job.state not in UNFINISHED:
            return job
        job.done = len(self.kept(id))
        if id not in self._locks and _is_free(folder / ANSWERS):
            job = ended(job, "succeeded" if (folder / RESULT).exists() else "interrupted")
            self.save(job)
        return job

    def settle(self) -> None:
        """Mark what died with its process; called once at the start."""
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if _ID.fullmatch(folder.name) and (folder / JOB).exists():
                try:
                    self.job(folder.name)
                except (AskTwiceError, OSError, ValueError) as error:
                    log.warning("evaluation %s cannot be read: %s", folder.name, error)

    def text(self, id: str) -> str:
        """Return result.txt.

        Raises:
            NotFound: there is no such evaluation, or it ended without a result.
            NotReady: it still runs.
        """
        path = self._at(id) / RESULT
        if path.exists():
            return path.read_bytes().decode()
        job = self.job(id)
        if job.state in UNFINISHED:
            raise NotReady(f"Evaluation {id} still runs: {job.done} of {job.total} answers. See /jobs/{id}.")
        questions = QUESTIONS_TABLE if (self._at(id) / QUESTIONS_TABLE).exists() else QUESTIONS
        raise NotFound(
            f"Evaluation {id} ended as {job.state} and has no result.txt; {job.done} of {job.total} answers are kept"
            f" in its {ANSWERS}. Send its {questions} to /evaluate to ask again."
        )

    def _at(self, id: str) -> Path:
        if not _ID.fullmatch(id):
            raise NotFound("There is no such evaluation.")
        return self._folder / id


def ended(job: Job, state: JobState, error: str | None = None) -> Job:
    """Return the job in a final state."""
    if state == "interrupted":
        error = f"The process ended before the evaluation did; {job.done} of {job.total} answers are kept."
    result = f"/evaluations/{job.id}/{RESULT}" if state == "succeeded" else None
    return job.model_copy(update={"state": state, "result": result, "error": error})


def _questions_body(questions: Sequence[EvaluationQuestion]) -> bytes:
    """Return a body of ``POST /evaluate``, compact: it must not come out longer than the limit that it came under."""
    items = [question.model_dump(exclude_none=True) for question in questions]
    short = [item["question"] if len(item) == 1 else item for item in items]
    return json.dumps({"questions": short}, ensure_ascii=False, separators=(",", ":")).encode()


def _questions_table(questions: Sequence[EvaluationQuestion]) -> bytes:
    """Return a CSV to be read back to the character, so nothing is put before what begins like a formula."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)  # with its own line ends, which make it quote a lone CR
    writer.writerow(QA_COLUMNS)
    writer.writerows((question.question, question.answer, question.context) for question in questions)
    return text.getvalue().encode()


def _is_free(path: Path) -> bool:
    """Return whether no process holds the lock of a running evaluation."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
