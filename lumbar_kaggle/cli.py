"""The ``lumbar`` command: what becomes of its words, of a verb's result, and of errors. See `verbs`.

Options are the fields of a verb's dataclass and of its settings. What the words say is a dictionary of the
same form as a JSON file of settings, and is checked in the same place, `core.settings`.
"""

import argparse
import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, Required, TypedDict, Union, get_args, get_type_hints

import tyro

from lumbar_kaggle import __version__
from lumbar_kaggle.core.errors import InputError, system_sentence
from lumbar_kaggle.core.messages import show_messages
from lumbar_kaggle.core.settings import from_dict
from lumbar_kaggle.kaggle.command import add_actions
from lumbar_kaggle.verbs import Verb, models, tables

DESCRIPTION = "Grade lumbar-spine MRI: RSNA 2024 Lumbar Spine Degenerative Classification."
SHIP = "send datasets and kernels to Kaggle, follow them, fetch outputs, submit"

VERBS: dict[str, type[Verb]] = {
    kind.__name__.removesuffix("Page").lower(): kind
    for kind in (
        *(models.Demo, tables.Phantom, tables.Check, tables.Preprocess, models.Pretrain, models.Train),
        *(models.Locate, models.Grade, models.Export, models.Predict, tables.Validate, tables.Score),
        *(tables.Blend, models.ReportPage, models.StudyPage, models.Rehearse),
    )
}
"""In the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0 done, 2 bad input, 3 nothing graded, 130 stopped)."""
    _prepare()
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    try:
        if words == ["--version"]:
            print(f"lumbar_kaggle {__version__}")
            return 0
        if words[:1] == ["ship"]:
            args = ship_parser().parse_args(words[1:])
            return int(args.verb(args))
        said = parse(words)()
        text, code = (said, 0) if isinstance(said, str) else said
        print(text)
        return code
    except InputError as error:
        print(f"lumbar: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lumbar: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing more can be printed, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(f"lumbar: {system_sentence(error)}", file=sys.stderr)
        return 2


def _prepare() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no UTF-8, and must not end a run
            stream.reconfigure(errors="backslashreplace")
    # Where other work shares the cores, torch's waiting threads would spin and stop it and each other:
    # seen here as a tenth of the speed. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # timm's import draws it with the newest torch; the user can do nothing about it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    show_messages()


def ship_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lumbar ship``'s actions."""
    parser = argparse.ArgumentParser(prog="lumbar ship", description=SHIP)
    add_actions(parser)
    return parser


def parse(words: Sequence[str]) -> Verb:
    """Return the verb that the words of a command line name, with its options.

    Raises:
        InputError: there is no such verb or option, or a value is of another type or out of its range.
        SystemExit: help was asked for, and printed.
    """
    name = words[0] if words else ""
    if name not in VERBS and not name.startswith("-"):
        what = f"unknown verb {name!r}" if name else "a verb is missing"
        raise InputError(f"{what}; give one of {', '.join(VERBS)} or ship")
    # Only the verb that is meant is laid out; of the others the help shows a line.
    forms = [
        Annotated[
            _with_settings(kind, kind.settings_kind(words)) if one == name else _Nothing,
            tyro.conf.subcommand(name=one, description=_first_line(kind)),
        ]
        for one, kind in VERBS.items()
    ]
    forms.append(Annotated[_Nothing, tyro.conf.subcommand(name="ship", description=SHIP)])
    form: Any = Union[tuple(forms)]  # noqa: UP007
    refused = io.StringIO()
    try:
        with contextlib.redirect_stderr(refused):
            given = tyro.cli(form, prog="lumbar", description=DESCRIPTION, args=words, registry=_plain_numbers())
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_sentence(refused.getvalue(), name)) from None
    own = {one.name for one in fields(VERBS[name])}
    changes = {one: value for one, value in given.items() if one not in own}
    return from_dict({**{one: given[one] for one in given if one in own}, "changes": changes}, VERBS[name])


class _Nothing(TypedDict):
    pass


def _first_line(kind: type) -> str:
    return str(kind.__doc__).strip().splitlines()[0].rstrip(".")


def _with_settings(kind: type, settings: type | None) -> Any:
    """Return what tyro is to parse: a verb's options, and beside them those of its settings."""
    form = _form(kind, {**_options(kind), **(_options(settings) if settings else {})})
    form.__doc__ = kind.__doc__
    return form


def _form(kind: type, options: dict[str, Any]) -> Any:
    # What is not given is absent from the dictionary that tyro makes of it.
    return TypedDict(kind.__name__, options, total=False)  # type: ignore[operator]


def _options(kind: type) -> dict[str, Any]:
    """Return the type of each option of a dataclass, with its help."""
    result, hints = {}, get_type_hints(kind)
    for one in fields(kind):
        hint = hints[one.name]
        # Of several objects of one kind, such as a recipe's models, each gets what is given.
        nested = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if nested is not None:
            result[one.name] = Required[_form(nested, _options(nested))]  # type: ignore[arg-type]
        elif "help" in one.metadata:
            result[one.name] = _option(one, hint)
    return result


def _option(one: "Field[Any]", hint: Any) -> Any:
    parts = [part for part in get_args(hint) if part is not NoneType]
    plain = parts[0] if NoneType in get_args(hint) else hint
    choices = one.metadata.get("choices", ())
    about = tyro.conf.arg(
        help=one.metadata["help"],
        metavar="{" + ",".join(choices) + "}" if choices else one.metadata.get("metavar"),
        help_behavior_hint=f"(default: {_shown(one.default)})" if one.default is not MISSING else "(required)",
    )
    form: Any = Annotated[(plain, about)]
    form = Annotated[(form, tyro.conf.Positional)] if one.metadata.get("positional") else form
    return Required[form] if one.default is MISSING else form


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and value:
        return f"all {len(value)}" if len(value) > 5 else " ".join(map(str, value))
    return "none" if value in (None, ()) else str(value)


def _plain_numbers() -> tyro.constructors.ConstructorRegistry:
    """Return a rule by which numbers are read: not as Python does, which takes 1_000."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
        if info.type not in (int, float):
            return None
        words, pattern = ("a whole number", r"[+-]?\d+") if info.type is int else ("a number", r"[^_]+")

        def read(texts: list[str]) -> Any:
            with contextlib.suppress(ValueError):
                if re.fullmatch(pattern, texts[0], re.ASCII):
                    return info.type(texts[0])
            raise ValueError(f"{texts[0][:40]!r} is not {words}")

        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="N" if info.type is int else "X",
            instance_from_str=read,
            is_instance=lambda value: isinstance(value, info.type),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _sentence(box: str, name: str) -> str:
    """Return the first part of the box that tyro draws about an error, as one sentence.

    Its title lies in the upper edge, or where the terminal is no UTF-8 in a first part of its own.
    """
    lines = [line.strip("│| ") for line in box.splitlines()]
    text = "\n".join("" if re.match(r"[╭╰]|[─-]{5}", line) else line for line in lines)
    parts = [" ".join(part.split()) for part in re.split(r"\n\n+", text) if part.strip()]
    said = parts[0 if box.startswith("╭") else 1].rstrip(".")
    where = f"lumbar {name}" if name in VERBS else "lumbar"
    return f"{said[:1].lower()}{said[1:]}; see {where} --help"
