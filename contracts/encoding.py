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
_SAMPLES = 10
_ENOUGH = 50
"""Bytes of a piece that are not ASCII, from which on it says something of itself."""
_MARKS_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
_MARKS_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# By their names in Python. Others that it knows are none of files, or take the square of a file's size to decode.
_CHARSETS = re.compile(
    r"utf-8(-sig)?|utf-(16|32)(-[bl]e)?|ascii|cp\d+|iso8859-\d+|koi8-[rtu]|mac-\w+|ptcp154|kz1048|tis-620|gbk|gb\d+|"
    r"big5(hkscs)?|shift_jis\w*|euc_\w+|johab"
)
_BOX_IN_WORD = re.compile(r"[\u2500-\u259f][а-яё]|[а-яё][\u2500-\u259f]", re.IGNORECASE)
_SERBIAN, _NOT_SERBIAN = re.compile("[ђѓќћџљњѕ]", re.IGNORECASE), re.compile("[ыэъё]", re.IGNORECASE)
_SIGN_IN_WORD = re.compile("[а-яё][≥≤≈≠∂∆√ƒ¬±µ¶§¤°†‡•©®™¢£¥∞÷][а-яё]", re.IGNORECASE)
_FOREIGN_RUN = re.compile(r"[^\x00-\x7f]+")
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
    # The longer marks first: that of UTF-32 begins with that of UTF-16.
    for encoding, marks in (("UTF-32", _MARKS_32), ("UTF-16", _MARKS_16)):
        if content.startswith(marks):
            try:
                return content.decode(encoding), encoding.lower()
            except UnicodeDecodeError as error:
                raise InvalidInput(
                    f"{name} begins like {encoding} but is not valid {encoding}. Save it as UTF-8."
                ) from error
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
    except (LookupError, ValueError):
        info = None
    if info is None or not _CHARSETS.fullmatch(info.name):
        known = ", ".join(("utf-8", *CANDIDATES, "koi8-u"))
        raise InvalidInput(f"encoding: {encoding[:40]!r} is not known. Known are {known} and others.")
    try:
        text = info.decode(content, "strict")[0]
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
    found = {_likeliest(sample) for sample in _samples(content)}
    if len(found) != 1 or (best := found.pop()) is None:
        raise _uncertain(content, f"{name} is not UTF-8, and which encoding it is in is not certain.")
    try:
        text = content.decode(best)
    except UnicodeDecodeError:
        raise _uncertain(content, f"{name} looks like {best} and has bytes that are nothing there.") from None
    if CONTROL.search(text):
        raise _uncertain(content, f"{name} looks like {best} and has control characters.")
    return text, best


def _samples(content: bytes) -> list[bytes]:
    """Return pieces from the beginning to the end, those that say something: a file that was put together is not of
    one encoding."""
    step = max(_SAMPLE_CHARS, len(content) // _SAMPLES)
    pieces = [content[start : start + _SAMPLE_CHARS] for start in range(0, len(content), step)]
    first = next(at for at, byte in enumerate(content) if byte > 127)
    said = [piece for piece in pieces if sum(byte > 127 for byte in piece) >= _ENOUGH]
    return said or [content[max(0, first - 100) :][:_SAMPLE_CHARS]]


def _likeliest(sample: bytes) -> str | None:
    """Return the encoding that a piece is in; None where it is not certain."""
    likelihoods = {}
    for encoding in CANDIDATES:
        text = sample.decode(encoding, "replace")
        likelihoods[encoding] = -math.inf if CONTROL.search(text) else _russian_likelihood(text)
    best, rival = sorted(likelihoods, key=likelihoods.__getitem__, reverse=True)[:2]
    text = sample.decode(best, "replace")
    certain = likelihoods[best] - likelihoods[rival] >= _SURELY and _is_russian(text) and not _is_foreign(text)
    return best if certain else None


def _is_foreign(text: str) -> bool:
    """Tell whether there are what the letters of other languages become: signs in words (Ukrainian in KOI8-U, as
    KOI8-R), letters of Serbian beside such as Serbian has not (Kazakh in PTCP154, as cp1251)."""
    if _BOX_IN_WORD.search(text) or _SIGN_IN_WORD.search(text):
        return True
    return bool(_SERBIAN.search(text) and _NOT_SERBIAN.search(text))


def _uncertain(content: bytes, what: str) -> InvalidInput:
    """Return the refusal that shows what the first foreign letters would be in each encoding."""
    at = next((n for n, byte in enumerate(content) if byte > 127), 0)
    piece = content[max(0, at - 20) : at + 60]
    previews = {
        encoding: " ".join(piece.decode(encoding, "replace").split()) for encoding in (*CANDIDATES, "koi8-u", "cp1252")
    }
    return InvalidInput(
        f"{what} Look which of these is right: "
        + ", ".join(f"{encoding} «{preview}»" for encoding, preview in previews.items())
        + ". Send it again with that encoding (--encoding NAME), or save it as UTF-8 ('CSV UTF-8' in Excel).",
        errors=[FieldError(field="encoding", message=f"{name}: {preview}") for name, preview in previews.items()],
    )


def _refuse_twice_encoded(text: str, name: str) -> None:
    """UTF-8 that was once read as something else and saved so (``РЎРєРѕР»СЊРєРѕ`` for ``Сколько``) is valid UTF-8."""
    runs = _FOREIGN_RUN.findall(text[:_SAMPLE_CHARS])
    total = sum(map(len, runs))
    for encoding in ("cp1251", "cp1252", "koi8-r", "cp866"):
        meant = {run: once for run in runs if (once := _read_once(run, encoding)) is not None}
        if total < 8 or sum(len(run) for run in runs if run in meant) < 0.8 * total:
            continue
        said, once = " ".join(meant)[:40], " ".join(meant.values())[:40]
        raise InvalidInput(
            f"{name} was saved with the wrong letters: «{said}» should be «{once}». Open the original as UTF-8 and save"
            " it again; to take it as it is, send it with the encoding utf-8.",
            errors=[FieldError(field="encoding", message=f"utf-8 read as {encoding}: {once}")],
        )


def _read_once(run: str, encoding: str) -> str | None:
    """Return what letters were before their UTF-8 was read as something else; None where they were not.

    Bytes that the encoding has no letter for were read as the character of their number.
    """
    found = bytearray()
    for char in run:
        try:
            found += char.encode(encoding)
        except UnicodeEncodeError:
            if ord(char) > 255:
                return None
            found.append(ord(char))
    try:
        return found.decode()
    except UnicodeDecodeError:
        return None


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
