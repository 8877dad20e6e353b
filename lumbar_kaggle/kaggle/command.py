"""The options of ``lumbar ship``: parse, call one function, print. Heavy imports stay inside the actions."""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumbar_kaggle.kaggle.follow import Plan

log = logging.getLogger(__name__)

Action = Callable[[argparse.Namespace], int]


def add_actions(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``lumbar ship`` to its parser; each sets ``verb``."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    def add(name: str, verb: Action, text: str, *, sends: bool = False) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=verb)
        if verb is not _notebooks:
            _add_common(sub, sends=sends)
        return sub

    sub = add("datasets", _datasets, "build both datasets, send what changed, wait for it", sends=True)
    sub.add_argument("--bundle", type=Path, metavar="DIR", help="bundle of lumbar export, for inference")
    text = "pretrained weights for training, from the library's hub; ARCH=FILE from a file"
    sub.add_argument("--pretrained", nargs="+", default=(), metavar="ARCH", help=text)
    sub = add("kernels", _kernels, "push the kernels that have what they need, in order", sends=True)
    sub.add_argument("names", nargs="*", metavar="KERNEL", help="only these (default: all of the recipe)")
    text = "whose kernels are pushed (default: baseline)"
    sub.add_argument("--recipe", default="baseline", metavar="RECIPE", help=text)
    sub.add_argument("--resume", action="store_true", help="push again with the kernel's own output attached")
    sub.add_argument("--wait", action="store_true", help="follow each run and push the whole chain")
    sub.add_argument("--docker-image", default="", metavar="IMAGE", help="pin one of Kaggle's images")
    sub = add("status", _status, "what the pushed kernels are doing")
    sub.add_argument("names", nargs="*", metavar="KERNEL", help="only these (default: all that were pushed)")
    sub.add_argument("--follow", action="store_true", help="wait for the end; show a failed run's log")
    sub = add("output", _output, "download a kernel's output")
    sub.add_argument("name", metavar="KERNEL", help="for example train-baseline")
    sub.add_argument("--to", type=Path, metavar="DIR", help="where to (default: OUT/output/KERNEL)")
    sub.add_argument("--start", default="", metavar="PATH", help="only files whose path starts so: bundle/")
    sub = add("submit", _submit, "hand in the inference kernel's last version", sends=True)
    sub.add_argument("--message", default="", help="shown beside the submission")
    add("notebooks", _notebooks, "make the notebooks anew from their scripts")


def _add_common(sub: argparse.ArgumentParser, *, sends: bool) -> None:
    sub.add_argument("--owner", required=True, metavar="NAME", help="your user name on Kaggle")
    text = "folder of what is built (default: dist)"
    sub.add_argument("--out", type=Path, default=Path("dist"), help=text)
    text = "between two questions to the server (default: 20)"
    sub.add_argument("--poll", type=float, default=20.0, metavar="SECONDS", help=text)
    if sends:
        text = "print what would be sent and send nothing; needs no credentials"
        sub.add_argument("--dry-run", action="store_true", help=text)


def _plan(args: argparse.Namespace) -> "Plan":
    from lumbar_kaggle.kaggle.follow import Plan

    return Plan(args.owner, args.out, getattr(args, "dry_run", False), args.poll)


def _datasets(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.send import ship_datasets

    ship_datasets(_plan(args), bundle=args.bundle, pretrained=args.pretrained)
    return 0


def _kernels(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.send import ship_kernels

    choices = {"recipe": args.recipe, "resume": args.resume, "docker_image": args.docker_image}
    ship_kernels(_plan(args), args.names, wait=args.wait, **choices)
    return 0


def _status(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.follow import follow, show_status

    plan = _plan(args)
    if args.follow:
        follow(plan.connect(), plan.state(), args.names, poll_s=plan.poll_s)
    else:
        show_status(plan, args.names)
    return 0


def _output(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.follow import fetch_output

    folder = args.to or args.out / "output" / args.name
    files = fetch_output(_plan(args), args.name, folder, start=args.start)
    log.info("%s: %d files, %s bytes", folder, len(files), f"{sum(map(os.path.getsize, files)):,}")
    return 0


def _submit(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.follow import submit

    log.info("%s", submit(_plan(args), args.message))
    return 0


def _notebooks(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.kernels import repository, write_notebooks

    changed = write_notebooks(repository())
    log.info("%s", "\n".join(map(str, changed)) or "every notebook is in step with its script")
    return 0
