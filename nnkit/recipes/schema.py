"""Checks what a recipe says against the signatures of what it names: unknown keys, missing keys, wrong types."""

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, Union

from nnkit.errors import UsageError, did_you_mean

_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def check_options(options: Any, where: str, *targets: Callable[..., Any], skip: Iterable[str] = ()) -> dict[str, Any]:
    """Check a table of options against the annotated parameters of functions or classes.

    Parameters
    ----------
    options : dict
        As read from TOML.
    where : str
        The table's name, for messages.
    *targets : callable
        Whose parameters the options are.
    skip : iterable of str
        Parameters that a recipe cannot set.

    Returns
    -------
    dict
        The options as `target` takes them: lists where it wants tuples have become tuples, and so on.

    Raises
    ------
    UsageError
        On an unknown or missing key, or a value of the wrong type; it names the key.

    Examples
    --------
    >>> def mlp(hidden: tuple[int, ...] = (512,), dropout: float = 0.0): ...
    >>> check_options({"hidden": [128, 64]}, "model", mlp)
    {'hidden': (128, 64)}
    >>> check_options({"droput": 0.5}, "model", mlp)
    Traceback (most recent call last):
        ...
    nnkit.errors.UsageError: model.droput: unknown key; did you mean 'dropout'? (known: dropout, hidden)
    """
    if not isinstance(options, Mapping):
        raise UsageError(f"{where or 'recipe'}: expected a table, got {options!r}")
    parameters: dict[str, inspect.Parameter] = {}
    hints: dict[str, Any] = {}
    for target in targets:
        parameters.update(inspect.signature(target).parameters)
        hints.update(typing.get_type_hints(target.__init__ if isinstance(target, type) else target))  # type: ignore[misc]
    known = {name: p for name, p in parameters.items() if name not in skip and p.kind is not p.VAR_KEYWORD}
    prefix = f"{where}." if where else ""
    checked = {}
    for key, value in options.items():
        if key not in known:
            raise UsageError(f"{prefix}{key}: unknown key{did_you_mean(key, known)}")
        checked[key] = check_value(value, hints.get(key, Any), f"{prefix}{key}")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in options:
            raise UsageError(f"{prefix}{key}: missing; expected {_describe(hints.get(key, Any))}")
    return checked


def check_value(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the annotation `hint` wants it, or raise UsageError naming `where`.

    Parameters
    ----------
    value : object
        As read from TOML.
    hint : type or annotation
        What is expected.
    where : str
        The value's full key, for the message.

    Returns
    -------
    object

    Raises
    ------
    UsageError
        If the value is of another type.

    Examples
    --------
    >>> check_value(1, float, "optimizer.lr")
    1.0
    >>> check_value("fast", float, "optimizer.lr")
    Traceback (most recent call last):
        ...
    nnkit.errors.UsageError: optimizer.lr: expected a number, got 'fast'
    """
    arguments = typing.get_args(hint)
    match _kind(hint):
        case "dataclass":
            if isinstance(value, hint):
                return value
            return _build(hint, check_options(value, where, hint), where)
        case "union":
            return _check_union(value, arguments, where)
        case "choice":
            if value not in arguments:
                raise UsageError(f"{where}: unknown value {value!r}{did_you_mean(str(value), map(str, arguments))}")
        case "list":
            return _check_list(value, arguments, where)
        case "table":
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}: expected a table, got {value!r}")
        case "scalar":
            return _check_scalar(value, hint, where)
    return value


def _kind(hint: Any) -> str:
    """Say what TOML writes for this annotation; nothing where it has no way: None, functions, arrays."""
    origin = typing.get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return "union"
    if origin is Literal:
        return "choice"
    if origin in _NAMES:
        return "scalar"
    if not isinstance(origin, type):
        return ""
    if is_dataclass(origin):
        return "dataclass"
    if issubclass(origin, Mapping):
        return "table"
    return "list" if issubclass(origin, Sequence) else ""


def _check_scalar(value: Any, hint: Any, where: str) -> Any:
    if isinstance(value, bool) is not (hint is bool):
        fits = False
    elif hint is float:
        fits = isinstance(value, (int, float)) and math.isfinite(value)
    else:
        fits = isinstance(value, hint)
    if not fits:
        raise UsageError(f"{where}: expected {_NAMES[hint]}, got {value!r}")
    return float(value) if hint is float else value


def _check_list(value: Any, arguments: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{where}: expected a list, got {value!r}")
    element = arguments[0] if arguments else Any
    return tuple(check_value(item, element, f"{where}[{i}]") for i, item in enumerate(value))


def _check_union(value: Any, arguments: tuple[Any, ...], where: str) -> Any:
    choices = [hint for hint in arguments if _kind(hint)]
    if len(choices) == 1:
        return check_value(value, choices[0], where)
    for choice in sorted(choices, key=lambda hint: hint is float):  # 5 is an integer before it is a number
        try:
            return check_value(value, choice, where)
        except UsageError:
            continue
    raise UsageError(f"{where}: expected {' or '.join(map(_describe, choices))}, got {value!r}")


def _describe(hint: Any) -> str:
    kind = _kind(hint)
    if kind == "union":
        return " or ".join(_describe(choice) for choice in typing.get_args(hint) if _kind(choice))
    if kind == "choice":
        return " or ".join(repr(choice) for choice in typing.get_args(hint))
    if kind == "list":
        return "a list"
    return _NAMES.get(hint, "a table" if kind else "a value")


def _build(cls: type, options: dict[str, Any], where: str) -> Any:
    try:
        return cls(**options)
    except UsageError as error:
        raise UsageError(f"{where}: {error}" if where else str(error)) from error
