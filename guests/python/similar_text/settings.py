"""The settings of `similar-text`."""

import re
from dataclasses import dataclass
from typing import Any

from cutover_policy import Count, Flag, ListOf, OneOf, Problem, Share, Table, Text

SETTINGS = Table(
    {
        "similarity": Share("90%", "the share of words that two texts must have in common, in their order"),
        "figures": OneOf(("compare", "ignore"), "compare", "whether the numbers in two texts must be the same"),
        "ignore_case": Flag(False, "whether upper and lower case are the same"),
        "mask": ListOf(
            Table(
                {
                    "pattern": Text("a regular expression, as Python's `re` has them"),
                    "category": Text("what a difference in it means to the team", "ignored"),
                }
            ),
            "what may differ wherever it stands in a text, such as times and identifiers",
        ),
        "ignore_keys": ListOf(Text("a key"), "keys of JSON objects that are not compared"),
        "max_words": Count(5_000, "words of a text; longer ones are incomparable", 1, 20_000),
        "max_differences": Count(32, "differences that are reported of a pair", 1, 1_000),
    }
)


@dataclass(frozen=True)
class Mask:
    """What may differ."""

    pattern: re.Pattern[str]
    category: str


@dataclass(frozen=True)
class Rules:
    """Settings that were read."""

    similarity_ppm: int
    figures: bool
    ignore_case: bool
    masks: tuple[Mask, ...]
    ignore_keys: frozenset[str]
    max_words: int
    max_differences: int


def rules(settings: dict[str, Any], problems: list[Problem]) -> Rules:
    """The rules that settings say; adds a problem for each pattern that is none."""
    masks = []
    for i, mask in enumerate(settings["mask"]):
        try:
            masks.append(Mask(re.compile(mask["pattern"]), mask["category"]))
        except re.error as error:
            problems.append(Problem(f"mask[{i}].pattern", f"is not a regular expression: {error}"))
    return Rules(
        similarity_ppm=settings["similarity"],
        figures=settings["figures"] == "compare",
        ignore_case=settings["ignore_case"],
        masks=tuple(masks),
        ignore_keys=frozenset(settings["ignore_keys"]),
        max_words=settings["max_words"],
        max_differences=settings["max_differences"],
    )
