from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from services.generator.transcript import Transcript

TOKENIZER: Any = AutoTokenizer.from_pretrained(Path("models/asktwice-tiny"))


def pieces(text: str, stop: tuple[str, ...] = (), thinking: bool = False) -> tuple[list[str], Transcript]:
    transcript = Transcript(TOKENIZER, stop, thinking)
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return [*(transcript.add([token]) for token in tokens), transcript.end()], transcript


@pytest.mark.parametrize(
    ("text", "answer", "reasoning"),
    [
        ("Это 89 900 ₽ 😀.", "Это 89 900 ₽ 😀.", None),
        ("  \n Да.  \n", "Да.", None),
        ("<think>Ну,\nподумаем.</think>\n\nЭто 5.", "Это 5.", "Ну,\nподумаем."),
        ("\n<think></think>Это 5.", "Это 5.", None),
        ("<think>И ещё", "", "И ещё"),
        ("<thin", "<thin", None),
        ("a < b <think> c", "a < b <think> c", None),
        ("", "", None),
    ],
)
def test_thoughts_are_kept_apart(text: str, answer: str, reasoning: str | None) -> None:
    given, transcript = pieces(text)
    assert "".join(given) == transcript.answer == answer
    assert transcript.reasoning == reasoning


def test_thoughts_that_the_prompt_has_opened() -> None:
    given, transcript = pieces("Так, 2+2.</think> Это 4.", thinking=True)
    assert "".join(given) == "Это 4."
    assert transcript.reasoning == "Так, 2+2."


def test_an_answer_ends_before_a_stop_sequence() -> None:
    given, transcript = pieces("Это 5 рублей. Вопрос: а 6?", stop=("\n\n", "Вопрос:"))
    assert "".join(given) == "Это 5 рублей."
    assert transcript.stopped
    given, transcript = pieces("Воп", stop=("Вопрос:",))
    assert given[-1] == "Воп"
    assert not transcript.stopped


@given(st.text(alphabet="аб <think>/\n.1ё😀", max_size=40), st.sampled_from([(), ("аб",), ("б.", "\n\n")]))
def test_pieces_are_never_taken_back_and_make_the_answer(text: str, stop: tuple[str, ...]) -> None:
    given, transcript = pieces(text, stop)
    assert "".join(given) == transcript.answer
    assert transcript.answer == transcript.answer.strip()
    assert not any(sequence in transcript.answer for sequence in stop)
