"""Walks two results side by side and writes down where they differ. Pure: knows nothing of components."""

import json
import re
from typing import Any, NamedTuple, Protocol, Union

from .settings import Rules
from .words import changed, excerpt, figures, similarity_ppm, words


# Nesting beyond which a result is incomparable. Python's reader of JSON recurses on the native stack, which is small, and a
# caller of the service must not be able to spoil a whole batch of pairs.
DEEPEST = 128

STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')


class Side(Protocol):
    """One pool's answer."""

    success: bool
    status: int
    body: bytes


class Difference(NamedTuple):
    """One place in which two results differ; see the contract."""

    path: str
    kind: str
    category: str
    v1: str
    v2: str


class Compared(NamedTuple):
    """The differences that the rules ignore, and those that they do not."""

    ignored: list[Difference]
    different: list[Difference]


class Incomparable(NamedTuple):
    """Why two results cannot be compared."""

    why: str


class Unfit(Exception):
    """Why a result cannot be compared."""


def compare(v1: Side, v2: Side, rules: Rules) -> Union[Compared, Incomparable]:
    """What differs between two answers to the same call."""
    for kind, one, other in (("success", v1.success, v2.success), ("status", v1.status, v2.status)):
        if one != other:
            return Compared([], [Difference("", kind, "semantic", json.dumps(one), json.dumps(other))])
    if v1.body == v2.body:
        return Compared([], [])
    try:
        one, other = read(v1.body), read(v2.body)
        walk = Walk(rules)
        walk.values("", one, other)
    except UnicodeDecodeError as error:
        return Incomparable(f"a result is not UTF-8: {error.reason}")
    except Unfit as error:
        return Incomparable(str(error))
    most = rules.max_differences
    return Compared(walk.ignored[:most], walk.different[:most])


def read(body: bytes) -> Any:
    """A JSON value, or the text itself if it is not JSON."""
    text = body.decode("utf-8")
    if text.count("[") + text.count("{") > DEEPEST and depth(text) > DEEPEST:
        raise Unfit(f"a result is nested deeper than {DEEPEST}")
    try:
        return json.loads(text)
    except ValueError:
        return text


def depth(text: str) -> int:
    """How deep a text is nested, if it is JSON."""
    now = deepest = 0
    for found in STRING_OR_BRACKET.finditer(text):
        if found[0] in "[{":
            now += 1
            deepest = max(deepest, now)
        elif found[0] in "]}":
            now -= 1
    return deepest


class Walk:
    """The differences of one pair. Paths are JSON Pointers (RFC 6901)."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.ignored: list[Difference] = []
        self.different: list[Difference] = []

    def values(self, path: str, v1: Any, v2: Any) -> None:
        """Compares two values. Stops early when enough is different."""
        if len(self.different) >= self.rules.max_differences:
            return
        if isinstance(v1, str) and isinstance(v2, str):
            self.texts(path, v1, v2)
        elif isinstance(v1, dict) and isinstance(v2, dict):
            self.objects(path, v1, v2)
        elif isinstance(v1, list) and isinstance(v2, list):
            if len(v1) != len(v2):
                self.differ(path, "length", len(v1), len(v2))
            for i, (one, other) in enumerate(zip(v1, v2)):
                self.values(f"{path}/{i}", one, other)
        elif is_number(v1) and is_number(v2):
            if v1 != v2:
                self.differ(path, "value", v1, v2)
        elif type(v1) is not type(v2):
            self.differ(path, "type", v1, v2)
        elif v1 != v2:
            self.differ(path, "value", v1, v2)

    def objects(self, path: str, v1: dict[str, Any], v2: dict[str, Any]) -> None:
        for key in sorted(v1.keys() | v2.keys()):
            if key in self.rules.ignore_keys:
                continue
            at = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in v2:
                self.differ(at, "missing", v1[key], None)
            elif key not in v1:
                self.differ(at, "extra", None, v2[key])
            else:
                self.values(at, v1[key], v2[key])

    def texts(self, path: str, v1: str, v2: str) -> None:
        if v1 == v2:
            return
        a, b = words(v1, self.rules), words(v2, self.rules)
        longest = max(len(a), len(b))
        if longest > self.rules.max_words:
            raise Unfit(f"a text has {longest} words, more than the {self.rules.max_words} of `max_words`")
        if a == b:
            self.ignored.append(Difference(path, "value", self.masked(v1, v2), excerpt(v1), excerpt(v2)))
            return
        left, right = changed(a, b)
        if self.rules.figures and (one := figures(a)) != (other := figures(b)):
            left, right = " ".join(sorted((one - other).elements())), " ".join(sorted((other - one).elements()))
            self.different.append(Difference(path, "figures", "semantic", excerpt(left), excerpt(right)))
        elif similarity_ppm(a, b) >= self.rules.similarity_ppm:
            self.ignored.append(Difference(path, "value", "wording", left, right))
        else:
            self.different.append(Difference(path, "value", "semantic", left, right))

    def masked(self, v1: str, v2: str) -> str:
        """The category of two texts whose words are the same: that of the first mask whose finds differ, or `format`."""
        differ = (mask for mask in self.rules.masks if mask.pattern.findall(v1) != mask.pattern.findall(v2))
        return next((mask.category for mask in differ), "format")

    def differ(self, path: str, kind: str, v1: Any, v2: Any) -> None:
        show = lambda value: "" if value is None else excerpt(json.dumps(value, ensure_ascii=False))
        self.different.append(Difference(path, kind, "semantic", show(v1), show(v2)))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
