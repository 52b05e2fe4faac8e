"""Bytes to text, never by a guess that is not safe: wrong letters would be indexed, learnt and served as right."""

import codecs
import math
import re

from contracts.errors import FieldError, InvalidInput

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
CANDIDATES = ("cp1251", "koi8-r", "cp866", "mac-cyrillic")
"""8-bit encodings of Russian that are told apart."""
_SAMPLE_CHARS = 200_000
_SURELY = math.log(20)
"""How much likelier the best candidate has to be than the next."""
# Letters of Russian text with their frequency in 1/100 of a percent, roughly: enough to tell encodings apart.
_FREQUENCIES = (
    "о1090 е850 а800 и740 н670 т630 с550 р470 в450 л440 к350 м320 д300 п280 у260 я200 ы190 ь170 г170 з160 б160 ч140"
    " й120 х100 ж90 ш70 ю60 ц50 щ40 э30 ф30 ъ4 ё20"
)
_LETTERS = {item[0]: int(item[1:]) / 10_000 for item in _FREQUENCIES.split()}
_PUNCTUATION = "«»—–№…“”„"
_USUAL = re.compile(rf"[\s -~\u0400-\u04ff{_PUNCTUATION}]")
# The commonest pairs of letters of Russian: three of four pairs of a text are here, of letters that stand for other
# languages one of ten.
_COMMON = (
    "рапостнинаанентоетроконопроваттьзатекаотнеитероломлиреодмеваесдетаоссяльисмотиледаимтрляобвоныелсомакуав"
    "оремоггоиеияейдотсскричевыамазедслларудлвеспайойбоаеакокарсеинчаонасурженнрсуччифайлабалдилоожнтсаятпаки"
    "сиоппеудминяграпжниипиоеочхоусыхизлютвикчньзютдныйек"
)
_PAIRS = {_COMMON[at : at + 2] for at in range(0, len(_COMMON), 2)}
_PAIR = re.compile(r"(?=([а-яё]{2}))")
_TWO_SCRIPTS = re.compile(r"[a-z][а-яё]|[а-яё][a-z]", re.IGNORECASE)


