"""The actions of ``lumbar ship``: datasets and kernels sent, each only when it changed and what it needs is there.

An action is a function whose parameters are its options, as those of `verbs`. It raises `InputError` where something
cannot be built, sent or had; with ``dry_run`` it sends nothing."""

import json
import logging
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, write_json, write_text
from lumbar_kaggle.core.settings import Validated, load_config, option
from lumbar_kaggle.inference import DEFAULT_RECIPE
from lumbar_kaggle.kaggle import datasets, kernels
from lumbar_kaggle.kaggle.checks import check
from lumbar_kaggle.kaggle.client import SOURCES, UNSEEN, Kaggle, KernelRun, Sent, State, connect
from lumbar_kaggle.kaggle.kernels import METADATA, MODELS, PACKAGE, Kernel

log = logging.getLogger(__name__)
# How long a dataset may take to become ready (of gigabytes, tens of minutes), and a kernel to be seen.
READY_MINUTES, UNSEEN_S = 90.0, 600.0

SUBMISSION = "submission.csv"

DRY = option(False, "print what would be sent and send nothing; needs no credentials")


@dataclass(frozen=True)
class Ship(Validated):
    """One account and its ``dist`` folder: the options that the actions share."""

    owner: str = option(MISSING, "your user name on Kaggle", metavar="NAME")
    out: Path = option(Path("dist"), "folder of what is built", metavar="DIR")
    poll: float = option(20.0, "between two questions to the server", metavar="SECONDS", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"(?!OWNER$)[A-Za-z0-9_-]+", self.owner):  # which the templates have
            raise InputError(f"owner {self.owner!r}: give your user name as in your profile's address on kaggle.com")
        _ = self.state  # another account's is refused before anything is built

    @cached_property
    def kaggle(self) -> Kaggle:
        """The connection; asking for it signs in."""
        return connect(self.owner)

    @cached_property
    def state(self) -> State:
        """What has been sent before; an unfinished chain goes on by it. Raises where it was sent to another account."""
        path = self.out / "state.json"
        state = load_config(path, State) if path.is_file() else State(self.owner)
        if state.owner.lower() != self.owner.lower():
            raise InputError(f"{path}: this folder was sent to {state.owner}, not {self.owner}; choose another --out")
        return state

    def note(self, kind: dict[str, Sent], name: str, sent: Sent) -> None:
        """Keep in the state, under one of its kinds, what the server has taken."""
        kind[name] = sent
        write_json(self.out / "state.json", asdict(self.state))

    def sent_kernels(self, names: Sequence[str] = ()) -> dict[str, Sent]:
        """Return pushed kernels, without names all; raise `InputError` where one of them, or any, was not pushed."""
        missing = [f"kernel {name} has" for name in names if name not in self.state.kernels]
        if missing or not self.state.kernels:
            what = missing[0] if missing else "no kernel has been"
            raise InputError(f"{self.out / 'state.json'}: {what} not been pushed; run lumbar ship kernels first")
        return {name: self.state.kernels[name] for name in names or self.state.kernels}

    def build_kernel(self, kernel: Kernel, *, resume: bool = False, docker_image: str = "") -> Path:
        """Write a kernel's folder as it is pushed: owner, versions and fingerprints filled in, and checked."""
        folder = self.out / "kernels" / kernel.name
        shutil.rmtree(folder, ignore_errors=True)
        bundle = {"BUNDLE": datasets.built_bundle(self.out)} if kernel.bundle else {}
        values = {"PACKAGE": datasets.package_fingerprint(), **bundle}
        write_text(folder / f"{kernel.script.stem}.ipynb", kernels.make_notebook(kernel.script, values))
        slugs = {name: sent.slug for name, sent in self.state.kernels.items()}
        metadata = kernel.metadata(self.owner, resume=resume, docker_image=docker_image, slugs=slugs)
        write_json(folder / METADATA, metadata)
        check(folder)
        return folder


