"""What a run does before its first step."""

import json
from contextlib import suppress

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, replacing
from credit_risk.core.paths import data, root
from credit_risk.runner.terminal import console


def prepare_registry() -> None:
    """Opens the registry and imports what registration and gates need, which takes seconds, while other stages run.

    Errors are reported when the registry is used.
    """
    from credit_risk.registry.client import Registry

    with suppress(ProjectError):
        registry = Registry()
        if registry.embedded:  # a server that does not answer is reported by registration
            registry.experiment_id()
    import credit_risk.data.splits
    import credit_risk.evaluation.leakage
    import credit_risk.registry.registration  # noqa: F401


def write_example() -> None:
    """Writes the example request of the contract, which the readme and the summary use."""
    path = root() / "6.production" / "example.json"
    text = json.dumps(CONTRACT.example, indent=2) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def sources_changed() -> bool:
    """Whether a source that DVC does not track differs from what stage 1 has read; prints which."""
    from credit_risk.data.sources import changed, expand

    manifest = data("1.raw", "manifest.json")
    if not manifest.exists():
        return False  # stage 1 runs anyway
    known = {entry["source"]: entry for entry in read_json(manifest)}
    sources = {source.name: source for source in expand(params.raw("data").get("sources", []))}
    names = [name for name, source in sources.items() if name not in known or changed(source, known[name])]
    names += [name for name in known if name not in sources]
    for name in names:
        console.print(f"source {name} has changed")
    return bool(names)
