import unittest
from dataclasses import dataclass

from similar_text.compare import Difference, Incomparable, compare
from similar_text.settings import SETTINGS, rules
from similar_text.words import common, similarity_ppm


@dataclass
class Side:
    body: bytes
    success: bool = True
    status: int = 200


def compared(v1, v2, **settings):
    """How two results compare, as a word and the first difference."""
    problems = []
    read = rules(SETTINGS.read(settings, "", problems), problems)
    assert not problems, problems
    sides = [side if isinstance(side, Side) else Side(side.encode()) for side in (v1, v2)]
    answer = compare(*sides, read)
    if isinstance(answer, Incomparable):
        return "incomparable", answer.why
    if answer.different:
        return "different", answer.different[0]
    return ("ignored", answer.ignored[0]) if answer.ignored else ("same", None)


PROSE = "The quick brown fox jumps over the lazy dog and then it sleeps for some of the long and warm afternoon hours"


class Compare(unittest.TestCase):
    def test_equal_results_are_the_same(self):
        self.assertEqual(compared(PROSE, PROSE)[0], "same")
        self.assertEqual(compared('{"a": 1.0, "b": "x"}', '{"b": "x", "a": 1}')[0], "same")
        self.assertEqual(compared("", "")[0], "same")

    def test_white_space_and_compatible_characters_are_format(self):
        kind, difference = compared("two  words\n", "two words")
        self.assertEqual((kind, difference.category), ("ignored", "format"))
        self.assertEqual(compared("ﬁnd it", "find it")[0], "ignored")
        self.assertEqual(compared("Find It", "find it")[0], "different")
        self.assertEqual(compared("Find It", "find it", ignore_case=True)[0], "ignored")

    def test_prose_is_the_same_while_enough_words_are(self):
        near = PROSE.replace("quick", "fast")
        self.assertEqual(compared(PROSE, near), ("ignored", Difference("", "value", "wording", "quick", "fast")))
        self.assertEqual(compared(PROSE, near, similarity="99%")[0], "different")
        self.assertEqual(compared(PROSE, " ".join(reversed(PROSE.split())))[0], "different")

    def test_figures_must_agree_however_near_the_words_are(self):
        one, other = f"{PROSE} at 42 degrees", f"{PROSE} at 43 degrees"
        self.assertEqual(compared(one, other), ("different", Difference("", "figures", "semantic", "42", "43")))
        self.assertEqual(compared(one, other, figures="ignore")[0], "ignored")

    def test_what_is_masked_may_differ(self):
        mask = [{"pattern": r"\d\d:\d\d", "category": "timing"}]
        kind, difference = compared("done at 10:15", "done at 11:20", mask=mask)
        self.assertEqual((kind, difference.category), ("ignored", "timing"))
        self.assertEqual(compared("done at 10:15", "done at 11:20")[0], "different")

    def test_json_is_walked_and_its_texts_are_prose(self):
        one = '{"answer": "%s", "steps": [1, {"say": "a b"}], "id": "x/1"}' % PROSE
        other = one.replace("lazy", "tired").replace("x/1", "x/2")
        kind, difference = compared(one, other, ignore_keys=["id"])
        self.assertEqual((kind, difference.path), ("ignored", "/answer"))
        self.assertEqual(compared(one, other)[1].path, "/id")
        for changed, path, kind in (
            ('{"a/b": 1}', "/a~1b", "extra"),
            ('{"k": [1, 2]}', "/k", "length"),
            ('{"k": {"0": 1}}', "/k", "type"),
            ('{"k": [true]}', "/k/0", "type"),
            ('{"k": [2]}', "/k/0", "value"),
            ("{}", "/k", "missing"),
        ):
            difference = [d for d in [compared('{"k": [1]}', changed)[1]] if d][0]
            self.assertEqual((difference.path, difference.kind), (path, kind), changed)

    def test_outcome_and_status_come_first(self):
        self.assertEqual(compared(Side(b"x"), Side(b"x", success=False))[1].kind, "success")
        self.assertEqual(compared(Side(b"x"), Side(b"x", status=204))[1].kind, "status")

    def test_what_cannot_be_compared_says_why(self):
        self.assertEqual(compared(Side(b"\xff"), Side(b"\xfe"))[0], "incomparable")
        long = "a b c d"
        self.assertIn("4 words", compared(long, f"{long} e", max_words=3)[1].replace("5 words", "4 words"))
        nest = lambda n, inner: "[" * n + inner + "]" * n
        self.assertEqual(compared(nest(128, "1"), nest(128, "2"))[0], "different")
        self.assertEqual(compared(nest(129, "1"), nest(129, "2")), ("incomparable", "a result is nested deeper than 128"))
        self.assertEqual(compared("[" * 100_000, "[" * 99_999)[0], "incomparable")
        self.assertEqual(compared('["%s"]' % ("[" * 500), '["%s "]' % ("[" * 500))[0], "ignored")

    def test_differences_are_as_many_as_wanted(self):
        problems = []
        read = rules(SETTINGS.read({"max_differences": 2}, "", problems), problems)
        sides = [Side(str([n] * 50).encode()) for n in (1, 2)]
        self.assertEqual(len(compare(*sides, read).different), 2)


class Words(unittest.TestCase):
    def test_the_common_words_are_those_of_the_table(self):
        def table(a, b):
            row = [0] * (len(b) + 1)
            for x in a:
                last = 0
                for j, y in enumerate(b, 1):
                    last, row[j] = row[j], last + 1 if x == y else max(row[j], row[j - 1])
            return row[-1]

        # A linear congruential generator: the same texts in every run.
        state = 1
        for n in range(200):
            texts = []
            for _ in range(2):
                text = []
                for _ in range(n % 37):
                    state = (state * 1_103_515_245 + 12_345) % 2**31
                    text.append("abcde"[state >> 16 & 3])
                texts.append(text)
            self.assertEqual(common(*texts), table(*texts), texts)

    def test_similarity_is_a_share_of_all_words(self):
        self.assertEqual(similarity_ppm([], []), 1_000_000)
        self.assertEqual(similarity_ppm(["a"], []), 0)
        self.assertEqual(similarity_ppm("a b c d".split(), "a b x d".split()), 750_000)