def send_datasets(
    ship: Ship,
    bundle: Path | None = option(None, "bundle of lumbar export, for inference", metavar="DIR"),
    pretrained: tuple[str, ...] = option(
        (), "pretrained weights for training, from the library's hub; ARCH=FILE from a file", metavar="ARCH"
    ),
    dry_run: bool = DRY,
) -> str:
    """Build both datasets, send what changed, wait for it."""
    models = datasets.build_models(ship.out, ship.owner, bundle=bundle, pretrained=pretrained)
    built = [datasets.build_package(ship.out, ship.owner), *([models] if models else [])]
    for dataset in built:
        check(dataset.folder)
        log.info("%s", dataset.table())
    for dataset in built:
        slug, before = dataset.slug, ship.state.datasets.get(dataset.slug)
        if before and before.content == dataset.fingerprint:
            log.info("%s: unchanged since version %d, not sent again", slug, before.version)
        elif dry_run:
            text = (dataset.folder / datasets.DATASET_METADATA).read_text(encoding="utf-8").rstrip()
            log.info("%s: would be sent:\n%s", slug, text)
        else:
            version = ship.kaggle.dataset_state(slug)[1]
            log.info("%s: sending version %d", slug, version + 1)
            ship.kaggle.send_dataset(dataset, exists=version > 0, quiet=not sys.stderr.isatty())
            ship.note(ship.state.datasets, slug, Sent(dataset.fingerprint, slug, version + 1, ready=False))
    for dataset in built:
        if not dry_run and not ship.state.datasets[dataset.slug].ready:
            _wait_ready(ship, dataset.slug)
    return ""


def _wait_ready(ship: Ship, slug: str) -> None:
    """Wait for the version that was sent: ``ready`` alone may still speak of the one before it."""
    sent, deadline = ship.state.datasets[slug], time.monotonic() + READY_MINUTES * 60
    while time.monotonic() < deadline:
        status, version = ship.kaggle.dataset_state(slug)
        if status == "ready" and version >= sent.version:
            ship.note(ship.state.datasets, slug, replace(sent, version=version, ready=True))
            log.info("%s: version %d is ready", slug, version)
            return
        if status in ("failed", "deleted"):
            raise InputError(f"dataset {slug}: its processing ended as {status}; see its page on kaggle.com")
        time.sleep(ship.poll)
    late = f"version {sent.version} is still being processed after {READY_MINUTES:.0f} minutes"
    raise InputError(f"dataset {slug}: {late}; run the same command again, it only goes on waiting")


def push_kernels(
    ship: Ship,
    names: tuple[str, ...] = option((), "only these; none: all of the recipe", metavar="[KERNEL ...]", positional=True),
    recipe: str = option(DEFAULT_RECIPE, "whose kernels are pushed", metavar="RECIPE"),
    resume: bool = option(False, "push again with the kernel's own output attached"),
    wait: bool = option(False, "follow each run and push the whole chain"),
    docker_image: str = option("", "pin one of Kaggle's images", metavar="IMAGE"),
    dry_run: bool = DRY,
) -> str:
    """Push the kernels that have what they need, in order."""
    if resume and not names:
        raise InputError("--resume: name the kernel that is to go on, for example train-baseline")
    built: dict[Kernel, Path] = {}
    for kernel in kernels.choose_kernels(recipe, names):
        lack = "" if dry_run else _lack(ship, kernel)
        if lack and (names or not built):
            raise InputError(f"kernel {kernel.name}: {lack}")
        if lack:
            log.info("%s: not pushed, %s", kernel.name, lack)
        else:
            built[kernel] = ship.build_kernel(kernel, resume=resume, docker_image=docker_image)
    for kernel, folder in built.items():
        if dry_run:
            text = (folder / METADATA).read_text(encoding="utf-8").rstrip()
            log.info("%s: %s.ipynb would be pushed:\n%s", kernel.name, kernel.script.stem, text)
            continue
        if _sources_ran(ship, kernel, wait=wait):
            _push(ship, kernel, folder, again=resume)
        if wait and kernel.name in ship.state.kernels:
            _follow(ship, [kernel.name])
    return ""


