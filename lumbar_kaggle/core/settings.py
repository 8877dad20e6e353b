"""Configuration objects: frozen dataclasses to JSON and back, and to command-line options.

A setting's type is its annotation, what it may be is in its field's metadata (see `option`). Both are
checked where the object is made (`check_settings`), wherever the values came from.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json

Config = TypeVar("Config")


def save_config(path: Path, config: object) -> None:
    """Write a dataclass of plain values as JSON."""
    write_json(path, asdict(config))  # type: ignore[call-overload]


def load_config(path: Path, kind: type[Config]) -> Config:
    """Read a configuration of the given dataclass.

    Raises:
        InputError: the file is missing, or `from_dict` refuses its content.
    """
    return from_dict(read_json(path), kind, str(path))


def begin_run(
    path: Path, config: object, free: tuple[str, ...] = (), data: Mapping[str, str] | None = None
) -> None:
    """Write the configuration into a run folder, or check that the run was begun with the same.

    Args:
        path: the file; the run's folder is its parent.
        config: a dataclass of plain values.
        free: fields that may differ from the earlier ones.
        data: what the run is made from, see `tie`.

    Raises:
        InputError: the run was begun with another configuration, or on other data; the difference is named.
    """
    if path.is_file():
        before = asdict(load_config(path, type(config)))  # type: ignore[call-overload]
        now = asdict(config)  # type: ignore[call-overload]
        changed = [name for name, value in now.items() if name not in free and before[name] != value]
        if changed:
            raise InputError(
                f"{path}: this run was begun with another {', '.join(changed)}; choose another --out folder"
            )
    tie(path, data or {})
    save_config(path, config)


def tie(path: Path, data: Mapping[str, str]) -> None:
    """Note beside a run's configuration what the run is made from, or check that it is the same.

    Args:
        path: the configuration's file.
        data: digests by what they are of, in words: ``labels``, ``images`` and so on. What an earlier call
            did not name is added.

    Raises:
        InputError: one of them is another than before.
    """
    beside = path.with_name(f"{path.stem}-data.json")
    before = read_json(beside) if beside.is_file() else {}
    if not isinstance(before, dict):
        raise InputError(f"{beside}: not a table of digests; choose another --out folder")
    changed = [name for name, value in data.items() if before.get(name, value) != value]
    if changed:
        raise InputError(
            f"{path.parent}: this run was begun with other {' and '.join(changed)}; choose another --out "
            "folder, or delete this one to begin anew"
        )
    if data:
        write_json(beside, {**before, **data})


def from_dict(values: Any, kind: type[Config], source: str = "") -> Config:
    """Build the dataclass `kind` from a dictionary as JSON gives it; lists become tuples.

    Raises:
        InputError: no dictionary, an unknown or missing key, or a value of another type than the field's;
            `source`, where there is one, and the key are named.
    """
    try:
        return _dataclass(values, kind)
    except InputError as error:
        raise InputError(f"{source}: {error}" if source else str(error)) from None


def option(default: Any, text: str, **more: Any) -> Any:
    """Return a dataclass field that is a setting.

    Args:
        default: its value where none is given.
        text: its help.
        more: for the command line ``metavar``; for `check_settings` ``choices``, ``least``, ``most`` and
            ``above`` (of numbers, or of each in a tuple), ``count`` (of a tuple's values).
    """
    return field(default=default, metadata={"help": text, **more})


def check_settings(config: Any) -> None:
    """Check every field of a dataclass by its annotation and its metadata; for ``__post_init__``.

    Whole numbers become floats where the annotation says float.

    Raises:
        InputError: a value of another type, not finite, or out of its range; field and value are named.
    """
    hints = get_type_hints(type(config))
    for one in fields(config):
        value = conform(getattr(config, one.name), hints[one.name], one.name)
        object.__setattr__(config, one.name, value)
        if value is not None:
            _check_range(one, value)


def conform(value: Any, hint: Any, name: str) -> Any:
    """Return a value of JSON as the annotation `hint` wants it.

    Raises:
        InputError: it is something else; `name` and the value are named.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        return None if value is None else conform(value, next(h for h in inner if h is not NoneType), name)
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_dict(value, hint, name)
    if origin in (tuple, list) and isinstance(value, (tuple, list)):
        return origin(conform(item, inner[0], f"{name}[{place}]") for place, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {str(key): conform(item, inner[1], f"{name}[{key!r}]") for key, item in value.items()}
    if hint is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    # By isinstance a bool would be an int.
    plain = isinstance(value, hint) and not (hint is int and isinstance(value, bool)) if not origin else False
    if not plain or (hint is float and not math.isfinite(value)):
        raise InputError(f"{name} is {_clipped(value)}; it must be {_WORDS.get(origin or hint, hint)}")
    return value


_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    tuple: "a list",
    list: "a list",
    dict: "an object",
}


def _dataclass(values: Any, kind: type[Config]) -> Config:
    if not isinstance(values, dict):
        raise InputError(f"{_clipped(values)} where an object of settings is wanted")
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in set(values) - set(known))
    if unknown:
        raise InputError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    needed = [
        name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING
    ]
    missing = [name for name in needed if name not in values]
    if missing:
        raise InputError(f"{missing[0]!r} is missing")
    hints = get_type_hints(kind)
    return kind(**{name: conform(value, hints[name], name) for name, value in values.items()})


