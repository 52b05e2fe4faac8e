"""Which numbers of a text are not those of a result, however they are rounded."""

import json
import re
from collections.abc import Iterator
from typing import Any

from contracts.evaluation import EvaluationResult

_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
_NAMES = re.compile(
    r"^(?:Повторить запуск|To repeat|Начало|Begun|Номер запуска|Run|Адаптер|Adapter|Отвечала модель|The model)\b.*"
    r"|95-процентный интервал|95% interval",
    re.MULTILINE,
)


def strange_numbers(text: str, result: EvaluationResult) -> list[str]:
    """Return the numbers of a text that are no number, or count of things, in the result, nor stand in its words.

    Left out are commands, names and times of day, and how an interval is called."""
    known = set(re.findall(r"\d+", result.model_dump_json()))  # names and reasons are quoted as they are
    for value in _numbers(json.loads(result.model_dump_json())):
        for each in (abs(value), abs(100 * value), abs(value) / 1000, abs(value) / 2**20):
            known |= {f"{each:.0f}", f"{each:.1f}", f"{each:.2f}", f"{each:.4f}", f"{each:.6f}"}
    return [shown for shown in _NUMBER.findall(_NAMES.sub("", text)) if shown.replace(",", ".") not in known]


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, list):
        yield float(len(value))
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, str):
        yield from (float(each.replace(",", ".")) for each in _NUMBER.findall(value))
    elif value is not None and not isinstance(value, bool):
        yield float(value)
