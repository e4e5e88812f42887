"""Tokenise text and search it for phrases: the terms of a lexicon, or the cues of negation.

A phrase table is a pair of sorted arrays: the 64-bit hashes of all prefixes (first word, first two words, …) of all phrases,
and the phrase that ends with that prefix, if one does. All positions of a text are looked up at once, then those that matched
are extended by one word, and so on. With a million terms this takes a few binary searches per word, and the arrays can be
memory-mapped and shared. Two of n prefixes collide with probability n²/2⁶⁵: 10⁻⁵ for the 2·10⁷ prefixes of a full UMLS.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

COLON, SENTENCE, PARAGRAPH = ":", ".", "\n\n"  # break tokens among the words of a text: no phrase extends across one
WRAPPED = 50  # notes are wrapped at about 75 characters: a line that is shorter than this was not, and ends a sentence

_HEADING = r"[A-Z][A-Za-z/&() -]{0,40}:"
_ITEM = r"[-*•#+>]|\d{1,2}[.)]\s"
# Not the period of a title or of St., nor that of a letter before a small one ("E. coli", "e.g. this") or "C. Diff".
_PERIOD = r"(?<!\b[DM]r)(?<!\bMs)(?<!\bMrs)(?<!\bSt)(?<!\bvs)(?:(?<!\b[A-Za-z])(?<!\bpt)|(?!\.\s+(?:[a-z]|Coli|Diff)))\."
_TOKEN = re.compile(
    rf"""(?P<word>[^\W_]+)
    | (?P<paragraph>\n(?=[^\S\n]*(?:\n|{_HEADING})))
    | (?P<sentence>(?:{_PERIOD}|[!?;])(?=\s|\Z) | \n(?=[^\S\n]*(?:{_ITEM})))
    | (?P<colon>:)
    | (?P<line>\n)""",
    re.VERBOSE,
)
_WORD = re.compile(r"[^\W_]+")
_CONTINUES = re.compile(r"(?:,|\b(?:and|or|no|of|the|with|without|for|denies|a|an))\s*\Z", re.IGNORECASE)  # an unfinished line
_BREAKS = {"paragraph": PARAGRAPH, "sentence": SENTENCE, "colon": COLON, "line": SENTENCE}
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that multiplication by it is invertible
_MASK = (1 << 64) - 1


def words_of(term: str) -> list[str]:
    """The words of a term, split at spaces and punctuation.

    >>> words_of("Diabetes mellitus, type-2 (E11.9)")
    ['Diabetes', 'mellitus', 'type', '2', 'E11', '9']
    """
    return _WORD.findall(term)


def tokens(text: str) -> tuple[list[str], list[int]]:
    r"""The words and breaks of a text, and the position at which each begins.

    A line end is a break before a blank line, a heading or a list item, and after a line too short to have been wrapped,
    unless it ends with a comma or a word such as "or".

    >>> tokens("No fever.\nPMH: CAD")[0]
    ['No', 'fever', '.', '\n\n', 'PMH', ':', 'CAD']
    >>> tokens("no change since the examination of the day before; no sign of\npneumonia")[0][-5:]
    ['.', 'no', 'sign', 'of', 'pneumonia']
    """
    words: list[str] = []
    starts: list[int] = []
    line_start = 0
    for match in _TOKEN.finditer(text):
        kind, start = match.lastgroup, match.start()
        is_wrapped = kind == "line" and (start - line_start >= WRAPPED or bool(_CONTINUES.search(text, line_start, start)))
        if match.group() == "\n":
            line_start = start + 1
        if not is_wrapped:
            words.append(_BREAKS.get(kind) or match.group())
            starts.append(start)
    return words, starts


@lru_cache(maxsize=1 << 20)
def word_hash(word: str) -> int:
    """A 64-bit hash of a word that ignores case and accents.

    >>> word_hash("Sjögren") == word_hash("SJOGREN") != word_hash("Sjogrens")
    True
    """
    if not word.isascii():
        letters = unicodedata.normalize("NFKD", word)
        word = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return int.from_bytes(blake2b(word.casefold().encode(), digest_size=8).digest(), "little")


def hashes(words: Iterable[str]) -> np.ndarray:
    """The hash of each word: (n,) uint64."""
    import numpy as np

    return np.array(array("Q", map(word_hash, words)), np.uint64)


def position_of(key: Any, keys: np.ndarray) -> int | None:
    """The index of a key in an ascending array, or None."""
    import numpy as np

    at = int(np.searchsorted(keys, key))
    return at if at < len(keys) and keys[at] == key else None


def prefix_keys(words: Iterable[str]) -> Iterator[int]:
    """Yield the hash of each prefix of a phrase: of its first word, its first two words, and so on."""
    key = 0
    for word in words:
        key = (key * _MULTIPLIER + word_hash(word)) & _MASK
        yield key


@dataclass(frozen=True)
class PhraseTable:
    """Phrases as sorted hashes of their prefixes."""

    keys: np.ndarray  # (n,) uint64, ascending
    values: np.ndarray  # (n,) int32: the value of the phrase that ends with this prefix, or -1 if none does

    @classmethod
    def build(cls, phrases: Iterable[tuple[Iterable[str], int]]) -> PhraseTable:
        """Build a table of (words, value ≥ 0) pairs; of phrases with the same words the first counts."""
        import numpy as np

        keys, values = array("Q"), array("i")
        for words, value in phrases:
            for key in prefix_keys(words):
                keys.append(key)
                values.append(-1)
            values[-1] = value
        all_keys, all_values = np.array(keys, np.uint64), np.array(values, np.int32)
        order = np.argsort(all_values < 0, kind="stable")  # phrases before prefixes, in the order given
        unique_keys, first = np.unique(all_keys[order], return_index=True)
        return cls(unique_keys, all_values[order[first]])

    def values_of(self, hashed: np.ndarray) -> np.ndarray:
        """The value of the phrase of one word that has each hash, or -1: (n,) int32."""
        import numpy as np

        if not len(self.keys):
            return np.full(len(hashed), -1, np.int32)
        slot = np.minimum(np.searchsorted(self.keys, hashed), len(self.keys) - 1)
        return np.where(self.keys[slot] == hashed, self.values[slot], -1)

    def value(self, words: Iterable[str]) -> int:
        """The value of the phrase with exactly these words, or -1.

        >>> table = PhraseTable.build([(["heart", "failure"], 0), (["heart"], 1)])
        >>> table.value(["Heart", "failure"]), table.value(["heart"]), table.value(["failure"])
        (0, 1, -1)
        """
        import numpy as np

        *_, key = 0, *prefix_keys(words)
        slot = position_of(np.uint64(key), self.keys)
        return -1 if slot is None else int(self.values[slot])

    def matches(self, words: np.ndarray) -> list[tuple[int, int, int]]:
        """The longest phrase that begins at each word of a text, given by the `hashes` of its words: (start, end, value)."""
        import numpy as np

        if not len(self.keys):
            return []
        ends, values = np.zeros(len(words), np.int32), np.empty(len(words), np.int32)
        at, key, length = np.arange(len(words)), np.zeros(len(words), np.uint64), 0
        while len(at):
            key = key * np.uint64(_MULTIPLIER) + words[at + length]  # modulo 2⁶⁴
            slot = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
            known = self.keys[slot] == key
            at, key, slot = at[known], key[known], slot[known]
            length += 1
            value = self.values[slot]
            matched = value >= 0
            ends[at[matched]], values[at[matched]] = at[matched] + length, value[matched]  # replaces shorter phrases
            extensible = at + length < len(words)
            at, key = at[extensible], key[extensible]
        starts = np.flatnonzero(ends)
        return list(zip(starts.tolist(), ends[starts].tolist(), values[starts].tolist(), strict=True))

    def find(self, words: np.ndarray) -> list[tuple[int, int, int]]:
        """The phrases in a text, given by the `hashes` of its words, as (start, end, value): leftmost, then longest.

        >>> table = PhraseTable.build([(["heart"], 1), (["heart", "failure"], 0), (["acute"], 2)])
        >>> table.find(hashes("acute heart failure of the Heart".split()))
        [(0, 1, 2), (1, 3, 0), (5, 6, 1)]
        """
        return leftmost(self.matches(words))

    def find_longest(self, words: np.ndarray) -> list[tuple[int, int, int]]:
        """The phrases in a text as (start, end, value): of those that overlap the longest, then the leftmost.

        >>> table = PhraseTable.build([(["no", "signs"], 0), (["signs", "of", "free"], 1), (["free"], 2)])
        >>> table.find_longest(hashes("no signs of free air".split()))
        [(1, 4, 1)]
        """
        taken = [False] * len(words)
        phrases = []
        for start, end, value in sorted(self.matches(words), key=lambda phrase: phrase[0] - phrase[1]):
            if not any(taken[start:end]):
                taken[start:end] = [True] * (end - start)
                phrases.append((start, end, value))
        return sorted(phrases)


def leftmost(phrases: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Of phrases (start, end, value) in the order of the text those that begin where the one before has ended."""
    chosen, free = [], 0
    for start, end, value in phrases:
        if start >= free:
            chosen.append((start, end, value))
            free = end
    return chosen
