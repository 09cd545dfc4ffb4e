"""Whether a policy asks for a new model now."""

import json

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json
from credit_risk.core.paths import relative, root
from credit_risk.monitoring.result import JSON
from credit_risk.registry.client import Version
from credit_risk.retraining.params import Policy

MONITORED = ("6.production", "monitoring", JSON)  # written by `main.py monitor`


def reason_to_wait(policy: Policy, champion: Version | None) -> str | None:
    """Why nothing is trained now, as a sentence; None if something is.

    Raises:
        ProjectError: the policy is `on_drift`, and there is no result of monitoring about the champion.
    """
    if policy == "never":
        return "the policy is never: the champion stays"
    if policy != "on_drift" or champion is None:
        return None
    path = root().joinpath(*MONITORED)
    try:
        result = read_json(path)
        version, alarms, last = str(result["version"]), list(result["alarms"]), str(result["to"])
    except FileNotFoundError as error:
        raise ProjectError(f"{relative(path)} is missing; run `uv run main.py monitor` first") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ProjectError(f"{relative(path)} can't be read; run `uv run main.py monitor` again") from error
    if version != champion.number:
        raise ProjectError(
            f"{relative(path)} is about version {version}, and the champion is version {champion.number}; "
            "run `uv run main.py monitor` again"
        )
    return None if alarms else f"monitoring gave no alarm until {last}: version {version} stays the champion"
