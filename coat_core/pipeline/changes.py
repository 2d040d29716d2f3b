"""Changes of a params file by dotted name, e.g. `training.ground_steps=200`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any

from coat_core.errors import SettingsError
from coat_core.settings.params import parse_values

_LINE_WIDTH = 4096
"""Longer than any line, so that ruamel does not fold one."""


def parse_changes(words: Iterable[str]) -> dict[str, Any]:
    """Return name → value of words `NAME=VALUE`; values are YAML 1.2 as in a params file (`no` is a string, `1e-3` a number).

    Raises:
        SettingsError: a word has another form, or its value is not YAML.
    """
    from ruamel.yaml.error import YAMLError

    found: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not all(name.strip().split(".")):
            raise SettingsError("a change has another form", field="change", value=word, allowed="NAME=VALUE, e.g. thinking.tokens=8")
        try:
            found[name.strip()] = _yaml().load(value)
        except YAMLError as error:
            raise SettingsError(f"the value of a change is not YAML: {error}", field=name, value=value) from None
    return found


def apply_changes(values: Any, changes: Mapping[str, Any]) -> Any:
    """Set changes in the values of a params file, in place, and return these; a missing section is added.

    Raises:
        SettingsError: a name leads through a value that is not a section.
    """
    for name, value in changes.items():
        *sections, last = name.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsError("a change leads through a value that has no parts", field=name, value=section)
        place[last] = value
    return values


def changed_text(text: str, changes: Mapping[str, Any]) -> str:
    """Return the text of a params file with changes; comments and the order of keys stay.

    Raises:
        SettingsError: a name leads through a value that is not a section, or the new text would be read as other values (some unusual
            strings, e.g. `:a` inside `{}`).
    """
    from ruamel.yaml.error import YAMLError

    yaml, written = _yaml(), StringIO()
    yaml.dump(apply_changes(yaml.load(text), changes), written)
    try:
        if parse_values(written.getvalue()) == apply_changes(parse_values(text), changes):
            return written.getvalue()
    except YAMLError:
        pass
    raise SettingsError("cannot write these values", field="change", value=dict(changes), next_step="write them into the file by hand")


def _yaml() -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Writes None as in the params files; the default is nothing at all."""

    Representer.add_representer(type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml = YAML()  # the round-trip reader: its values are subclasses of dict, list and float that know how they were written
    yaml.Representer = Representer
    yaml.width, yaml.preserve_quotes = _LINE_WIDTH, True
    return yaml
