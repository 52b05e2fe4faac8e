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
    assert {"cp1251", "koi8-r", "cp866", "mac-cyrillic", "koi8-u", "cp1252"} == set(previews)
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


LONG = "Курс по анализу данных длится четыре месяца и стоит сорок пять тысяч рублей. История, «Я» и число 7. "


@pytest.mark.parametrize("once", ["cp1251", "cp1252"])
def test_text_that_was_read_wrongly_once_is_refused_whatever_letters_it_has(once: str) -> None:
    raw = LONG.encode()
    wrong = "".join(_as_windows_reads(byte, once) for byte in raw)
    with pytest.raises(InvalidInput, match="was saved with the wrong letters"):
        decode(wrong.encode(), "a.txt")
    with pytest.raises(InvalidInput, match="was saved with the wrong letters"):
        decode(f"{wrong} (≥ 3)".encode(), "a.txt")
    assert decode(wrong.encode(), "a.txt", "utf-8")[0] == wrong


def _as_windows_reads(byte: int, encoding: str) -> str:
    try:
        return bytes([byte]).decode(encoding)
    except UnicodeDecodeError:
        return chr(byte)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Київ, їжак і ґава; тривалість курсу чотири місяці, їхня ціна є нижче. " * 3, "koi8-u"),
        ("Қазақстан қаласы, әріптер мен өлең, ұлттық кітап және ғылым туралы. " * 3, "ptcp154"),
    ],
)
def test_other_languages_letters_are_asked_about(text: str, encoding: str) -> None:
    with pytest.raises(InvalidInput, match="not certain") as asked:
        decode(text.encode(encoding), "a.txt")
    assert asked.value.errors
    assert decode(text.encode(encoding), "a.txt", encoding)[0] == text


def test_a_file_put_together_of_two_encodings_is_asked_about() -> None:
    half = LONG * 3_000
    with pytest.raises(InvalidInput, match="not certain"):
        decode(half.encode("cp1251") + half.encode("mac-cyrillic"), "a.txt")
    english = "Mostly English text, and long. " * 10_000
    assert decode((english + half + english).encode("cp1251"), "a.txt")[1] == "cp1251"


def test_utf_32_with_its_mark() -> None:
    assert decode("Истина".encode("utf-32"), "a.txt") == ("Истина", "utf-32")


@pytest.mark.parametrize(
    "name", ["utf-7", "unicode_escape", "punycode", "idna", "a\0b", "rot13", "hex", "undefined", ""]
)
def test_what_is_no_encoding_of_files_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="is not known"):
        decode(b"+2AA- text \\ud800", "a.txt", name)
