"""Settings: each field is described once, and both its reader and its JSON Schema come of that.

`read` gives the value in integers (shares in parts per million), or adds a problem that names the path and says what would
be right.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, Protocol

PPM = 1_000_000


class Problem(NamedTuple):
    """Something wrong in the settings."""

    path: str
    message: str


class Field(Protocol):
    """One setting."""

    default: Any

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema."""
        ...

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        """Its value, or `None` and a problem."""
        ...


@dataclass(frozen=True)
class Table:
    """An object whose fields have defaults, but for those whose default is `None`. Fields that it does not know are
    problems."""

    fields: dict[str, Field]
    default: Any = None

    def schema(self) -> dict[str, Any]:
        properties = {name: one.schema() for name, one in self.fields.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def read(self, value: Any, path: str, problems: list[Problem]) -> Optional[dict[str, Any]]:
        if not isinstance(value, dict):
            return wrong(problems, path, f"is {shown(value)}; it must be a table")
        at = (lambda name: f"{path}.{name}") if path else (lambda name: name)
        for name in value:
            if name not in self.fields:
                known = ", ".join(f"`{one}`" for one in self.fields)
                wrong(problems, at(name), f"is not a setting; there are {known}")
        return {name: one.read(value.get(name, one.default), at(name), problems) for name, one in self.fields.items()}


@dataclass(frozen=True)
class ListOf:
    """A list, possibly empty."""

    item: Field
    description: str
    default: list[Any] = field(default_factory=list)

    def schema(self) -> dict[str, Any]:
        return described({"type": "array", "items": self.item.schema()}, self)

    def read(self, value: Any, path: str, problems: list[Problem]) -> Optional[list[Any]]:
        if not isinstance(value, list):
            return wrong(problems, path, f"is {shown(value)}; it must be a list")
        return [self.item.read(one, f"{path}[{i}]", problems) for i, one in enumerate(value)]


@dataclass(frozen=True)
class Share:
    """A share of a whole in parts per million: `"5%"`, `"99.95%"`, or a whole number of ppm."""

    default: str
    description: str

    def schema(self) -> dict[str, Any]:
        return described({"type": ["string", "integer"]}, self)

    def read(self, value: Any, path: str, problems: list[Problem]) -> Optional[int]:
        ppm = value if is_whole(value) else None
        if isinstance(value, str) and (said := re.fullmatch(r"(\d+)(?:\.(\d{1,4}))?\s*%", value)):
            ppm = int(said[1]) * 10_000 + int((said[2] or "").ljust(4, "0"))
        if ppm is None or not 0 <= ppm <= PPM:
            return wrong(problems, path, f"is {shown(value)}; it must be a share from 0% to 100%")
        return ppm


@dataclass(frozen=True)
class Count:
    """A whole number."""

    default: int
    description: str
    least: int
    most: int

    def schema(self) -> dict[str, Any]:
        return described({"type": "integer", "minimum": self.least, "maximum": self.most}, self)

    def read(self, value: Any, path: str, problems: list[Problem]) -> Optional[int]:
        if not is_whole(value) or not self.least <= value <= self.most:
            limits = f"from {self.least} to {self.most}"
            return wrong(problems, path, f"is {shown(value)}; it must be a whole number {limits}")
        return value


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple[Any, ...]
    default: Any
    description: str

    def schema(self) -> dict[str, Any]:
        return described({"enum": list(self.values)}, self)

    def read(self, value: Any, path: str, problems: list[Problem]) -> Any:
        # `1 == True` in Python, and not in JSON.
        if not any(value is one or (type(value) is type(one) and value == one) for one in self.values):
            choice = " or ".join(shown(one) for one in self.values)
            return wrong(problems, path, f"is {shown(value)}; it must be {choice}")
        return value


def Flag(default: bool, description: str) -> OneOf:
    """`true` or `false`."""
    return OneOf((True, False), default, description)


@dataclass(frozen=True)
class Text:
    """A text. Without a default it must be given."""

    description: str
    default: Optional[str] = None

    def schema(self) -> dict[str, Any]:
        return described({"type": "string"}, self)

    def read(self, value: Any, path: str, problems: list[Problem]) -> Optional[str]:
        if not isinstance(value, str):
            return wrong(problems, path, f"is {shown(value)}; it must be a text" if value is not None else "is missing")
        return value


def described(schema: dict[str, Any], one: Field) -> dict[str, Any]:
    if one.default is not None:
        schema["default"] = one.default
    return schema | {"description": getattr(one, "description")}


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def shown(value: Any) -> str:
    return json.dumps(value)


def wrong(problems: list[Problem], path: str, message: str) -> None:
    problems.append(Problem(path, message))
