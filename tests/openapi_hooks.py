"""What the OpenAPI document can't say: schemathesis loads this file through SCHEMATHESIS_HOOKS.

JSON Schema has no words for "this number must not be above that one", so valid requests are made to respect it.
"""

from typing import Any

import schemathesis

from credit_risk.contract import RULES


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    if isinstance(case.body, dict):
        for rule in RULES:
            smaller, larger = case.body.get(rule.smaller), case.body.get(rule.larger)
            if isinstance(smaller, int | float) and isinstance(larger, int | float) and smaller > larger:
                case.body = case.body | {rule.smaller: larger}
