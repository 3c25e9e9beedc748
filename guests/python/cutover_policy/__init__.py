"""What a policy in Python needs beside its own rules: who it is, and its settings."""

import json
from dataclasses import dataclass
from typing import Any

from .settings import Count, Field, Flag, ListOf, OneOf, Problem, Share, Table, Text

__all__ = ["Count", "Field", "Flag", "Identity", "ListOf", "OneOf", "Problem", "Share", "Table", "Text"]


@dataclass(frozen=True)
class Identity:
    """Who a policy is: what `describe` answers."""

    name: str
    version: str
    summary: str
    settings: Table

    def settings_schema(self) -> str:
        """JSON Schema of the settings."""
        return json.dumps(self.settings.schema())

    def read(self, text: str) -> tuple[dict[str, Any], list[Problem]]:
        """The settings, and what is wrong with them; use the former only if there is none of the latter."""
        problems: list[Problem] = []
        settings = self.settings.read(json.loads(text), "", problems)
        return settings or {}, problems
