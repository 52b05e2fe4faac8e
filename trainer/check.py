"""What should be known of a file before any GPU minute: what is wrong with it, what is odd, what would leak."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import combinations, islice
from statistics import median
from typing import Any, Literal

from contracts.groups import THRESHOLD, grouped, near_duplicates, normalized, same_digits, similarity
from contracts.table import Row, Table
from trainer.data import MIN_ROWS, Asked, Example, encode, without_passages
from trainer.raft import unknown
from trainer.recipe import Recipe
from trainer.split import MIN_ROWS_FOR_DEV, row_groups, split_rows

Level = Literal["ok", "warn", "error"]
Report = Callable[[int, int, str], None]
"""Called with how many rows are done, of how many, and what is done with them."""

SHOWN = 20
"""Examples of a finding that are kept; all cases are counted."""
SUPPORTED_WORDS = 0.3
"""Least share of an answer's content words that its context and question should have."""
FEWEST_WORDS = 4
"""Content words from which the share says something."""
SPELLING = 0.85
"""Share of letters (difflib's ratio) that two stems have in common from which they are spellings of one word."""
LEAKED = 0.01
"""Share of test questions that training knows, from which figures on them say nothing. A fine-tuned model gains by them
their share times the gap between learnt questions (0.99 right) and new ones (0.35): 0.64 points a leaked percent."""
_ANSWERS_COMPARED = 50
_NUMBER = re.compile(
    r"""
    (?P<phone>(?:\+\d{1,3}|(?<![\d.,])8)[\s(.-]*\d{3}[\s).-]*\d{3}[\s.-]*\d{2}[\s.-]*\d{2}(?!\d))
    |(?P<date>(?<!\d)(?:\d{4}-\d{2}-\d{2}|\d{1,2}[./]\d{1,2}[./](?:\d{4}|\d{2}))(?!\d))
    |(?P<spaced>(?<![\d.,])\d{1,3}(?:[ '\u00a0\u2009\u202f]\d{3})+(?:[.,]\d{1,2})?(?!\d))
    |(?P<pointed>(?<![\d.,])\d{1,3}(?:[.,]\d{3})+(?![\d]))
    |(?P<plain>\d+(?:[.,:]\d+)?)
    """,
    re.VERBOSE,
)
_DAY_AND_MONTH = re.compile(r"(?:0?[1-9]|[12]\d|3[01])\.(?:0[1-9]|1[0-2])")
_LIST_MARK = re.compile(r"(?m)^\s*\d{1,2}[.)]\s+")
_MULTIPLIERS = re.compile(
    r"\s*(?:(тыс\w*|thousand|[kк])|(млн|миллион\w*|million|mln|m)|(млрд|миллиард\w*|billion|bn))\b", re.IGNORECASE
)
_FRACTIONS = str.maketrans({"½": ".5", "¼": ".25", "¾": ".75"})
_NUMERALS = r"""
0 ноль|нул\w+|zero
1 один|одн(?:а|о|у|ого|ой|ому|им|ом|и|их)|перв\w+|one|first|once
2 дв(?:а|е|ух\w*|ум|умя|ое|оих)|втор\w+|оба|обе|two|second|twice|both
3 три|тр[ёе](?:х\w*|м|мя)|трое|трет\w+|three|third
4 четыр(?:е|[ёе]х\w*|[ёе]м|ьмя)|четверо|четв[ёе]рт\w+|four|fourth
5 пять|пяти(?!д)\w*|пятью|пятеро|пят(?:ый|ая|ое|ого|ом|ой|ую)|five|fifth
6 шест(?:ь|ью|еро|ой|ая|ое|ого|ую)|шести(?!д)\w*|six|sixth
7 семь|семью|семеро|седьм\w+|семи(?:дневн\w+|недельн\w+|месячн\w+)?|seven|seventh
8 восемь|восьми(?!д)\w*|восьмью|восьм(?:ой|ая|ое|ого|ую)|eight|eighth
9 девят(?:ь|ью|ый|ая|ое|ого|ой|ую)|девяти(?!д)\w*|nine|ninth
10 десят(?:ь|ью|ый|ая|ое|ого|ой|ую|ок)|десяти\w*|ten|tenth
11 одиннадцат\w+|eleven
12 двенадцат\w+|дюжин\w+|twelve|dozen
13 тринадцат\w+|thirteen
14 четырнадцат\w+|fourteen
15 пятнадцат\w+|fifteen
16 шестнадцат\w+|sixteen
17 семнадцат\w+|seventeen
18 восемнадцат\w+|eighteen
19 девятнадцат\w+|nineteen
20 двадцат\w+|twenty
30 тридцат\w+|thirty
40 сорок\w{0,2}|forty
50 пят(?:ь|и)десят\w*|fifty
60 шест(?:ь|и)десят\w*|sixty
70 сем(?:ь|и)десят\w*|seventy
80 вос(?:емь|ьми)десят\w*|eighty
90 девяност\w+|ninety
100 сто|ста|сот\w+|hundred
200 двести|двухсот
300 триста|тр[её]хсот
400 четыреста|четыр[её]хсот
500 пятьсот|пятисот
1000 тысяч\w*|thousand
"""
_MONTHS = (
    *("янв|jan", "фев|feb", "март|march", "апр|apr", "ма[йяе]|may", "июн|june"),
    *("июл|july", "авг|aug", "сент|sept", "окт|oct", "ноя|nov", "дек|dec"),
)
_NEGATIONS = frozenset({"не", "нет", "нельзя", "без", "no", "not", "never", "without"})
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "который которые чтобы если также можно есть будет быть этот этого того только очень более когда после перед"
        " через наши наша вашей ваша ваши всех всего with that this from have were which their they will your been"
        " there about would",
    )
)
_HTML = re.compile(
    r"</?(?:a|b|br|p|div|span|ul|ol|li|strong|em|i|u|table|tr|td|th|img|h[1-6])(?:\s[^<>]*)?/?>"
    r"|&(?:nbsp|amp|lt|gt|quot|#\d+);",
    re.IGNORECASE,
)
# Lists with hyphens are left out: they stand in plain text as well.
_MARKDOWN = re.compile(r"(?m)\*\*[^\s*][^*\n]*\*\*|^#{1,6} +\S|\[[^\]\n]+\]\([^)\s]+\)|^```|^\|.*\|\s*$|`[^`\n]+`")
_ADDRESS = re.compile(r"\S+://\S+|\S+@\S+|\S+\.\w{2,3}/\S*")
_CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
# What the second bytes of Russian in UTF-8 look like in the one-byte tables; the first are Ð, Ñ in one and Р, С in the
# other. Three pairs in a row are no Russian word.
_SECOND_1252 = re.escape(bytes(range(0x80, 0xC0)).decode("cp1252", "ignore")) + "\x80-\xbf"
_SECOND_1251 = re.escape(bytes(range(0x80, 0xC0)).decode("cp1251", "ignore"))
_MOJIBAKE = re.compile(
    f"(?:[ÐÑ][{_SECOND_1252}]){{2}}|(?:[РС][{_SECOND_1251}]){{3}}|Ã[\x80-\xbf]|Â[\xa0-\xbf]|â€[{_SECOND_1252}]|\ufffd"
)
_EXCEL = re.compile(
    r"(?<!\w)#(?:REF!|N/A|VALUE!|NAME\?|DIV/0!|NULL!|NUM!|SPILL!|CALC!"
    r"|ССЫЛКА!|Н/Д|ЗНАЧ!|ИМЯ\?|ДЕЛ/0!|ПУСТО!|ЧИСЛО!)|\A#{3,}\Z|\b\d[.,]\d+E\+\d\d\b"
)


