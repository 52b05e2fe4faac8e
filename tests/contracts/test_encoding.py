"""Whatever a file is encoded in: the right text, or a question; never wrong letters."""

import random

import pytest

from asktwice.profiles import SAMPLE_DATA
from contracts.encoding import decode
from contracts.errors import InvalidInput

RUSSIAN = ["cp1251", "koi8-r", "cp866", "mac-cyrillic", "utf-16-le", "utf-16-be", "utf-16", "utf-8", "utf-8-sig"]


@pytest.mark.parametrize("encoding", RUSSIAN)
def test_russian_text_is_read_right_or_asked_about(encoding: str) -> None:
    text = SAMPLE_DATA.read_text(encoding="utf-8-sig")
    drawn = random.Random(encoding)
    asked = {10: 0, 30: 0, 100: 0, 1000: 0}
    for length in asked:
        for _ in range(60):
            at = drawn.randrange(len(text) - length)
            piece = text[at : at + length].strip().replace("ё", "е") + " это да"
            try:
                content = piece.encode(encoding)
            except UnicodeEncodeError:
                continue
            try:
                assert decode(content, "a.txt")[0] == piece
            except InvalidInput:
                asked[length] += 1
    assert asked[1000] == 0
    assert asked[100] <= 3


@pytest.mark.parametrize("times", [1, 40])
@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "café à la crème, déjà vu — naïve façade"),
        ("cp1252", "Größe für Straßenbahn, Übermut und Äpfel"),
        ("cp1250", "Zażółć gęślą jaźń, Łódź, świętość"),
        ("gb2312", "你好世界，这是一个测试文件"),
        ("cp1253", "Καλημέρα κόσμε, αυτό είναι"),
        ("iso8859-5", "Привет, это текст в редкой кодировке и он длинный"),
        ("cp1256", "مرحبا بالعالم هذا نص"),
        ("cp1252", "é"),
        ("cp1251", "№"),
    ],
)
def test_what_is_not_surely_russian_is_asked_about_with_previews(encoding: str, text: str, times: int) -> None:
    content = f"{text} ".encode(encoding) * times
    with pytest.raises(InvalidInput, match="--encoding NAME") as refused:
        decode(content, "a.txt")
    previews = {error.message.partition(": ")[0]: error.message for error in refused.value.errors}
    assert {"cp1251", "koi8-r", "cp866", "mac-cyrillic", "cp1252"} == set(previews)
    assert decode(content, "a.txt", encoding)[0] == f"{text} " * times


def test_utf8_that_was_read_as_something_else_is_refused() -> None:
    for wrong in ("cp1251", "latin-1"):
        twice = "Курс стоит".encode().decode(wrong)
        with pytest.raises(InvalidInput, match="should be «Курс стоит»"):
            decode(twice.encode(), "a.txt")
        assert decode(twice.encode(), "a.txt", "utf-8") == (twice, "utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-16", "klingon", "hex", "rot13"])
def test_a_named_encoding_must_be_one_and_fit(encoding: str) -> None:
    with pytest.raises(InvalidInput, match=r"not known|not valid|is not"):
        decode("Сколько стоит курс".encode("cp1251") + b"\xd8\x00\xd8", "a.txt", encoding)


@pytest.mark.parametrize("content", [b"", b" \n", b"PK\x03\x04rest", bytes(range(256)) * 4, b"\x00\x01\x02\x03" * 50])
def test_what_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(content, "a.txt")
