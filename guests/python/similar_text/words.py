"""Texts as words, and how many of them two texts share."""

import re
import unicodedata
from collections import Counter

from cutover_policy.settings import PPM

from .settings import Rules

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def words(text: str, rules: Rules) -> list[str]:
    """The words of a text as they are compared: compatible characters are one (NFKC), white space only separates, what is
    masked is gone."""
    for mask in rules.masks:
        text = mask.pattern.sub(" ", text)
    text = unicodedata.normalize("NFKC", text)
    return (text.casefold() if rules.ignore_case else text).split()


def figures(words: list[str]) -> Counter[str]:
    """The numbers in a text, and how often each is there."""
    return Counter(number for word in words for number in NUMBER.findall(word))


def similarity_ppm(a: list[str], b: list[str]) -> int:
    """The share of words in common, in parts per million, rounded down: twice the longest common subsequence over all words."""
    return 2 * common(a, b) * PPM // (len(a) + len(b)) if a or b else PPM


def common(a: list[str], b: list[str]) -> int:
    """The length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): one row of the table is one integer, so that
    the worst case costs len(b) operations on integers of len(a) bits, where difflib's is cubic.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        here = row & places.get(word, 0)
        row = ((row + here) | (row - here)) & full
    return len(a) - bin(row).count("1")


def changed(a: list[str], b: list[str]) -> tuple[str, str]:
    """What is left of two texts without the words that they begin and end with alike, cut for people."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return excerpt(" ".join(a[start : len(a) - end])), excerpt(" ".join(b[start : len(b) - end]))


def excerpt(text: str, most: int = 200) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else f"{text[:most]}.."