@dataclass(frozen=True, slots=True)
class Instance:
    """One case of a finding: the rows of the file, those of the test file, and what there is to see."""

    rows: list[int]
    text: str
    test_rows: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [("row", self.rows), ("test row", self.test_rows)]
        named = [f"{what}{'s' * (len(rows) > 1)} {', '.join(map(str, rows))}" for what, rows in parts if rows]
        return f"{', '.join(named)}: {self.text}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: ``count`` cases ``of`` so many looked at; the first ``SHOWN`` are in ``examples``.

    ``error``: training on this is impossible or would be for nothing. ``warn``: worth a look.
    """

    name: str
    level: Level
    count: int
    of: int
    message: str
    examples: list[Instance] = field(default_factory=list)

    def lines(self, most: int) -> list[str]:
        """Return the first examples as text; none where nothing is wrong."""
        shown = self.examples[:most] if self.level != "ok" else []
        return [*map(str, shown), *(["..."] if len(shown) < len(self.examples) and shown else [])]


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Of prompt and answer together, in tokens of the base's tokenizer."""

    min: int
    median: float
    p95: int
    max: int
    upper_bound: bool
    """For the method ``raft``, whose passages are known only when the index is searched; see :func:`_at_most`."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """All findings; ``tokens`` is None where no tokenizer was given."""

    file: str
    test_file: str | None
    findings: list[Finding]
    tokens: TokenLengths | None

    @property
    def level(self) -> Level:
        """The gravest level of a finding."""
        levels = {finding.level for finding in self.findings}
        return "error" if "error" in levels else "warn" if "warn" in levels else "ok"

    def as_dict(self) -> dict[str, Any]:
        return {"level": self.level, **asdict(self)}


def check_data(
    table: Table,
    tokenizer: Any | None,
    recipe: Recipe,
    system_prompt: str,
    test: Table | None = None,
    report: Report | None = None,
) -> DataReport:
    """Look at everything once.

    Args:
        table: the file to train on.
        tokenizer: the base's, with a chat template; without one no lengths are told.
        recipe: its method, ``max_length``, ``dev_fraction`` and ``seed`` are those of the training that is meant.
        system_prompt: the one that is trained with.
        test: a second file that is meant to measure; only its questions are looked at.
        report: is called as the work goes on.
    """
    tell = report or (lambda done, total, note: None)
    rows = table.rows
    findings = [_reading(table)]
    tell(0, len(rows), "near duplicates")
    pairs = near_duplicates([row.question for row in rows])
    findings += [_near_duplicates(rows, pairs), _contradictions(rows, pairs)]
    tell(0, len(rows), "contexts")
    findings += [_without_context(rows), _numbers(rows), _words(rows)]
    findings += [_markup(rows), _languages(rows), _mojibake(rows), _excel(rows)]
    too_long: set[int] = set()
    tokens = None
    if tokenizer is not None:
        at_most = recipe.method == "raft"
        ways = _at_most(rows, tokenizer, recipe) if at_most else ([asked] for asked in without_passages(rows))
        examples = []
        for done, asked in enumerate(ways, start=1):
            examples.append(max((encode(way, tokenizer, system_prompt) for way in asked), key=len))
            tell(done, len(rows), "tokens")
        if not at_most:  # what may be too long may fit as well
            too_long = {example.row for example in examples if len(example) > recipe.max_length}
        tokens = _token_lengths(examples, at_most)
        findings += [_too_long(examples, tokens, recipe), *_unknown_tokens(rows, tokenizer)]
    tell(len(rows), len(rows), "split")
    findings += _split([row for row in rows if row.number not in too_long], recipe)
    if test is not None:
        findings.append(_leaks(table, test))
    return DataReport(table.name, test.name if test else None, findings, tokens)


def render(report: DataReport, examples: int = 5) -> str:
    """Return the report as plain text: a line a finding, under what is wrong its first examples."""
    lines = [f"{report.file}: {report.level}"]
    for finding in report.findings:
        lines.append(f"{finding.level:<5} {finding.name}: {finding.message}")
        lines += [f"        {line}" for line in finding.lines(examples)]
    return "\n".join(lines)


def _reading(table: Table) -> Finding:
    lost = [Instance([error.row], error.reason) for error in table.errors[:SHOWN]]
    few = len(table.rows) < MIN_ROWS
    return Finding(
        "rows",
        "error" if few else "warn" if table.rejected else "ok",
        table.rejected + table.duplicates,
        table.read,
        table.summary() + (f". At least {MIN_ROWS} accepted rows are needed to train." if few else "."),
        lost,
    )


def _near_duplicates(rows: Sequence[Row], pairs: Sequence[tuple[int, int, float]]) -> Finding:
    return _finding(
        "near duplicates",
        [
            Instance([rows[i].number, rows[j].number], f"{_short(rows[i].question)} | {_short(rows[j].question)}")
            for i, j, _ in pairs
        ],
        len(rows),
        f"pairs of questions that are the same or nearly so: {len(pairs)} in {len(rows)} rows. They stay on one side of"
        " every split; together they tell no more than one.",
        "no two questions are nearly the same.",
    )


def _contradictions(rows: Sequence[Row], pairs: Sequence[tuple[int, int, float]]) -> Finding:
    """One question, different answers. Near duplicates count as one question where only the spelling differs."""
    same = [(i, j) for i, j, _ in pairs if _respelled(rows[i].question, rows[j].question)]
    found, involved = [], 0
    for places in grouped(len(rows), same):
        answers: dict[str, Row] = {}
        for place in places:
            answers.setdefault(normalized(rows[place].answer), rows[place])
        compared = islice(answers.values(), _ANSWERS_COMPARED)
        clash = next(((a, b) for a, b in combinations(compared, 2) if not _agree(a.answer, b.answer)), None)
        if clash:
            involved += len(places)
            one, other = clash
            text = f"{_short(one.question)} -> {_short(one.answer)} | {_short(other.answer)}"
            found.append(Instance([rows[place].number for place in places], text))
    return _finding(
        "contradictions",
        found,
        len(rows),
        f"questions with answers that differ: {len(found)}, in {involved} of {len(rows)} rows. The model learns each"
        " of them half: keep the right one.",
        "no question has two different answers.",
    )


def _respelled(left: str, right: str) -> bool:
    """Tell whether two near duplicates differ in the spelling of words only, not in which words there are."""
    one, other = ([_stem(word) for word in normalized(text).split()] for text in (left, right))
    return len(one) == len(other) and all(
        a == b or SequenceMatcher(None, a, b).ratio() >= SPELLING for a, b in zip(one, other, strict=True)
    )


def _agree(left: str, right: str) -> bool:
    """Tell whether two answers may say the same: nearly the same text, or the shorter is all in the longer."""
    one, other = sorted((set(map(_stem, normalized(text).split())) for text in (left, right)), key=len)
    if one & _NEGATIONS != other & _NEGATIONS:
        return False
    return one <= other or (similarity(left, right) >= THRESHOLD and same_digits(left, right))


def _without_context(rows: Sequence[Row]) -> Finding:
    missing = [Instance([row.number], _short(row.question)) for row in rows if not row.context]
    return _finding(
        "no context",
        missing,
        len(rows),
        f"rows without a context: {len(missing)} of {len(rows)}. Whether it supports their answers cannot be told, and"
        " RAG has nothing to find for them.",
        "every row has a context.",
    )


def _numbers(rows: Sequence[Row]) -> Finding:
    looked, found = 0, []
    for row in rows:
        asserted = _readings(_LIST_MARK.sub("", row.answer)) if row.context else {}
        if asserted:
            looked += 1
            known = _values(f"{row.context}\n{row.question}")
            missing = [text for text, readings in asserted.items() if not any(part <= known for part in readings)]
            if missing:
                found.append(
                    Instance([row.number], f"{', '.join(missing)} not in the context of: {_short(row.answer)}")
                )
    return _finding(
        "unsupported numbers",
        found,
        looked,
        f"answers with a number, price, date or phone that neither their context nor their question has: {len(found)}"
        f" of {looked} with numbers. They teach to make numbers up: correct the answer or the context.",
        "every number of an answer stands in its context or question.",
    )


def _words(rows: Sequence[Row]) -> Finding:
    looked, found = 0, []
    for row in rows:
        stems = {stem: word for word in _content_words(row.answer) if (stem := _stem(word))} if row.context else {}
        if len(stems) < FEWEST_WORDS:
            continue
        looked += 1
        known = {_stem(word) for word in normalized(f"{row.context} {row.question}").split()}
        missing = [word for stem, word in stems.items() if stem not in known]
        share = 1 - len(missing) / len(stems)
        if share < SUPPORTED_WORDS:
            found.append(Instance([row.number], f"{share:.0%} of the words; not there: {', '.join(missing[:8])}"))
    return _finding(
        "unsupported answers",
        found,
        looked,
        f"answers with under {SUPPORTED_WORDS:.0%} of their content words in their context and question:"
        f" {len(found)} of {looked} that are long enough to tell. They seem to answer from somewhere else.",
        f"every answer has at least {SUPPORTED_WORDS:.0%} of its content words in its context and question.",
    )


def _markup(rows: Sequence[Row]) -> Finding:
    kinds: dict[str, list[Row]] = {"plain text": [], "Markdown": [], "HTML": []}
    for row in rows:
        kind = "HTML" if _HTML.search(row.answer) else "Markdown" if _MARKDOWN.search(row.answer) else "plain text"
        kinds[kind].append(row)
    return _mixture("formats", kinds, len(rows), "The model will mix them too: bring the answers into one form.")


def _languages(rows: Sequence[Row]) -> Finding:
    kinds: dict[str, list[Row]] = {"Cyrillic": [], "Latin": []}
    for row in rows:
        script = _script(row.answer)
        if script:
            kinds[script].append(row)
    looked = sum(map(len, kinds.values()))
    return _mixture("languages", kinds, looked, "The model will answer in either: is that meant?")


def _script(text: str) -> str | None:
    """Return the script of most words; None where there are too few to tell a sentence from a name."""
    words = re.findall(r"[^\W\d_]{2,}", _ADDRESS.sub(" ", text))
    cyrillic = sum(bool(_CYRILLIC.match(word)) for word in words)
    if not cyrillic:
        return "Latin" if sum(word.islower() and word.isascii() for word in words) >= 3 else None
    return "Cyrillic" if 2 * cyrillic > len(words) else "Latin" if 5 * cyrillic < len(words) else None


def _mixture(name: str, kinds: dict[str, list[Row]], of: int, advice: str) -> Finding:
    there = sorted((kind for kind in kinds if kinds[kind]), key=lambda kind: -len(kinds[kind]))
    rare = sorted(((kind, row) for kind in there[1:] for row in kinds[kind]), key=lambda case: case[1].number)
    counts = ", ".join(f"{len(kinds[kind])} {kind}" for kind in there)
    return _finding(
        name,
        [Instance([row.number], f"{kind}: {_short(row.answer)}") for kind, row in rare],
        of,
        f"answers unlike most others: {len(rare)} of {of} ({counts}). {advice}",
        f"all answers are alike ({counts}).",
    )


def _mojibake(rows: Sequence[Row]) -> Finding:
    found = _matching(rows, _MOJIBAKE)
    return _finding(
        "broken letters",
        found,
        len(rows),
        f"rows with a cell that was once read in a wrong encoding: {len(found)} of {len(rows)}. Export them again as"
        " UTF-8; saving this file anew does not mend it.",
        "no cell looks as if it had been read in a wrong encoding.",
    )


def _excel(rows: Sequence[Row]) -> Finding:
    found = _matching(rows, _EXCEL)
    return _finding(
        "spreadsheet errors",
        found,
        len(rows),
        f"rows with a cell that holds a spreadsheet's error instead of a value: {len(found)} of {len(rows)}."
        " Mend the formula or widen the column, export again.",
        "no cell holds a spreadsheet's error.",
    )


def _matching(rows: Sequence[Row], pattern: re.Pattern[str]) -> list[Instance]:
    """Return the rows that have a matching cell, with the first of them from shortly before the match."""
    found = []
    for row in rows:
        matches = ((column, text, pattern.search(text)) for column, text in row.cells.items())
        first = next(((column, text, match) for column, text, match in matches if match), None)
        if first:
            column, text, match = first
            found.append(Instance([row.number], f"{column}: {_short(text[max(0, match.start() - 20) :])}"))
    return found


def _at_most(rows: Sequence[Row], tokenizer: Any, recipe: Recipe) -> Iterator[list[Asked]]:
    """Yield of each row the longest that ``raft`` can make of it, where the index holds the contexts of the file alone.

    That is the row with its own context and the ``distractors`` longest others; or, if the answer that nothing is known
    is the longer one, with the others alone.
    """
    contexts = {row.context for row in rows if row.context}
    lengths = {text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in contexts}
    longest = sorted(contexts, key=lambda text: (-lengths[text], text))[: recipe.distractors + 1]
    for row in rows:
        others = tuple(text for text in longest if text != row.context)[: recipe.distractors]
        yield [Asked(row, (row.context, *others), row.answer), Asked(row, others, unknown(row.question))]


def _token_lengths(examples: Sequence[Example], upper_bound: bool) -> TokenLengths | None:
    lengths = sorted(map(len, examples))
    if not lengths:
        return None
    p95 = lengths[-(-95 * len(lengths) // 100) - 1]
    return TokenLengths(lengths[0], median(lengths), p95, lengths[-1], upper_bound)


def _too_long(examples: Sequence[Example], lengths: TokenLengths | None, recipe: Recipe) -> Finding:
    over = [example for example in examples if len(example) > recipe.max_length]
    shown = [
        Instance([example.row], f"{len(example)} tokens: prompt {len(example.prompt)}, answer {len(example.answer)}")
        for example in over
    ]
    told = (
        f"{lengths.min} to {lengths.max} tokens, median {lengths.median:g}, 95% within {lengths.p95}" if lengths else ""
    )
    if recipe.method == "raft":
        counted = (
            f" Counted is the most that raft makes of a row: with its own context and the {recipe.distractors} longest"
            " others of this file. Longer documents in the index can make it more."
        )
        return _finding(
            "lengths",
            shown,
            len(examples),
            f"rows that can exceed the recipe's {recipe.max_length} tokens, and are left out if they do: {len(over)}"
            f" of {len(examples)} (upper bounds: {told}). Raise max_length, lower distractors or shorten"
            f" the contexts.{counted}",
            f"all rows fit into the recipe's {recipe.max_length} tokens (upper bounds: {told}).{counted}",
        )
    few = len(examples) - len(over) < MIN_ROWS
    return _finding(
        "lengths",
        shown,
        len(examples),
        f"rows over the recipe's {recipe.max_length} tokens, which would be left out: {len(over)} of {len(examples)}"
        f" ({told})." + (f" Fewer than {MIN_ROWS} are left: raise max_length or shorten the answers." if few else ""),
        f"all rows fit into the recipe's {recipe.max_length} tokens ({told}).",
        "error" if few else "warn",
    )


def _unknown_tokens(rows: Sequence[Row], tokenizer: Any) -> list[Finding]:
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        return []  # such a tokenizer has a token for every byte
    found = []
    for row in rows:
        ids = tokenizer(f"{row.question}\n{row.answer}", add_special_tokens=False)["input_ids"]
        if unknown in ids:
            found.append(Instance([row.number], f"{ids.count(unknown)} of {len(ids)} tokens: {_short(row.answer)}"))
    return [
        _finding(
            "unknown tokens",
            found,
            len(rows),
            f"rows with characters that the base's tokenizer does not know: {len(found)} of {len(rows)}. It can neither"
            " read nor write them.",
            "the base's tokenizer knows every character.",
        )
    ]


def _split(rows: Sequence[Row], recipe: Recipe) -> list[Finding]:
    """The split that the recipe makes of the rows that fit: is it sound, and what do its parts share?"""
    split = split_rows(rows, recipe.dev_fraction, recipe.test_fraction, recipe.seed, recipe.split_by_context)
    part = {number: name for name in ("train", "dev", "test") for number in getattr(split, name)}
    groups = row_groups(rows, recipe.split_by_context)
    divided = [group for group in groups if len({part[row.number] for row in group}) > 1]
    largest = max(map(len, groups), default=0)
    wanted = recipe.dev_fraction * len(rows)
    uneven = len(rows) >= MIN_ROWS_FOR_DEV and not wanted / 2 <= len(split.dev) <= 2 * wanted
    told = (
        f"{len(rows)} rows in {split.groups} groups, {len(split.train)} train, {len(split.dev)} dev"
        f" and {len(split.test)} test rows"
    )
    parted = f"{len(divided)} groups of near duplicates are divided between the parts"
    unlike = (
        f". {wanted:.0f} dev rows were wanted: the largest group of near duplicates has {largest} rows and cannot be"
        " divided"
    )
    sizes = Finding(
        "split",
        "warn" if divided or uneven else "ok",
        len(divided),
        split.groups,
        f"{told}; {parted}{unlike if uneven else ''}.",
        [Instance([row.number for row in group], _short(group[0].question)) for group in divided[:SHOWN]],
    )
    trained = {normalized(row.context) for row in rows if part[row.number] == "train" and row.context}
    measured = [row for row in rows if part[row.number] != "train"]
    shared = [row for row in measured if row.context and normalized(row.context) in trained]
    contexts = Finding(
        "shared contexts",
        "ok",
        len(shared),
        len(measured),
        f"dev and test rows with a context that training rows have too: {len(shared)} of {len(measured)}. What they"
        f" measure is {'new questions about known' if shared else 'questions about unknown'} documents.",
        [Instance([row.number], _short(row.question)) for row in shared[:SHOWN]],
    )
    return [sizes, contexts] if measured else [sizes]


def _leaks(table: Table, test: Table) -> Finding:
    """Questions of the test file that are the same as a training question, or nearly so."""
    trained, asked = _by_question(table.rows), _by_question(test.rows)
    known = list(trained.values())
    unknown = list(asked.values())
    questions = [rows[0].question for rows in [*known, *unknown]]
    leaked: dict[int, list[Row]] = {}
    for i, j, _ in near_duplicates(questions):
        if i < len(known) <= j:
            leaked.setdefault(j - len(known), []).extend(known[i])
    count = sum(len(unknown[place]) for place in leaked)
    exact = sum(len(rows) for question, rows in asked.items() if question in trained)
    share = count / len(test.rows) if test.rows else 0.0
    verdict = f" Over {LEAKED:.0%} leaked: figures on it say nothing. Remove them." if share > LEAKED else ""
    found = [
        Instance(
            [row.number for row in leaked[place]],
            f"{_short(leaked[place][0].question)} | {_short(unknown[place][0].question)}",
            [row.number for row in unknown[place]],
        )
        for place in sorted(leaked)
    ]
    return Finding(
        "leaks into the test file",
        "warn" if count else "ok",
        count,
        len(test.rows),
        f"questions of {test.name} that {table.name} has too: {count} of {len(test.rows)} ({share:.1%}), {exact} the"
        f" same and {count - exact} nearly so.{verdict}",
        found[:SHOWN],
    )


def _by_question(rows: Sequence[Row]) -> dict[str, list[Row]]:
    asked: dict[str, list[Row]] = {}
    for row in rows:
        asked.setdefault(normalized(row.question), []).append(row)
    return asked


def _finding(name: str, found: Sequence[Instance], of: int, wrong: str, right: str, level: Level = "warn") -> Finding:
    message = wrong if found else right if of else "there is nothing to look at."
    return Finding(name, level if found else "ok", len(found), of, message, list(found[:SHOWN]))


def _short(text: str, length: int = 80) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else f"{flat[: length - 1]}…"


@lru_cache(maxsize=1)
def _numerals() -> list[tuple[int, re.Pattern[str]]]:
    lines = [line.split(" ", 1) for line in _NUMERALS.split("\n") if line]
    words = [(int(value), re.compile(pattern)) for value, pattern in lines]
    return words + [(n, re.compile(rf"(?:{month})\w{{0,7}}")) for n, month in enumerate(_MONTHS, start=1)]


@lru_cache(maxsize=100_000)
def _numeral(word: str) -> int | None:
    """Return what a word counts: a numeral in most of its forms, an ordinal, a month."""
    return next((value for value, pattern in _numerals() if pattern.fullmatch(word)), None)


def _readings(text: str) -> dict[str, list[frozenset[str]]]:
    """Return the numbers of a text as they are written, each with the ways to read it.

    29.900 is 29900 or 29.9, 15.09 is 15.09 or the 15th of the 9th, 2 млн is 2000000 or 2; a reading is a set of plain
    values, all of which must be known where the number is to be known.
    """
    text = text.translate(_FRACTIONS)
    readings: dict[str, list[frozenset[str]]] = {}
    for match in _NUMBER.finditer(text):
        written = match.group()
        ways = [frozenset(map(_value, values)) for values in _ways(match.lastgroup or "", written)]
        if times := _MULTIPLIERS.match(text, match.end()):
            factor = 1000 ** (times.lastindex or 1)
            ways += [frozenset({_multiplied(value, factor)}) for way in ways for value in way if len(way) == 1]
        readings[written] = ways
    return readings


def _ways(kind: str, written: str) -> list[list[str]]:
    digits = re.findall(r"\d+", written)
    if kind == "phone":
        return [["".join(digits)[-10:]]]
    if kind == "date":
        return [digits]
    if kind == "spaced":
        whole = re.sub(r"[^\d.,]", "", written).replace(",", ".")
        return [[whole]]
    if kind == "pointed":
        return [["".join(digits)], *([[".".join(digits)]] if len(digits) == 2 else [])]
    decimal = written.replace(",", ".").replace(":", ".")
    return [[decimal], digits] if ":" in written or _DAY_AND_MONTH.fullmatch(written) else [[decimal]]


def _value(digits: str) -> str:
    """Return a decimal number in its one shortest form."""
    whole, _, part = digits.partition(".")
    part = part.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{part}" if part else "")


def _multiplied(value: str, factor: int) -> str:
    return _value(format(Decimal(value) * factor, "f"))


def _values(text: str) -> frozenset[str]:
    """Return every value that a text has under some reading, numbers in words among them."""
    values = {value for ways in _readings(text).values() for way in ways for value in way}
    before = 0
    for word in normalized(text).split():
        counted = _numeral(word)
        if counted is not None:
            values.add(str(counted))
            if before > counted:  # двадцать пять
                values.add(str(before + counted))
        before = counted or 0
    return frozenset(values)


def _content_words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W\d_]{4,}", normalized(text)) if word not in _COMMON]


@lru_cache(maxsize=200_000)
def _stem(word: str) -> str:
    import snowballstemmer

    stem: str = snowballstemmer.stemmer("russian" if _CYRILLIC.match(word) else "english").stemWord(word)
    return stem
