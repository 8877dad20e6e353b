"""The options of ``lumbar ship``: parse, call one function, print. Heavy imports stay inside the actions."""

import argparse
from collections.abc import Callable
from pathlib import Path

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
    sub.add_argument("--recipe", choices=("baseline", "two-stage"), default="baseline", help=text)
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


def _datasets(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.send import Plan, ship_datasets

    plan = Plan(args.owner, args.out, args.dry_run, args.poll)
    ship_datasets(plan, bundle=args.bundle, pretrained=args.pretrained)
    return 0


def _kernels(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.send import Plan, ship_kernels

    plan = Plan(args.owner, args.out, args.dry_run, args.poll)
    choices = {"recipe": args.recipe, "resume": args.resume, "docker_image": args.docker_image}
    ship_kernels(plan, args.names, wait=args.wait, **choices)
    return 0


def _status(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.follow import follow, show_status
    from lumbar_kaggle.kaggle.send import Plan

    plan = Plan(args.owner, args.out, poll_s=args.poll)
    if args.follow:
        follow(plan.connect(), plan.state(), args.names, poll_s=plan.poll_s)
    else:
        show_status(plan.connect(), plan.state(), args.names)
    return 0


def _output(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.follow import fetch_output
    from lumbar_kaggle.kaggle.send import Plan

    plan, folder = Plan(args.owner, args.out), args.to or args.out / "output" / args.name
    files = fetch_output(plan.connect(), plan.state(), args.name, folder, start=args.start)
    print(f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")
    return 0


def _submit(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.follow import submit
    from lumbar_kaggle.kaggle.send import Plan

    plan = Plan(args.owner, args.out, args.dry_run, args.poll)
    print(submit(plan.connect(), plan.state(), args.message))
    return 0


def _notebooks(args: argparse.Namespace) -> int:
    from lumbar_kaggle.kaggle.kernels import repository
    from lumbar_kaggle.kaggle.notebooks import write_templates

    changed = write_templates(repository())
    print("\n".join(map(str, changed)) or "every notebook is in step with its script")
    return 0
