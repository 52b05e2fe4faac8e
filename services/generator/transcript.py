"""Token ids in, the answer's text out, piece by piece.

What a reasoning model thinks before it answers (DeepSeek-R1: ``<think>...</think>``) is kept apart, and the answer ends
before a stop sequence. A piece that was handed out is never taken back: what could still turn out to be the beginning
of a mark or of a stop sequence, or white space at the end, is held until the next token decides.
"""

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

THINK, END_OF_THINKING = "<think>", "</think>"


class Transcript:
    """The text of one answer.

    Args:
        tokenizer: of the model, a fast one.
        stop: sequences before which the answer ends.
        thinking: whether the prompt ends with an opened ``<think>``.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), thinking: bool = False):
        self._tokenizer = tokenizer.backend_tokenizer
        self._decode = DecodeStream(skip_special_tokens=True)
        self._stop = [sequence for sequence in stop if sequence]
        self._thinking = thinking
        self._begun = thinking  # whether it is known that the answer does not begin with thoughts
        self._held = ""
        self._thoughts = ""
        self.answer = ""
        self.stopped = False

    @property
    def reasoning(self) -> str | None:
        """What the model thought; None where it did not think aloud."""
        return self._thoughts.strip() or None

    def add(self, piece: Sequence[int] | str) -> str:
        """Take new tokens, or new text; return the piece of the answer that they complete, maybe empty."""
        if self.stopped:
            return ""
        if isinstance(piece, str):
            self._held += piece
        else:
            self._held += "".join(self._decode.step(self._tokenizer, token) or "" for token in piece)
        return self._released(at_end=False)

    def end(self) -> str:
        """Say that there are no more tokens; return the last piece."""
        return self._released(at_end=True)

    def _released(self, at_end: bool) -> str:
        if not self._begun:
            self._look_for_thoughts(at_end)
        if self._thinking:
            self._think(at_end)
        if self._thinking or not self._begun or self.stopped:
            return ""
        if not self.answer:
            self._held = self._held.lstrip()
        end = min((at for at in (self._held.find(sequence) for sequence in self._stop) if at >= 0), default=-1)
        if end >= 0:
            self.stopped, piece, self._held = True, self._held[:end].rstrip(), ""
        else:
            kept = 0 if at_end else max((_overlap(self._held, sequence) for sequence in self._stop), default=0)
            piece = self._held[: len(self._held) - kept].rstrip()
            self._held = self._held[len(piece) :]
        self.answer += piece
        return piece

    def _look_for_thoughts(self, at_end: bool) -> None:
        text = self._held.lstrip()
        if text.startswith(THINK):
            self._begun = self._thinking = True
            self._held = text.removeprefix(THINK)
        elif text and (at_end or not THINK.startswith(text)):
            self._begun = True

    def _think(self, at_end: bool) -> None:
        thoughts, mark, rest = self._held.partition(END_OF_THINKING)
        if mark:
            self._thoughts += thoughts
            self._thinking, self._held = False, rest
        else:
            kept = 0 if at_end else _overlap(self._held, END_OF_THINKING)
            self._thoughts += self._held[: len(self._held) - kept]
            self._held = self._held[len(self._held) - kept :]


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of ``text`` begin ``mark``."""
    return next((n for n in range(min(len(text), len(mark)), 0, -1) if mark.startswith(text[-n:])), 0)
