"""Writes a candidate into params.yaml without losing its comments."""

import difflib
import io
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from credit_risk.core import params
from credit_risk.core.paths import relative
from credit_risk.model import TrainParams
from credit_risk.search.candidates import searched_parameters


def updated(text: str, train: TrainParams, note: str) -> str:
    """The text of params.yaml with a candidate's parameters, and with `note` as the comment of its learner."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    content = yaml.load(text)
    section, wanted = content["train"], searched_parameters(train)
    learner = section[train.model]
    for name in [name for name in learner if name not in wanted[train.model]]:
        del learner[name]
    _set_values(section, wanted)
    section.yaml_add_eol_comment(note, train.model, column=0)
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def diff(before: str, after: str) -> str:
    """The changes, as `diff -u` shows them."""
    name = relative(params.path())
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(old, new, name, name, n=1))


def _set_values(section: Any, wanted: dict[str, Any]) -> None:
    """Sets values in place, so that comments stay; a new key comes first, as blank lines belong to the last."""
    for name, value in wanted.items():
        if isinstance(value, dict) and name in section:
            _set_values(section[name], value)
        elif name not in section:
            section.insert(0, name, _one_line(value) if isinstance(value, dict) else value)
        elif section[name] != value:
            section[name] = value


def _one_line(mapping: dict[str, Any]) -> CommentedMap:
    made = CommentedMap(mapping)
    made.fa.set_flow_style()
    return made
