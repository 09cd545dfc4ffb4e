"""Rules that an OpenAPI document can't express: schemathesis loads this file through SCHEMATHESIS_HOOKS.

JSON Schema can't say that one number must not be above another, or that a name needs a letter or digit of any script,
so valid requests are changed to keep the rules.
"""

from typing import Any

import schemathesis

from credit_risk.contract import CONTRACT


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    if isinstance(case.body, dict):
        for name in CONTRACT.open_names:
            text: Any = case.body.get(name.name)
            if isinstance(text, str) and 1 <= len(text) <= name.max_length and not name.accepts(text):
                case.body = case.body | {name.name: name.example}
        for rule in CONTRACT.rules:
            smaller: Any = case.body.get(rule.smaller)
            larger: Any = case.body.get(rule.larger)
            # A value that breaks its own field's rule is left: such a request must be rejected.
            valid = CONTRACT.field(rule.smaller).accepts(smaller) and CONTRACT.field(rule.larger).accepts(larger)
            if valid and smaller > larger:
                case.body = case.body | {rule.smaller: larger}
