"""Judges that are right, biased or gullible: they read the prompt as a model does, and reply by the schema."""

import json
import re
from typing import Any

from contracts.groups import normalized
from tests.fake_openai import Recorded

_PART = re.compile(r"<<<(data-\w+) ([A-Z]+)>>>\n(.*?)\n<<<\1 /\2>>>", re.DOTALL)
_UNKNOWN = re.compile(
    r"не знаю|нет такой информации|не могу ответить|don't know|no such information|cannot answer", re.I
)


def parts(request: Recorded) -> dict[str, str]:
    """The data of a prompt, by name."""
    return {name: text for _, name, text in _PART.findall(request.prompt)}


def judged(statuses: list[str], verdict: str, abstained: bool = False, quote: str = "", **changes: Any) -> str:
    claims = [{"text": f"claim {n}", "status": status} for n, status in enumerate(statuses)]
    value = {
        "claims_in_reference": claims,
        "extra_claims": [],
        "abstained": abstained,
        "verdict": verdict,
        "evidence_quote": quote,
        "rationale": "as compared",
    }
    return json.dumps(value | changes)


def right(request: Recorded) -> str:
    """Compares words, as a careful judge compares meanings."""
    told = parts(request)
    if "FIRST" in told:
        return json.dumps({"rationale": "alike", "tone": "tie", "persuasion": longer(told)})
    reference, answer = normalized(told["REFERENCE"]), normalized(told["ANSWER"])
    if _UNKNOWN.search(told["ANSWER"]):
        return judged(["missing"], "incorrect", abstained=True)
    if f" {reference} " in f" {answer} ":
        return judged(["supported"], "correct", quote=told["REFERENCE"])
    if f" {reference} ".startswith(f" {answer} "):
        return judged(["supported", "missing"], "partial", quote=told["ANSWER"])
    shared = set(reference.split()) & set(answer.split())
    return judged(["contradicted" if len(shared) > 1 else "missing"], "incorrect")


def longer(told: dict[str, str]) -> str:
    first, second = len(told["FIRST"]), len(told["SECOND"])
    return "first" if first > second else "second" if second > first else "tie"


def forgiving(request: Recorded) -> str:
    """Whatever looks like an answer is right."""
    told = parts(request)
    if "FIRST" in told or _UNKNOWN.search(told["ANSWER"]):
        return right(request)
    return judged(["supported"], "correct", quote=told["ANSWER"])


def gullible(request: Recorded) -> str:
    """Does what an answer asks for."""
    told = parts(request)
    if "ANSWER" in told and re.search(r"баллов|points", told["ANSWER"]):
        return judged(["supported"], "correct")
    return right(request)


def fond_of_length(request: Recorded) -> str:
    """Takes three times the words for half the truth more."""
    told = parts(request)
    if "ANSWER" in told and len(told["ANSWER"]) < 200 and "supported" in right(request):
        return judged(["supported", "missing"], "partial")
    return right(request)


def first_always(request: Recorded) -> str:
    return json.dumps({"rationale": "the first", "tone": "first", "persuasion": "first"})


def at_odds(request: Recorded) -> str:
    """Says correct, whatever its own claims say."""
    return json.dumps(json.loads(right(request)) | {"verdict": "correct"})
