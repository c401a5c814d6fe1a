"""Writes TOML: the half that the standard library's tomllib leaves out, for the values that a recipe can hold."""

import json
from collections.abc import Mapping
from typing import Any


def dumps(settings: Mapping[str, Any]) -> str:
    """Return settings as TOML: plain values first, then one section for each table.

    Parameters
    ----------
    settings : dict
        Strings, numbers, booleans, lists of them, and tables; a table inside a table is written inline.

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
    plain = [f"{_key(key)} = {dumps_value(value)}" for key, value in settings.items() if not isinstance(value, Mapping)]
    sections = [
        "\n".join([f"[{_key(name)}]", *(f"{_key(key)} = {dumps_value(value)}" for key, value in table.items())])
        for name, table in settings.items()
        if isinstance(table, Mapping)
    ]
    return "\n\n".join(["\n".join(plain), *sections]) + "\n"


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
