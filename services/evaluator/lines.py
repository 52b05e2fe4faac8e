"""Text of others made fit for result.txt: it can say anything, but it cannot pass for a rule or a heading.

What is changed here is changed in the view only; results.json keeps every character.
"""

import re

RULE = "=" * 24
EMPTY = {"ru": "модель вернула пустой ответ", "en": "the model's answer is empty"}
RAG_HEADING = "RAG (Retrieval-Augmented Generation) Qdrant + {model} {quantization} без Fine-tuning"
FT_HEADING = "{model} {quantization} + Fine-tuning на дата сете {data}"
ANALYSIS_HEADING = "Анализ качества ответов ({judge})"
MEASURED_HEADING = "Измерения и вывод"

_LONG_RULE = re.compile(r"={10,}")
_DIRECTION = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
_STRUCTURE = re.compile(
    r"\s*(Вопрос\s*\d+\s*:|Ответ\s*\d+\s*:|RAG \(Retrieval-Augmented Generation\)"
    r"|.*\+ Fine-tuning на дата сете|Анализ качества ответов|Измерения и вывод|Вывод:)"
)


def one_line(text: str) -> str:
    """Return the text on one line: line breaks and runs of spaces become a space, invisible controls go."""
    return _LONG_RULE.sub(_dashes, _visible(" ".join(text.split())))


def paragraphs(text: str) -> str:
    """Return the text with its lines kept; a line that looks like one of ours is indented, a rule becomes dashes."""
    lines = (_LONG_RULE.sub(_dashes, _visible(line)).rstrip() for line in text.expandtabs(4).splitlines())
    return "\n".join(f"  {line}" if _STRUCTURE.match(line) else line for line in lines).strip("\n")


def is_blank(text: str) -> bool:
    """Return whether there is nothing to see."""
    return not any(char.isprintable() and not char.isspace() for char in text)


def is_empty(error: str | None) -> bool:
    """Return whether an answer is missing because the model said nothing, rather than for a failure."""
    return error in EMPTY.values()


def _visible(text: str) -> str:
    kept = "".join(char for char in text if char >= " " and not "\x7f" <= char <= "\x9f")
    return _DIRECTION.sub("", kept).encode("utf-8", "replace").decode()


def _dashes(match: re.Match[str]) -> str:
    return "-" * len(match.group())