def _lack(ship: Ship, kernel: Kernel) -> str:
    """Say what a kernel needs that has not been sent, or nothing."""
    sent = {name: entry.content for name, entry in ship.state.datasets.items() if entry.ready}
    if sent.get(PACKAGE) != datasets.package_fingerprint():
        return "this version of the package has not been sent, or is not ready; run lumbar ship datasets first"
    if kernel.bundle and (MODELS not in sent or not datasets.built_bundle(ship.out)):
        return "no bundle has been sent; run lumbar ship datasets --bundle DIR first"
    pretrained = (ship.out / "datasets" / MODELS).glob("pretrained-*.safetensors")
    if kernel.weights and (MODELS not in sent or not any(pretrained)):
        return "no pretrained weights have been sent; run lumbar ship datasets --pretrained ARCH first"
    return ""


def _sources_ran(ship: Ship, kernel: Kernel, *, wait: bool) -> bool:
    """Tell whether the outputs which a kernel reads are there: Kaggle drops a source without output."""
    for name in kernel.kernels:
        if wait:
            _follow(ship, [name])
        status = ship.kaggle.run(ship.sent_kernels([name])[name]).status
        if status in ("error", "cancel_acknowledged"):
            lack = f"kernel {kernel.name} reads the output of {name}, whose run ended as {status}"
            raise InputError(f"{lack}; fix that, then run lumbar ship kernels {name} --resume")
        if status != "complete":
            hint = "run the same command again when it is complete, or let it wait with --wait"
            log.info("%s: waits for %s, whose run is %s; %s", kernel.name, name, status, hint)
            return False
    return True


