"""Datasets and kernels sent, each only when it changed and what it needs is there; their runs, outputs, submission."""

import json
import logging
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, replace
from functools import cached_property
from pathlib import Path

from tqdm import tqdm

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, write_json, write_text
from lumbar_kaggle.core.settings import check_settings, load_config, option, save_config
from lumbar_kaggle.kaggle import datasets
from lumbar_kaggle.kaggle.checks import check_dataset, check_kernel
from lumbar_kaggle.kaggle.client import SOURCES, UNSEEN, Kaggle, KernelRun, Sent, State, connect
from lumbar_kaggle.kaggle.kernels import COMPETITION, METADATA, MODELS, PACKAGE, Kernel, choose_kernels, make_notebook

log = logging.getLogger(__name__)

READY_MINUTES, UNSEEN_S = 90.0, 600.0
"""How long a dataset may take to become ready (of gigabytes, tens of minutes), and a kernel to be seen."""

LOG_LINES = 25
SUBMISSION = "submission.csv"


@dataclass(frozen=True)
class Ship:
    """One account and its ``dist`` folder: the options that the actions of ``lumbar ship`` share, and the actions.

    Every action raises `InputError` where something cannot be built, sent or had; ``dry`` ones send nothing.
    """

    owner: str = option(MISSING, "your user name on Kaggle", metavar="NAME")
    out: Path = option(Path("dist"), "folder of what is built", metavar="DIR")
    poll: float = option(20.0, "between two questions to the server", metavar="SECONDS", least=0)

    def __post_init__(self) -> None:
        check_settings(self)
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

    def sent_kernels(self, names: Sequence[str] = ()) -> dict[str, Sent]:
        """Return pushed kernels, without names all; raise `InputError` where one of them, or any, was not pushed."""
        missing = [f"kernel {name} has" for name in names if name not in self.state.kernels]
        if missing or not self.state.kernels:
            what = missing[0] if missing else "no kernel has been"
            raise InputError(f"{self.out / 'state.json'}: {what} not been pushed; run lumbar ship kernels first")
        return {name: self.state.kernels[name] for name in names or self.state.kernels}

    def _note(self, kind: dict[str, Sent], name: str, sent: Sent) -> None:
        kind[name] = sent
        save_config(self.out / "state.json", self.state)

    def send_datasets(self, *, bundle: Path | None = None, pretrained: Sequence[str] = (), dry: bool = False) -> None:
        """Build both datasets, send those that changed, and wait until they are ready; see `datasets.build_models`."""
        models = datasets.build_models(self.out, self.owner, bundle=bundle, pretrained=pretrained)
        built = [datasets.build_package(self.out, self.owner), *([models] if models else [])]
        for dataset in built:
            check_dataset(dataset.folder)
            log.info("%s", dataset.table())
        for dataset in built:
            before = self.state.datasets.get(dataset.slug)
            if before and before.content == dataset.fingerprint:
                log.info("%s: unchanged since version %d, not sent again", dataset.slug, before.version)
            elif dry:
                text = (dataset.folder / datasets.DATASET_METADATA).read_text(encoding="utf-8").rstrip()
                log.info("%s: would be sent:\n%s", dataset.slug, text)
            else:
                self._send(dataset)
        for dataset in built:
            if not dry and not self.state.datasets[dataset.slug].ready:
                self._wait_ready(dataset.slug)

    def _send(self, dataset: datasets.BuiltDataset) -> None:
        version = self.kaggle.dataset_state(dataset.slug)[1]
        log.info("%s: sending version %d", dataset.slug, version + 1)
        self.kaggle.send_dataset(dataset, exists=version > 0, quiet=not sys.stderr.isatty())
        sent = Sent(dataset.fingerprint, dataset.slug, version + 1, ready=False)
        self._note(self.state.datasets, dataset.slug, sent)

    def _wait_ready(self, slug: str) -> None:
        """Wait for the version that was sent: ``ready`` alone may still speak of the one before it."""
        sent, deadline = self.state.datasets[slug], time.monotonic() + READY_MINUTES * 60
        while time.monotonic() < deadline:
            status, version = self.kaggle.dataset_state(slug)
            if status == "ready" and version >= sent.version:
                self._note(self.state.datasets, slug, replace(sent, version=version, ready=True))
                log.info("%s: version %d is ready", slug, version)
                return
            if status in ("failed", "deleted"):
                raise InputError(f"dataset {slug}: its processing ended as {status}; see its page on kaggle.com")
            time.sleep(self.poll)
        raise InputError(
            f"dataset {slug}: version {sent.version} is still being processed after {READY_MINUTES:.0f} minutes; "
            "run the same command again, it only goes on waiting"
        )

    def push_kernels(
        self,
        names: Sequence[str] = (),
        *,
        recipe: str,
        resume: bool = False,
        docker_image: str = "",
        wait: bool = False,
        dry: bool = False,
    ) -> None:
        """Push kernels, each after those whose output it reads; stop at the first that has to wait.

        Without `names` all of the recipe are pushed for which there is what they need. `resume` attaches the named
        kernels' own output; `wait` follows each run to its end, so that the whole chain is pushed.
        """
        if resume and not names:
            raise InputError("--resume: name the kernel that is to go on, for example train-baseline")
        built: dict[Kernel, Path] = {}
        for kernel in choose_kernels(recipe, names):
            lack = "" if dry else self._lack(kernel)
            if lack and (names or not built):
                raise InputError(f"kernel {kernel.name}: {lack}")
            if lack:
                log.info("%s: not pushed, %s", kernel.name, lack)
            else:
                built[kernel] = self.build_kernel(kernel, resume=resume, docker_image=docker_image)
        for kernel, folder in built.items():
            if dry:
                text = (folder / METADATA).read_text(encoding="utf-8").rstrip()
                log.info("%s: %s.ipynb would be pushed:\n%s", kernel.name, kernel.script.stem, text)
                continue
            if self._sources_ran(kernel, wait=wait):
                self._push(kernel, folder, again=resume)
            if wait and kernel.name in self.state.kernels:
                self.follow([kernel.name])

    def build_kernel(self, kernel: Kernel, *, resume: bool = False, docker_image: str = "") -> Path:
        """Write a kernel's folder as it is pushed: owner, versions and fingerprints filled in, and checked."""
        folder = self.out / "kernels" / kernel.name
        shutil.rmtree(folder, ignore_errors=True)
        bundle = {"BUNDLE": datasets.built_bundle(self.out)} if kernel.bundle else {}
        values = {"PACKAGE": datasets.package_fingerprint(), **bundle}
        write_text(folder / f"{kernel.script.stem}.ipynb", make_notebook(kernel.script, values))
        slugs = {name: sent.slug for name, sent in self.state.kernels.items()}
        metadata = kernel.metadata(self.owner, resume=resume, docker_image=docker_image, slugs=slugs)
        write_json(folder / METADATA, metadata)
        check_kernel(folder)
        return folder

    def _lack(self, kernel: Kernel) -> str:
        """Say what a kernel needs that has not been sent, or nothing."""
        sent = {name: entry.content for name, entry in self.state.datasets.items() if entry.ready}
        if sent.get(PACKAGE) != datasets.package_fingerprint():
            return "this version of the package has not been sent, or is not ready; run lumbar ship datasets first"
        if kernel.bundle and (MODELS not in sent or not datasets.built_bundle(self.out)):
            return "no bundle has been sent; run lumbar ship datasets --bundle DIR first"
        pretrained = (self.out / "datasets" / MODELS).glob("pretrained-*.safetensors")
        if kernel.weights and (MODELS not in sent or not any(pretrained)):
            return "no pretrained weights have been sent; run lumbar ship datasets --pretrained ARCH first"
        return ""

    def _sources_ran(self, kernel: Kernel, *, wait: bool) -> bool:
        """Tell whether the outputs which a kernel reads are there: Kaggle drops a source without output."""
        for name in kernel.kernels:
            if wait:
                self.follow([name])
            status = self.kaggle.run(self.sent_kernels([name])[name]).status
            if status in ("error", "cancel_acknowledged"):
                raise InputError(
                    f"kernel {kernel.name} reads the output of {name}, whose run ended as {status}; fix that, "
                    f"then run lumbar ship kernels {name} --resume"
                )
            if status != "complete":
                hint = "run the same command again when it is complete, or let it wait with --wait"
                log.info("%s: waits for %s, whose run is %s; %s", kernel.name, name, status, hint)
                return False
        return True

    def _push(self, kernel: Kernel, folder: Path, *, again: bool) -> None:
        files = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
        content, before = digest(files), self.state.kernels.get(kernel.name)
        if before and before.content == content and not again:
            log.info("%s: unchanged since version %d, not pushed again", kernel.name, before.version)
            return
        sizes = ", ".join(f"{name} ({len(text.encode()):,} bytes)" for name, text in files.items())
        log.info("%s: pushing %s: %s", kernel.name, folder, sizes)
        slug, version, url = self.kaggle.push(folder, kernel.name)
        self._note(self.state.kernels, kernel.name, Sent(content, slug, version))
        log.info("%s: version %d is pushed, %s", kernel.name, version, url)
        if slug != kernel.slug:
            log.info("%s: Kaggle gave it the address %s, which is used from here on", kernel.name, slug)
        metadata = json.loads(files[METADATA])
        self._check_attached(kernel.name, slug, [source for kind in SOURCES for source in metadata[kind]])

    def _check_attached(self, name: str, slug: str, wanted: list[str]) -> None:
        """Read back what is attached: an answer without complaint has been seen with sources dropped."""
        attached = self.kaggle.sources(slug)
        if not attached:
            log.info("%s: its sources cannot be read back yet; look at them on its page", name)
            return
        # Kaggle writes some addresses with a prefix ("datasets/owner/slug") or a version behind.
        dropped = [each for each in wanted if not any(f"/{each}/" in f"/{found}/" for found in attached)]
        if dropped:
            raise InputError(
                f"kernel {name}: Kaggle dropped the source {', '.join(dropped)}; stop its run on kaggle.com, "
                "check that the source exists, is ready and is yours, then push it again"
            )

    def status(self, names: Sequence[str] = ()) -> str:
        """Return the state of pushed kernels, a line each."""
        runs = [(name, sent.version, self.kaggle.run(sent)) for name, sent in self.sent_kernels(names).items()]
        return "\n".join(f"{name} version {at}: {run.status} {run.failure}".rstrip() for name, at, run in runs)

    def follow(self, names: Sequence[str] = ()) -> None:
        """Wait for runs, one after the other; one that ends otherwise than complete raises, its log's end shown."""
        for name, sent in self.sent_kernels(names).items():
            run = self._wait_end(name, sent)
            lines = self.kaggle.log(sent)[-LOG_LINES:]
            if run.status != "complete":
                log.info("%s", "\n".join(lines))
                reason = f" ({run.failure})" if run.failure else ""
                raise InputError(f"kernel {name}: its run ended as {run.status}{reason}; its log's end is above")
            if any(line.startswith("resumable") for line in lines):
                log.info("%s: stopped by its limit; go on with lumbar ship kernels %s --resume", name, name)

    def _wait_end(self, name: str, sent: Sent) -> KernelRun:
        start, last = time.monotonic(), ""
        with tqdm(bar_format="{desc}, {elapsed}", disable=not sys.stderr.isatty(), leave=False) as line:
            while True:
                run = self.kaggle.run(sent)
                text = f"{name} version {sent.version}: {run.status}"
                if text != last:
                    log.info("%s", text)
                last = text
                if run.ended:
                    return run
                if run.status == UNSEEN and time.monotonic() - start > UNSEEN_S:
                    raise InputError(
                        f"kernel {name}: Kaggle does not show it; check --owner, and its address {sent.slug}"
                    )
                line.set_description_str(text)
                time.sleep(self.poll)

    def fetch_output(self, name: str, folder: Path, *, start: str = "") -> list[Path]:
        """Download a kernel's output, see `client.Kaggle.fetch`."""
        sent = self.sent_kernels([name])[name]
        run = self.kaggle.run(sent)
        if not run.ended:
            raise InputError(f"kernel {name}: its run is {run.status}; there is no output before it has ended")
        return self.kaggle.fetch(sent, folder, start)

    def submit(self, message: str = "", *, dry: bool = False) -> str:
        """Hand in the pushed inference kernel's version; return one line on what the server answered.

        `message` is shown beside the submission; by default it is the kernel's version.
        """
        sent = self.sent_kernels(["inference"])["inference"]
        text = message or f"{sent.slug} version {sent.version}"
        if dry:
            return f"nothing was sent; it would be {SUBMISSION} of {sent.slug} version {sent.version}: {text}"
        run = self.kaggle.run(sent)
        if run.status != "complete":
            raise InputError(
                f"kernel inference: the run of version {sent.version} is {run.status}, not complete; "
                "follow it with lumbar ship status --follow, then submit"
            )
        with tempfile.TemporaryDirectory() as folder:
            found = self.kaggle.fetch(sent, Path(folder), SUBMISSION)
        if SUBMISSION not in [path.name for path in found]:
            raise InputError(f"kernel inference: its output holds no {SUBMISSION}; look into its log")
        number, answer = self.kaggle.submit(sent, SUBMISSION, text)
        if not number and "success" not in answer.lower():
            raise InputError(f"submission to {COMPETITION}: not taken ({answer or 'no reason given'})")
        return f"Submission {number or ''} of version {sent.version}: {answer}"
