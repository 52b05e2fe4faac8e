from types import SimpleNamespace

from jinja2 import Environment

from contracts.prompts import PLAIN_CHAT_TEMPLATE, SYSTEM_PROMPT, build_messages, ensure_chat_template, with_passages


def test_the_system_prompt_is_the_agreed_one() -> None:
    lines = SYSTEM_PROMPT.split("\n")
    assert len(lines) == 4
    assert lines[0] == "Вы профессиональный менеджер компании Университет Искусственного интеллекта."
    assert lines[3].startswith("Если вы не знаете ответа, просто скажите, что не знаете")
    assert lines[3].endswith("но и мотивировала пользователя приобрести платные курсы.")


def test_passages_are_numbered_as_the_sources_are() -> None:
    [system, user] = build_messages("Сколько?", ["Сто.", "Двести."])
    assert system == {"role": "system", "content": SYSTEM_PROMPT}
    assert user["content"] == "Контекст:\n[1] Сто.\n[2] Двести.\n\nВопрос: Сколько?"


def test_without_passages_the_question_stands_alone() -> None:
    assert build_messages("Сколько?")[1]["content"] == "Сколько?"


def test_where_nothing_was_found_the_question_says_so() -> None:
    assert with_passages("Сколько?", []) == "Контекст:\nПо этому вопросу ничего не найдено.\n\nВопрос: Сколько?"


def test_a_model_without_a_template_gets_the_plain_one_and_keeps_its_own() -> None:
    plain, own = SimpleNamespace(chat_template=None), SimpleNamespace(chat_template="own")
    ensure_chat_template(plain)
    ensure_chat_template(own)
    assert (plain.chat_template, own.chat_template) == (PLAIN_CHAT_TEMPLATE, "own")
    text = (
        Environment(autoescape=False)
        .from_string(PLAIN_CHAT_TEMPLATE)
        .render(messages=build_messages("Сколько?", system="Правила."), add_generation_prompt=True, eos_token="<end>")
    )
    assert text == "Правила.\n\nВопрос: Сколько?\nОтвет:"
