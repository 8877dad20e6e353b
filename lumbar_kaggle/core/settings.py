"""Settings: frozen dataclasses, made from a dictionary of changes wherever that comes from.

A command line, a JSON file, a kernel's ``LUMBAR_CONFIG`` and a rehearsal all give such a dictionary, by the same names.
What a setting may be is in its annotation and field's metadata (`option`), checked where it is made (`Validated`)."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import read_json, write_json

Config = TypeVar("Config")


def load_config(path: Path, kind: type[Config]) -> Config:
    """Read a configuration of the given dataclass as `from_dict`."""
    return from_dict(read_json(path), kind, str(path))


def begin_run(path: Path, config: Any, free: tuple[str, ...] = (), data: Mapping[str, str] = {}) -> None:
    """Write the configuration into a run folder, or check that the run was begun with the same. Fields in `free` may
    differ; `data` is what the run is made from, see `tie`. Any other difference is an `InputError` that names it."""
    now = asdict(config)
    before = asdict(load_config(path, type(config))) if path.is_file() else now
    if changed := ", ".join(name for name, value in now.items() if name not in free and before[name] != value):
        raise InputError(f"{path}: this run was begun with another {changed}; choose another --out folder")
    tie(path, data)
    write_json(path, now)


def tie(path: Path, data: Mapping[str, str]) -> None:
    """Note beside a run's configuration `path` what the run is made from, or check that it is the same. `data` are
    digests by what they are of: ``labels``, ``images`` … New ones are added; a changed one is an `InputError`."""
    beside = path.with_name(f"{path.stem}-data.json")
    before = read_json(beside) if beside.is_file() else {}
    if not isinstance(before, dict):
        raise InputError(f"{beside}: not a table of digests; choose another --out folder")
    if changed := [name for name, value in data.items() if before.get(name, value) != value]:
        remedy = "choose another --out folder, or delete this one to begin anew"
        raise InputError(f"{path.parent}: this run was begun with other {' and '.join(changed)}; {remedy}")
    if data:
        write_json(beside, {**before, **data})


def option(default: Any, text: str, **more: Any) -> Any:
    """Return a dataclass field that is a setting: its default (``MISSING``: one must be given) and its help. `more` is,
    for the command line, ``metavar`` and ``positional``; for `Validated` ``choices``, ``least``, ``most`` and ``above``
    (of numbers, or of each in a tuple), ``count`` (of a tuple's values) and ``empty`` (a tuple may be)."""
    return field(default=default, metadata={"help": text, **more})


def merged(changes: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return both dictionaries of changes in one, and so those inside; where both name a setting, `over` holds."""
    result = dict(changes)
    for name, value in over.items():
        before = result.get(name)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[name] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def from_dict(values: Any, kind: type[Config], source: str = "") -> Config:
    """Build the dataclass `kind` from a dictionary as JSON gives it; lists become tuples. No dictionary, an unknown or
    missing key, or a value of another type than the field's is an `InputError` with the key and the `source`."""
    try:
        if not isinstance(values, dict):
            raise InputError(f"{_clipped(values)} where an object of settings is wanted")
        known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
        if unknown := sorted(str(key) for key in set(values) - set(known)):
            raise InputError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
        for name, one in known.items():
            if name not in values and one.default is MISSING and one.default_factory is MISSING:
                raise InputError(f"{name!r} is missing")
        hints = get_type_hints(kind)
        return kind(**{name: conform(value, hints[name], name) for name, value in values.items()})
    except InputError as error:
        raise InputError(f"{source}: {error}" if source else str(error)) from None


class Validated:
    """Base of dataclasses whose fields are checked, by annotation and metadata, where an object is made. Whole numbers
    become floats where one is wanted. Another type, not finite, out of range: an `InputError` with field and value."""

    def __post_init__(self) -> None:
        hints, every = get_type_hints(type(self)), fields(self)  # type: ignore[arg-type]
        for one in every:
            value = conform(getattr(self, one.name), hints[one.name], one.name)
            object.__setattr__(self, one.name, value)
            if value is not None:
                _check_range(one, value)


_WORDS: dict[type, str] = {
    bool: "true or false", int: "a whole number", float: "a finite number", str: "text", Path: "a path",
    tuple: "a list", list: "a list", dict: "an object",
}  # fmt: skip


def conform(value: Any, hint: Any, name: str) -> Any:
    """Return a value of JSON as the annotation `hint` wants it; anything else is an error with `name` and value."""
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
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    # By isinstance a bool would be an int.
    plain = not origin and isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if not plain or (hint is float and not math.isfinite(value)):
        raise InputError(f"{name} is {_clipped(value)}; it must be {_WORDS.get(origin or hint, hint)}")
    return value


def _check_range(one: "Field[Any]", value: Any) -> None:
    """Raise where a value, or one of a tuple's, is not what the field's metadata allows."""
    allowed = one.metadata
    values, each = (value, "each") if isinstance(value, tuple) else ((value,), "it")
    if not values and (one.default == () or allowed.get("empty")):
        return
    if isinstance(value, tuple) and len(value) != allowed.get("count", max(len(value), 1)):
        raise InputError(f"{one.name} has {len(value)} values; it needs {allowed.get('count', 'at least one')}")
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