def _check_range(one: "Field[Any]", value: Any) -> None:
    """Raise where a value, or one of a tuple's, is not what the field's metadata allows."""
    allowed = one.metadata
    values, each = (value, "each") if isinstance(value, tuple) else ((value,), "it")
    if isinstance(value, tuple) and len(value) != allowed.get("count", max(len(value), 1)):
        wanted = allowed.get("count", "at least one")
        raise InputError(f"{one.name} has {len(value)} values; it needs {wanted}")
    shown = f"{one.name} is {_clipped(value)}; {each} must be"
    if "choices" in allowed and any(item not in allowed["choices"] for item in values):
        raise InputError(f"{shown} one of {', '.join(allowed['choices'])}")
    if "least" in allowed and min(values) < allowed["least"]:
        raise InputError(f"{shown} {allowed['least']} or more")
    if "above" in allowed and min(values) <= allowed["above"]:
        raise InputError(f"{shown} more than {allowed['above']}")
    if "most" in allowed and max(values) > allowed["most"]:
        raise InputError(f"{shown} {allowed['most']} or less")


def _clipped(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def add_options(parser: argparse._ActionsContainer, kind: type[Any]) -> None:
    """Add one option per field of the dataclass `kind`; its help is the field's ``help`` metadata.

    Options that are not given are absent from the parsed arguments, so `from_options` can tell what
    the user set.
    """
    hints = get_type_hints(kind)
    for one in fields(kind):
        name = "--" + one.name.replace("_", "-")
        convert, several = _converter(hints[one.name])
        text = f"{one.metadata.get('help', '')} (default: {_shown(one)})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if hints[one.name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = convert
            options["metavar"] = one.metadata.get("metavar", convert.__name__.upper())
            if several:
                options["nargs"] = "+"
            if "choices" in one.metadata:
                options["choices"] = one.metadata["choices"]
                del options["metavar"]
        parser.add_argument(name, **options)


def from_options(arguments: argparse.Namespace, kind: type[Config], base: Config | None = None) -> Config:
    """Build the dataclass from parsed options; what was not given comes from `base` or the defaults."""
    values = {} if base is None else asdict(base)  # type: ignore[call-overload]
    for one in fields(kind):  # type: ignore[arg-type]
        if hasattr(arguments, one.name):
            values[one.name] = getattr(arguments, one.name)
    return from_dict(values, kind)


def given_options(arguments: argparse.Namespace, kind: type[Any]) -> list[str]:
    """Return the fields of the dataclass that the user set among parsed options."""
    return [one.name for one in fields(kind) if hasattr(arguments, one.name)]


def _converter(hint: Any) -> tuple[type, bool]:
    """Return what turns text into the hinted type, and whether several values are taken."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    parts = [part for part in get_args(hint) if part is not NoneType]
    return (parts[0] if parts else hint), False


def _shown(one: "Field[Any]") -> str:
    value = one.default
    if value is MISSING:
        return "required"
    if isinstance(value, tuple):
        return f"all {len(value)}" if len(value) > 5 else " ".join(map(str, value))
    return "none" if value is None else str(value)
