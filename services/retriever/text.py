"""Words as both kinds of vector see them."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Return the words in order: lower case, compatibility forms made equal, ё as е, punctuation dropped."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower().replace("ё", "е"))
