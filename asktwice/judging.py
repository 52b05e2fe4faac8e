"""``asktwice verdict`` and ``asktwice advise``: scores, or a finished run, in; a verdict or an advice out."""

import csv
import io
from pathlib import Path

from pydantic import ValidationError

from contracts.advice import Advice, Circumstances
from contracts.artifacts import Home
from contracts.encoding import decode
from contracts.errors import InvalidInput
from contracts.evaluation import EvaluationResult
from contracts.table import read_bytes
from contracts.verdict import ScoredItem, Verdict, VerdictSettings
from services.evaluator.advice import advise
from services.evaluator.verdict import decide
from services.evaluator.wording import Language, verdict_lines

COLUMNS = ("item", "cluster", "arm", "score")


def verdict_of(path: Path, settings: VerdictSettings) -> Verdict:
    """Return the verdict on a table of scores.

    Args:
        path: CSV with the columns item, cluster, arm, score; an empty score is one that could not be measured, an empty
            cluster is the item itself.
        settings: fixed before the scores were looked at.

    Raises:
        InvalidInput: the file cannot be read, lacks a column, or has a row that cannot be; it names the line.
    """
    items = read_items(path)
    scored = {each.arm for each in items if each.score is not None}  # a control of an evaluation has none
    return decide([each for each in items if each.arm in scored] if len(scored) > 1 else items, settings)


def advice_on(home: Home, evaluation: str, told: Circumstances, price_hour: float, language: Language) -> Advice:
    """Return what to ship after a finished evaluation, under the circumstances that the user states.

    Raises:
        InvalidInput: there is no such evaluation, or nothing was measured in it.
    """
    result = finished(home, evaluation)
    if result.measurement is None:
        raise InvalidInput(f"Evaluation {evaluation} had no questions with reference answers, so it advises nothing.")
    return advise(result.measurement, told, price_hour=price_hour, lang=language)


def finished(home: Home, evaluation: str) -> EvaluationResult:
    """Return a finished evaluation of a home.

    Raises:
        InvalidInput: there is none of this id.
    """
    if Path(evaluation).name == evaluation:
        try:
            return EvaluationResult.model_validate_json((home.evaluations / evaluation / "results.json").read_bytes())
        except (OSError, ValidationError):
            pass
    raise InvalidInput(f"There is no finished evaluation {evaluation[:100]} in {home.evaluations}.")


def read_items(path: Path) -> list[ScoredItem]:
    """Return the rows of a table of scores.

    Raises:
        InvalidInput: as :func:`verdict_of`.
    """
    text, _ = decode(read_bytes(path), path.name)
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    try:
        names = {name.strip().lower(): name for name in rows.fieldnames or () if name}
        if missing := [column for column in COLUMNS if column not in names]:
            raise InvalidInput(
                f"{path.name} lacks the column {', '.join(missing)}. A row is one arm's score for one question:"
                f" {','.join(COLUMNS)}."
            )
        return [_item({column: row[names[column]] or "" for column in COLUMNS}, path, rows.line_num) for row in rows]
    except csv.Error as error:
        raise InvalidInput(f"{path.name}, line {rows.line_num}: {error}.") from error


def _item(row: dict[str, str], path: Path, line: int) -> ScoredItem:
    cells = {column: cell.strip() for column, cell in row.items()}
    for column in ("item", "arm"):
        if not 1 <= len(cells[column]) <= 100:
            raise InvalidInput(f"{path.name}, line {line}: {column} has to be 1 to 100 characters.")
    score = None
    if cells["score"]:
        try:
            score = float(cells["score"].replace(",", "."))
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            raise InvalidInput(
                f"{path.name}, line {line}: the score {cells['score'][:40]!r} is no number from 0 to 1. Leave it empty"
                " where it could not be measured; divide other scales by their maximum."
            )
    return ScoredItem(
        item=cells["item"], cluster=cells["cluster"][:500] or cells["item"], arm=cells["arm"], score=score
    )


def show(verdict: Verdict, language: Language) -> None:
    """Print a verdict in words."""
    for line in verdict_lines(verdict, language):
        print(line)