def _push(ship: Ship, kernel: Kernel, folder: Path, *, again: bool) -> None:
    """Push a kernel's folder unless it is unchanged, and read back whether all that it needs is attached."""
    name, files = kernel.name, {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
    content, before = digest(files), ship.state.kernels.get(name)
    if before and before.content == content and not again:
        log.info("%s: unchanged since version %d, not pushed again", name, before.version)
        return
    sizes = ", ".join(f"{file} ({len(text.encode()):,} bytes)" for file, text in files.items())
    log.info("%s: pushing %s: %s", name, folder, sizes)
    slug, version, url = ship.kaggle.push(folder, name)
    ship.note(ship.state.kernels, name, Sent(content, slug, version))
    log.info("%s: version %d is pushed, %s", name, version, url)
    if slug != kernel.slug:
        log.info("%s: Kaggle gave it the address %s, which is used from here on", name, slug)
    # An answer without complaint has been seen with sources dropped.
    attached, metadata = ship.kaggle.sources(slug), json.loads(files[METADATA])
    if not attached:
        log.info("%s: its sources cannot be read back yet; look at them on its page", name)
        return
    # Kaggle writes some addresses with a prefix ("datasets/owner/slug") or a version behind.
    wanted = [source for kind in SOURCES for source in metadata[kind]]
    dropped = [each for each in wanted if not any(f"/{each}/" in f"/{found}/" for found in attached)]
    if dropped:
        remedy = "check that the source exists, is ready and is yours, then push it again"
        lost = f"kernel {name}: Kaggle dropped the source {', '.join(dropped)}"
        raise InputError(f"{lost}; stop its run on kaggle.com, {remedy}")


def show_status(
    ship: Ship,
    names: tuple[str, ...] = option((), "only these; none: all pushed ones", metavar="[KERNEL ...]", positional=True),
    follow: bool = option(False, "wait for the end; show a failed run's log"),
) -> str:
    """What the pushed kernels are doing."""
    if follow:
        return _follow(ship, names)
    runs = [(name, sent.version, ship.kaggle.run(sent)) for name, sent in ship.sent_kernels(names).items()]
    return "\n".join(f"{name} version {at}: {run.status} {run.failure}".rstrip() for name, at, run in runs)


def _follow(ship: Ship, names: Sequence[str]) -> str:
    """Wait for runs, one after the other; one that ends otherwise than complete raises, its log's end shown."""
    for name, sent in ship.sent_kernels(names).items():
        run = _wait_end(ship, name, sent)
        lines = ship.kaggle.log(sent)[-25:]
        if run.status != "complete":
            log.info("%s", "\n".join(lines))
            reason = f" ({run.failure})" if run.failure else ""
            raise InputError(f"kernel {name}: its run ended as {run.status}{reason}; its log's end is above")
        if any(line.startswith("resumable") for line in lines):
            log.info("%s: stopped by its limit; go on with lumbar ship kernels %s --resume", name, name)
    return ""


def _wait_end(ship: Ship, name: str, sent: Sent) -> KernelRun:
    start, last = time.monotonic(), ""
    with tqdm(bar_format="{desc}, {elapsed}", disable=not sys.stderr.isatty(), leave=False) as line:
        while True:
            run = ship.kaggle.run(sent)
            text = f"{name} version {sent.version}: {run.status}"
            if text != last:
                log.info("%s", text)
            last = text
            if run.ended:
                return run
            if run.status == UNSEEN and time.monotonic() - start > UNSEEN_S:
                raise InputError(f"kernel {name}: Kaggle does not show it; check --owner, and its address {sent.slug}")
            line.set_description_str(text)
            time.sleep(ship.poll)


def fetch_output(
    ship: Ship,
    name: str = option(MISSING, "for example train-baseline", metavar="KERNEL", positional=True),
    to: Path | None = option(None, "where to; none: OUT/output/KERNEL", metavar="DIR"),
    start: str = option("", "only files whose path starts so: bundle/", metavar="PATH"),
) -> str:
    """Download a kernel's output."""
    sent, folder = ship.sent_kernels([name])[name], to or ship.out / "output" / name
    run = ship.kaggle.run(sent)
    if not run.ended:
        raise InputError(f"kernel {name}: its run is {run.status}; there is no output before it has ended")
    files = ship.kaggle.fetch(sent, folder, start)
    return f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes"


def submit(ship: Ship, message: str = option("", "shown beside the submission"), dry_run: bool = DRY) -> str:
    """Hand in the inference kernel's last version."""
    sent = ship.sent_kernels(["inference"])["inference"]
    text = message or f"{sent.slug} version {sent.version}"
    if dry_run:
        return f"nothing was sent; it would be {SUBMISSION} of {sent.slug} version {sent.version}: {text}"
    run = ship.kaggle.run(sent)
    if run.status != "complete":
        remedy = "follow it with lumbar ship status --follow, then submit"
        raise InputError(f"kernel inference: version {sent.version} is {run.status}, not complete; {remedy}")
    with tempfile.TemporaryDirectory() as folder:
        found = ship.kaggle.fetch(sent, Path(folder), SUBMISSION)
    if SUBMISSION not in [path.name for path in found]:
        raise InputError(f"kernel inference: its output holds no {SUBMISSION}; look into its log")
    number, answer = ship.kaggle.submit(sent, SUBMISSION, text)
    if not number and "success" not in answer.lower():
        raise InputError(f"submission to {kernels.COMPETITION}: not taken ({answer or 'no reason given'})")
    return f"Submission {number or ''} of version {sent.version}: {answer}"


def notebooks() -> str:
    """Make the notebooks anew from their scripts."""
    changed = kernels.write_notebooks(kernels.repository())
    return "\n".join(map(str, changed)) or "every notebook is in step with its script"


ACTIONS: dict[str, Callable[..., str]] = {
    **{"datasets": send_datasets, "kernels": push_kernels, "status": show_status},
    **{"output": fetch_output, "submit": submit, "notebooks": notebooks},
}
