"""Prose to passages: paragraphs under their headings, joined where they are short and cut where they are long."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from markdown_it import MarkdownIt
from semantic_text_splitter import TextSplitter
from tokenizers import Tokenizer

BUDGET = 256
"""Tokens of a passage at most, where the embedding reads as many: as long as what embeddings are trained on."""
CHARACTERS = 1000
"""Of a passage at most where there is no tokenizer: about ``BUDGET`` tokens."""
LONGEST = 12
"""Characters that a token stands for at most, on the average of a passage."""
SHORT = 0.2
"""Paragraphs are joined until they have this share of the most: one line alone says too little to be found by."""
_BLANK_LINES = re.compile(r"\n\s*\n")
_FRONT_MATTER = re.compile(r"---\n.*?\n(---|\.\.\.)\n", re.DOTALL)
_MARKDOWN = MarkdownIt("commonmark").enable("table")


class Paragraph(NamedTuple):
    """A piece of a document that its author set apart.

    ``unit`` is what the receipt counts it in: its own number, or its page's; ``headings`` are those that it is under,
    the outermost first.
    """

    text: str
    unit: int
    headings: tuple[str, ...] = ()


class Piece(NamedTuple):
    """The text of a passage and the units that it came from."""

    text: str
    units: tuple[int, ...]
    headings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Splitter:
    """Measures in the embedding's tokens where it has a tokenizer, in characters where not."""

    tokenizer: Tokenizer | None = None
    most: int = CHARACTERS

    @classmethod
    def by_tokens(cls, tokenizer: Tokenizer, window: int) -> "Splitter":
        """
        Args:
            tokenizer: of the embedding, a copy of its own: truncation is switched off.
            window: how many tokens the embedding reads of a passage.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(tokenizer, max(16, min(BUDGET, window)))

    def length(self, text: str) -> int:
        if self.tokenizer is None:
            return len(text)
        return max(len(self.tokenizer.encode(text, add_special_tokens=False)), len(text) // LONGEST)

    def split(self, text: str, most: int | None = None) -> list[str]:
        """Cut a text at its largest joints (lines, sentences, words) into pieces of at most ``most``."""
        most = max(most or self.most, 8)
        if self.tokenizer is None:
            return TextSplitter(most).chunks(text)
        chunks = TextSplitter.from_huggingface_tokenizer(self.tokenizer, most).chunks(text)
        by_characters = TextSplitter(LONGEST * most)  # a word that a vocabulary has not may be one token, however long
        return [part for chunk in chunks for part in by_characters.chunks(chunk)]

    def pieces(self, paragraphs: Sequence[Paragraph], by_unit: bool = False) -> Iterator[Piece]:
        """Yield passages: none goes over a heading, each begins with the one it is under.

        Args:
            paragraphs: of a document, in order.
            by_unit: no passage goes over the end of a unit.
        """
        for (headings, _), group in groupby(paragraphs, lambda p: (p.headings, p.unit if by_unit else 0)):
            heading = self.split(headings[-1], self.most // 2)[0] + "\n" if headings else ""
            room = self.most - self.length(heading)
            for text, units in self._filled(list(group), room):
                yield Piece(heading + text, units, headings)

    def _filled(self, paragraphs: Sequence[Paragraph], room: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        text, length = "", 0
        units: tuple[int, ...] = ()
        for paragraph in paragraphs:
            own = self.length(paragraph.text)
            if text and (length >= SHORT * self.most or length + own + 2 > room):
                yield text, units
                text, units, length = "", (), 0
            if own > room:
                for part in self.split(paragraph.text, room):
                    yield part, (paragraph.unit,)
                continue
            text = f"{text}\n\n{paragraph.text}" if text else paragraph.text
            units = (*units, paragraph.unit)
            length += own + 2
        if text:
            yield text, units


def paragraphs_of_text(text: str) -> list[Paragraph]:
    """Return what blank lines set apart."""
    parts = [part.strip() for part in _BLANK_LINES.split(_newlines(text))]
    return [Paragraph(part, number) for number, part in enumerate(filter(None, parts), 1)]


def paragraphs_of_markdown(text: str) -> list[Paragraph]:
    """Return the blocks of CommonMark (https://spec.commonmark.org) as they are written, under their headings."""
    text = _newlines(text)
    text = text[match.end() :] if (match := _FRONT_MATTER.match(text)) else text
    lines = text.split("\n")
    found: list[Paragraph] = []
    headings: list[tuple[int, str]] = []
    tokens = _MARKDOWN.parse(text)
    for at, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        if token.type == "heading_open":
            level = int(token.tag[1:])
            headings = [*((own, said) for own, said in headings if own < level), (level, tokens[at + 1].content)]
        elif block := "\n".join(lines[slice(*token.map)]).strip():
            path = tuple(said for _, said in headings if said)
            found.append(Paragraph(block, len(found) + 1, path))
    return found


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
