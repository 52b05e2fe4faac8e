"""The one prompt, shared by training and serving.

What a model was trained on is what it must be asked with, so both sides build their messages here and render them
with the tokenizer's own chat template (or, for models without one, with :data:`PLAIN_CHAT_TEMPLATE`).
"""

from collections.abc import Sequence
from typing import Any

SYSTEM_PROMPT = """\
Вы профессиональный менеджер компании Университет Искусственного интеллекта.
Компания занимается продажей курсов по AI.
Ответьте на вопрос (запрос) так, чтобы человек захотел после ответа купить обучение.
Если вы не знаете ответа, просто скажите, что не знаете, не пытайтесь выдумывать ответ. \
Обратите внимание, Вам следует добиться того, чтобы модель не только отвечала на вопросы по базе знаний, \
но и мотивировала пользователя приобрести платные курсы."""

# For base models without a chat template (GPT-2, DistilGPT2): plain text, one blank line between the parts.
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Вопрос: ' + message['content'] + '\n' }}"
    "{% else %}{{ 'Ответ: ' + message['content'] + eos_token + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Ответ:' }}{% endif %}"
)

NOTHING_FOUND = "По этому вопросу ничего не найдено."
"""Stands in the place of the passages where none fits the question, so that the model is not left to its memory."""

Message = dict[str, str]


def build_messages(question: str, passages: Sequence[str] = (), system: str = SYSTEM_PROMPT) -> list[Message]:
    """Return the chat for one question: system, then user.

    Args:
        question: what the person asked, verbatim.
        passages: retrieved texts, best first; they are numbered from 1, and the numbers are those of the sources that
            the user sees. Empty in the modes without retrieval: then the user message is the bare question.
        system: the system prompt.
    """
    asked = with_passages(question, passages) if passages else question
    return [{"role": "system", "content": system}, {"role": "user", "content": asked}]


def with_passages(question: str, passages: Sequence[str]) -> str:
    """Return the user's message: the numbered passages, or that there are none, and the question."""
    numbered = "\n".join(f"[{n}] {text}" for n, text in enumerate(passages, start=1))
    return f"Контекст:\n{numbered or NOTHING_FOUND}\n\nВопрос: {question}"


def ensure_chat_template(tokenizer: Any) -> None:
    """Give a tokenizer without a chat template the plain one, in place."""
    if getattr(tokenizer, "chat_template", None) is None:
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