def decode(content: bytes, name: str, encoding: str | None = None) -> tuple[str, str]:
    """Return the text and its encoding.

    Order: the one that is named, byte order mark, strict UTF-8, UTF-16 without a mark, then the 8-bit encoding of
    ``CANDIDATES`` that makes the likeliest Russian, if it is much likelier than the next.

    Args:
        content: the file's bytes.
        name: what messages call it.
        encoding: what the user says that it is; never doubted, and the bytes must be valid in it.

    Raises:
        InvalidInput: the bytes are not text, or it is not certain which: then ``errors`` has what the text would begin
            with in each encoding.
    """
    if content.startswith(b"PK\x03\x04"):
        raise InvalidInput(f"{name} is a spreadsheet or an archive, not text. In Excel choose Save As, 'CSV UTF-8'.")
    if not content.strip():
        raise InvalidInput(f"{name} is empty.")
    if encoding is not None:
        return _decode_as(content, name, encoding)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16"), "utf-16"
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{name} begins like UTF-16 but is not valid UTF-16. Save it as UTF-8.") from error
    if b"\x00" in content:
        return _decode_utf16(content, name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _decode_russian(content, name)
    controls = len(CONTROL.findall(text[:100_000]))
    if controls > 9 and controls * 100 > len(text[:100_000]):
        raise InvalidInput(f"{name} is not a text file. A CSV or text is expected.")
    _refuse_twice_encoded(text, name)
    return text, "utf-8-sig" if content.startswith(codecs.BOM_UTF8) else "utf-8"


def _decode_as(content: bytes, name: str, encoding: str) -> tuple[str, str]:
    try:
        info = codecs.lookup(encoding)
        if not info._is_text_encoding:
            raise LookupError
        text = info.decode(content, "strict")[0]
    except LookupError:
        known = ", ".join(("utf-8", *CANDIDATES))
        raise InvalidInput(f"encoding: {encoding[:40]!r} is not known. Known are {known} and others.") from None
    except UnicodeError:
        raise _uncertain(content, f"{name} is not {encoding}: it has bytes that are nothing there.") from None
    return text.removeprefix("\ufeff"), info.name


def _decode_utf16(content: bytes, name: str) -> tuple[str, str]:
    """Letters, digits and spaces nearly alone are what the right byte order makes; the wrong one makes rare signs."""
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        sample = text[:_SAMPLE_CHARS]
        if len(_USUAL.findall(sample)) >= 0.95 * len(sample):
            return text, encoding
    raise InvalidInput(f"{name} is not a text file: it contains zero bytes. A CSV or text is expected.")


def _decode_russian(content: bytes, name: str) -> tuple[str, str]:
    likelihoods = {}
    for encoding in CANDIDATES:
        sample = content[:_SAMPLE_CHARS].decode(encoding, "replace")
        likelihoods[encoding] = -math.inf if CONTROL.search(sample) else _russian_likelihood(sample)
    best, rival = sorted(likelihoods, key=likelihoods.__getitem__, reverse=True)[:2]
    sample = content[:_SAMPLE_CHARS].decode(best, "replace")
    if likelihoods[best] - likelihoods[rival] < _SURELY or not _is_russian(sample):
        raise _uncertain(content, f"{name} is not UTF-8, and which encoding it is in is not certain.")
    try:
        text = content.decode(best)
    except UnicodeDecodeError:
        raise _uncertain(content, f"{name} looks like {best} and has bytes that are nothing there.") from None
    if CONTROL.search(text):
        raise _uncertain(content, f"{name} looks like {best} and has control characters.")
    return text, best


def _uncertain(content: bytes, what: str) -> InvalidInput:
    """Return the refusal that shows what the first foreign letters would be in each encoding."""
    at = next((n for n, byte in enumerate(content) if byte > 127), 0)
    piece = content[max(0, at - 20) : at + 60]
    previews = {encoding: " ".join(piece.decode(encoding, "replace").split()) for encoding in (*CANDIDATES, "cp1252")}
    return InvalidInput(
        f"{what} Look which of these is right: "
        + ", ".join(f"{encoding} «{preview}»" for encoding, preview in previews.items())
        + ". Send it again with that encoding (--encoding NAME), or save it as UTF-8 ('CSV UTF-8' in Excel).",
        errors=[FieldError(field="encoding", message=f"{name}: {preview}") for name, preview in previews.items()],
    )


def _refuse_twice_encoded(text: str, name: str) -> None:
    """UTF-8 that was once read as something else and saved so (``РЎРєРѕР»СЊРєРѕ`` for ``Сколько``) is valid UTF-8."""
    sample = text[:_SAMPLE_CHARS]
    if sum(ord(char) > 127 for char in sample) < 8:
        return
    for encoding in ("cp1251", "cp1252", "latin-1", "koi8-r", "cp866"):
        try:
            meant = sample.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        raise InvalidInput(
            f"{name} was saved with the wrong letters: «{sample.strip()[:40]}» should be «{meant.strip()[:40]}». Open"
            " the original as UTF-8 and save it again; to take it as it is, send it with the encoding utf-8.",
            errors=[FieldError(field="encoding", message=f"utf-8 read as {encoding}: {meant.strip()[:60]}")],
        )


def _is_russian(text: str) -> bool:
    pairs = _PAIR.findall(text.lower())
    if len(pairs) < 4 or sum(pair in _PAIRS for pair in pairs) < 0.4 * len(pairs):
        return False
    return len(_TWO_SCRIPTS.findall(text)) <= 0.02 * len(pairs)


def _russian_likelihood(text: str) -> float:
    """Return the log-likelihood of the non-ASCII characters as Russian: letter frequencies and where capitals stand."""
    total, previous = 0.0, ""
    for char in text:
        if ord(char) > 127:
            lower = char.lower()
            total += math.log(_LETTERS.get(lower, 0.005 if char in _PUNCTUATION else 1e-5))
            if char != lower:  # a capital inside a word is what the wrong 8-bit table makes
                total -= 6.0 if previous.isalpha() and previous.islower() else 1.0
        previous = char
    return total
