import json
import re
import unittest
from pathlib import Path

from cutover_policy import Count, Flag, Identity, ListOf, OneOf, Share, Table, Text
from similar_text.settings import SETTINGS, rules

ROOT = Path(__file__).resolve().parents[3]


class Settings(unittest.TestCase):
    def problems(self, text):
        table = Table(
            {
                "limit": Share("5%", "a share"),
                "calls": Count(10, "a count", 1, 99),
                "strict": Flag(True, "a flag"),
                "mode": OneOf(("a", "b"), "a", "a choice"),
                "keys": ListOf(Text("a key"), "keys"),
                "rules": ListOf(Table({"name": Text("its name")}), "rules"),
            }
        )
        read, problems = Identity("p", "1", "s", table).read(text)
        return read if not problems else [f"{path}: {message}" for path, message in problems]

    def test_an_empty_object_gives_the_defaults(self):
        expected = {"limit": 50_000, "calls": 10, "strict": True, "mode": "a", "keys": [], "rules": []}
        self.assertEqual(self.problems("{}"), expected)

    def test_a_share_is_written_in_percent_or_ppm(self):
        for text, ppm in (("0.0125%", 125), ("100%", 1_000_000), ("7 %", 70_000)):
            self.assertEqual(self.problems(json.dumps({"limit": text}))["limit"], ppm)
        self.assertEqual(self.problems('{"limit": 7}')["limit"], 7)

    def test_every_problem_is_listed_with_its_path(self):
        wrong = '{"limit": "101%", "calls": true, "strict": 1, "mode": "c", "keys": [1], "rules": [{}, 2], "n": 1}'
        self.assertEqual(
            self.problems(wrong),
            [
                "n: is not a setting; there are `limit`, `calls`, `strict`, `mode`, `keys`, `rules`",
                'limit: is "101%"; it must be a share from 0% to 100%',
                "calls: is true; it must be a whole number from 1 to 99",
                "strict: is 1; it must be true or false",
                'mode: is "c"; it must be "a" or "b"',
                "keys[0]: is 1; it must be a text",
                "rules[0].name: is missing",
                "rules[1]: is 2; it must be a table",
            ],
        )
        self.assertEqual(self.problems("[]"), [": is []; it must be a table"])

    def test_a_pattern_that_is_none_is_a_problem(self):
        problems = []
        read = SETTINGS.read({"mask": [{"pattern": "a"}, {"pattern": "("}]}, "", problems)
        rules(read, problems)
        self.assertEqual([path for path, _ in problems], ["mask[1].pattern"])

    def test_the_bundle_says_the_defaults(self):
        bundle = (ROOT / "examples/policies/similar-text/policy.toml").read_text()
        said = dict(re.findall(r"^(\w+) = (.*)$", bundle.split("[settings]")[1], re.MULTILINE))
        properties = SETTINGS.schema()["properties"]
        self.assertEqual(said, {name: json.dumps(one["default"]) for name, one in properties.items()})
