"""The ``lumbar`` command: what becomes of its words, of a verb's result, and of errors. See `verbs`.

What the words say is a dictionary of the same form as a JSON file of settings, and is checked in the same place,
`core.settings`."""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, make_dataclass
from functools import partial
from inspect import Parameter, signature
from types import NoneType
from typing import Annotated, Any, Required, TypedDict, Union, get_args, get_type_hints

import tyro

from lumbar_kaggle import __version__
from lumbar_kaggle.core.budget import keep_memory
from lumbar_kaggle.core.errors import InputError, show_messages, system_sentence
from lumbar_kaggle.core.settings import Validated, from_dict
from lumbar_kaggle.kaggle.ship import ACTIONS
from lumbar_kaggle.verbs import VERBS
from lumbar_kaggle.verbs.options import Said, Verb

DESCRIPTION = "Grade lumbar-spine MRI: RSNA 2024 Lumbar Spine Degenerative Classification; --version prints the version"
# What Python says of an option's value, and in plain words.
NO_NUMBER = {r"invalid literal for int\(\).*": "a whole number", "could not convert string to float": "a number"}
SHIP = "Send datasets and kernels to Kaggle, follow them, fetch outputs, submit"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0 done, 2 bad input, 3 nothing graded, 130 stopped)."""
    _prepare()
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun: one of several processes with these words
        from lumbar_kaggle.training.group import under_torchrun

        under_torchrun(partial(_execute, words))
    return _execute(words)


def _execute(words: list[str]) -> int:
    try:
        said = f"lumbar_kaggle {__version__}" if words == ["--version"] else parse(words)()
        text, code = (said, 0) if isinstance(said, str) else said
        if text:
            print(text)
        return code
    except BrokenPipeError:
        # The reader (head, less) has gone; nothing more can be printed, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("lumbar: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (InputError, OSError) as error:
        sentence = system_sentence(error) if isinstance(error, OSError) else error
        print(f"lumbar: {sentence}", file=sys.stderr)
        return 2


def _prepare() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no UTF-8, and must not end a run
            stream.reconfigure(errors="backslashreplace")
    # Where other work shares the cores, torch's waiting threads would spin and stop it and each other:
    # seen here as a tenth of the speed. It must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_memory()
    # timm's import draws it with the newest torch; the user can do nothing about it.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    show_messages()


def parse(words: Sequence[str]) -> Callable[[], Said]:
    """Return the verb that the words of a command line name, with its arguments bound. Raises `InputError` where there
    is no such verb or option, or a value is of another type or out of its range, and `SystemExit` where help was asked
    for, and printed."""
    ship = list(words[:1]) == ["ship"]
    verbs, rest, prog = (ACTIONS, words[1:], "lumbar ship") if ship else (VERBS, words, "lumbar")
    name = rest[0] if rest else ""
    if name not in verbs and not name.startswith("-"):
        what = f"unknown verb {name!r}" if name else "a verb is missing"
        raise InputError(f"{what}; give one of {', '.join(verbs)}{'' if ship else ' or ship'}")
    groups = option_groups(verbs[name], words) if name in verbs else {}
    options = {key: each for kind in groups.values() for key, each in _options(kind).items()}
    lines = {one: str(verb.__doc__).splitlines()[0].rstrip(".") for one, verb in verbs.items()}
    forms = [
        # Only the verb that is meant is laid out; of the others the help shows a line.
        Annotated[_form(one, options if one == name else {}, line), tyro.conf.subcommand(name=one, description=line)]
        for one, line in (lines if ship else {**lines, "ship": SHIP}).items()
    ]
    form: Any = Union[tuple(forms)]  # noqa: UP007
    refused = io.StringIO()
    try:
        with contextlib.redirect_stderr(refused):
            given: Any = tyro.cli(form, prog=prog, description=SHIP if ship else DESCRIPTION, args=rest)
    except SystemExit as stop:
        if not stop.code:
            raise
        where = f"{prog} {name}" if name in verbs else prog
        raise InputError(f"{_sentence(refused.getvalue())}; see {where} --help") from None
    return _bound(verbs[name], groups, given)


def option_groups(verb: Verb, words: Sequence[str] = ()) -> dict[str, type]:
    """Return the dataclasses whose fields are a verb's options, by parameter. The one of the name "" is of the
    parameters that are options themselves. What a parameter is annotated with ``Annotated[dict, kind]`` gets is the
    dictionary of those that are given; ``kind`` may depend on the words."""
    hints, parameters = get_type_hints(verb, include_extras=True), signature(verb).parameters.values()
    own = [(one.name, hints[one.name], one.default) for one in parameters if one.default is not Parameter.empty]
    groups: dict[str, type] = {}
    for one in parameters:
        if one.default is Parameter.empty:
            kind = getattr(hints[one.name], "__metadata__", [hints[one.name]])[0]
            groups[one.name] = kind if isinstance(kind, type) else kind(words)
        elif "" not in groups:
            groups[""] = make_dataclass(verb.__name__, own, frozen=True, kw_only=True, bases=(Validated,))
    return groups


def _bound(verb: Verb, groups: dict[str, type], given: Mapping[str, Any]) -> Callable[[], Said]:
    bound: dict[str, Any] = {}
    hints = get_type_hints(verb)
    for name, kind in groups.items():
        part = {one.name: given[one.name] for one in fields(kind) if one.name in given}
        made = part if name and not is_dataclass(hints[name]) else from_dict(part, kind)
        bound |= {name: made} if name else vars(made)
    return partial(verb, **bound)


def _form(name: str, options: dict[str, Any], text: str | None = None) -> Any:
    # What is not given is absent from the dictionary that tyro makes of it.
    form: Any = TypedDict(name, options, total=False)  # type: ignore[misc]
    form.__doc__ = text
    return form


def _options(kind: type) -> dict[str, Any]:
    """Return the type of each option of a dataclass, with its help."""
    result: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for one in fields(kind):
        hint = hints[one.name]
        parts = [part for part in get_args(hint) if part is not NoneType]
        # Of several objects of one kind, such as a recipe's models, each gets what is given.
        if nested := [part for part in (hint, *parts) if is_dataclass(part)]:
            result[one.name] = Required[_form(one.name, _options(nested[0]))]  # type: ignore[arg-type]
        elif "help" in one.metadata:
            choices, required = one.metadata.get("choices", ()), one.default is MISSING
            about = tyro.conf.arg(
                help=one.metadata["help"],
                metavar="{" + ",".join(choices) + "}" if choices else one.metadata.get("metavar"),
                help_behavior_hint="(required)" if required else f"(default: {_shown(one.default)})",
            )
            form: Any = Annotated[(parts[0] if NoneType in get_args(hint) else hint, about)]
            form = Annotated[(form, tyro.conf.Positional)] if one.metadata.get("positional") else form
            result[one.name] = Required[form] if required else form
    return result


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and value:
        return f"all {len(value)}" if len(value) > 5 else " ".join(map(str, value))
    return "none" if value in (None, (), "") else str(value)


def _sentence(box: str) -> str:
    """Return the first part of the box that tyro draws about an error, as one sentence. Its title lies in the upper
    edge, or where the terminal is no UTF-8 in a first part of its own."""
    lines = [line.strip("│| ") for line in box.splitlines()]
    text = "\n".join("" if re.match(r"[╭╰]|[─-]{5}", line) else line for line in lines)
    parts = [" ".join(part.split()) for part in re.split(r"\n\n+", text) if part.strip()]
    said = parts[0 if box.startswith("╭") else 1].rstrip(".")
    for python, plain in NO_NUMBER.items():
        said = re.sub(f"{python}: (.*)", rf"\1 is not {plain}", said)
    return f"{said[:1].lower()}{said[1:]}"
