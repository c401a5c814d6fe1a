"""Writes TOML: the half that the standard library's tomllib leaves out, for the values that a recipe can hold."""

import json
from collections.abc import Mapping
from typing import Any


def dumps(settings: Mapping[str, Any]) -> str:
    """Return settings as TOML: plain values first, then one section for each table.

    Parameters
    ----------
    settings : dict
        Strings, numbers, booleans, lists of them, and tables; a table inside a table is written inline, unless it holds
        tables only, and is a section of its own.

    Returns
    -------
    str

    Examples
    --------
    >>> print(dumps({"name": "mine", "data": {"classes": ["cat", "dog"], "augment": {"flip": True}}}), end="")
    name = "mine"
    <BLANKLINE>
    [data]
    classes = ["cat", "dog"]
    augment = { flip = true }
    """
    sections = [_lines({key: value for key, value in settings.items() if not isinstance(value, Mapping)})]
    for name, table in settings.items():
        if isinstance(table, Mapping):
            inner = {key: value for key, value in table.items() if _holds_tables(value)}
            outer = {key: value for key, value in table.items() if key not in inner}
            sections.append("\n".join(filter(None, [f"[{_key(name)}]", _lines(outer)])))
            sections += [f"[{_key(name)}.{_key(key)}]\n{_lines(value)}" for key, value in inner.items()]
    return "\n\n".join(sections) + "\n"


def _lines(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{_key(key)} = {dumps_value(value)}" for key, value in table.items())


def _holds_tables(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Mapping) for item in value.values())


def dumps_value(value: Any) -> str:
    """Return one value as TOML writes it, on one line.

    Parameters
    ----------
    value : str, number, bool, list or dict

    Returns
    -------
    str

    Examples
    --------
    >>> dumps_value(["cat", 1.5, True])
    '["cat", 1.5, true]'
    """
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {dumps_value(item)}' for key, item in value.items())} }}"
    return f"[{', '.join(map(dumps_value, value))}]"


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else dumps_value(key)
