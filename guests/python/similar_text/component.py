"""The component: hands the contract's types to `compare` and back. Built with the world `comparison-policy`."""

from typing import Optional

from componentize_py_types import Err
from cutover_policy import Identity
from wit_world import exports
from wit_world.exports import comparison as wit
from wit_world.exports import policy
from wit_world.imports import types

from .compare import Difference, Incomparable, compare
from .settings import SETTINGS, Rules, rules

ME = Identity("similar-text", "0.1.0", "compares results that are prose by their words and figures", SETTINGS)

configured: Optional[Rules] = None


class Policy(exports.Policy):
    def describe(self) -> policy.Description:
        return policy.Description(ME.name, ME.version, ME.summary, [], ME.settings_schema())

    def configure(self, settings: str) -> None:
        global configured
        read, problems = ME.read(settings)
        if not problems:
            configured = rules(read, problems)
        if problems:
            raise Err([types.Problem(*problem) for problem in problems])


class Comparison(exports.Comparison):
    def compare(self, pairs: list[wit.Pair]) -> list[wit.Outcome]:
        assert configured is not None, "the host configures an instance before it asks"
        return [outcome(pair, configured) for pair in pairs]


def outcome(pair: wit.Pair, rules: Rules) -> wit.Outcome:
    compared = compare(pair.v1, pair.v2, rules)
    if isinstance(compared, Incomparable):
        return wit.Outcome_Incomparable(compared.why)
    if compared.different:
        return wit.Outcome_Different(shown(compared.different))
    if compared.ignored:
        return wit.Outcome_Ignored(shown(compared.ignored))
    return wit.Outcome_Same()


def shown(differences: list[Difference]) -> list[wit.Difference]:
    return [wit.Difference(*map(clean, difference)) for difference in differences]


def clean(text: str) -> str:
    """JSON may escape half of a character, which a string of the contract cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
