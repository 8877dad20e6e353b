"""Configuration objects: frozen dataclasses to JSON and back, and to command-line options."""

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lumbar_kaggle.errors import InputError
from lumbar_kaggle.files import read_json, write_json

Config = TypeVar("Config")


def save_config(path: Path, config: object) -> None:
    """Write a dataclass of plain values as JSON."""
    write_json(path, asdict(config))  # type: ignore[call-overload]


def load_config(path: Path, kind: type[Config]) -> Config:
    """Read a configuration of the given dataclass.

    Raises:
        InputError: the file is missing, or has a key that the dataclass does not know.
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


def from_dict(values: dict[str, Any], kind: type[Config], source: str) -> Config:
    """Build the dataclass `kind` from a dictionary as JSON gives it (lists become tuples).

    Raises:
        InputError: an unknown key; `source` is named.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise InputError(f"{source}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return kind(**plain)


def add_options(parser: argparse._ActionsContainer, kind: type[Any]) -> None:
    """Add one option per field of the dataclass `kind`; its help is the field's ``help`` metadata.

    Options that are not given are absent from the parsed arguments, so `from_options` can tell what
    the user set.
    """
    hints = get_type_hints(kind)
    for field in fields(kind):
        name = "--" + field.name.replace("_", "-")
        convert, several = _converter(hints[field.name])
        text = f"{field.metadata.get('help', '')} (default: {_shown(field)})"
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text.replace("%", "%%")}
        if hints[field.name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["type"] = convert
            options["metavar"] = field.metadata.get("metavar", convert.__name__.upper())
            if several:
                options["nargs"] = "+"
            if "choices" in field.metadata:
                options["choices"] = field.metadata["choices"]
                del options["metavar"]
        parser.add_argument(name, **options)


def from_options(arguments: argparse.Namespace, kind: type[Config], base: Config | None = None) -> Config:
    """Build the dataclass from parsed options; what was not given comes from `base` or the defaults."""
    values = {} if base is None else asdict(base)  # type: ignore[call-overload]
    for field in fields(kind):  # type: ignore[arg-type]
        if hasattr(arguments, field.name):
            values[field.name] = getattr(arguments, field.name)
    return from_dict(values, kind, "options")


def given_options(arguments: argparse.Namespace, kind: type[Any]) -> list[str]:
    """Return the fields of the dataclass that the user set among parsed options."""
    return [field.name for field in fields(kind) if hasattr(arguments, field.name)]


def _converter(hint: Any) -> tuple[type, bool]:
    """Return what turns text into the hinted type, and whether several values are taken."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    parts = [part for part in get_args(hint) if part is not NoneType]
    return (parts[0] if parts else hint), False


def _shown(field: "Field[Any]") -> str:
    value = field.default
    if value is MISSING:
        return "required"
    if isinstance(value, tuple):
        return f"all {len(value)}" if len(value) > 5 else " ".join(map(str, value))
    return "none" if value is None else str(value)
