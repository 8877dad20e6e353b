"""Sending datasets and kernels, each only when it changed and when what it needs is there."""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, write_json, write_text
from lumbar_kaggle.kaggle.checks import check_dataset, check_kernel, check_owner
from lumbar_kaggle.kaggle.client import Kaggle, connect, connect_dry
from lumbar_kaggle.kaggle.contents import package_fingerprint
from lumbar_kaggle.kaggle.datasets import BuiltDataset, build_models, build_package, built_bundle
from lumbar_kaggle.kaggle.follow import follow
from lumbar_kaggle.kaggle.kernels import (
    BASELINE,
    KERNELS,
    METADATA,
    MODELS,
    PACKAGE,
    Kernel,
    chain,
    find_kernel,
    kernel_metadata,
    repository,
)
from lumbar_kaggle.kaggle.notebooks import make_notebook
from lumbar_kaggle.kaggle.state import Sent, State

READY_MINUTES = 90.0
"""How long a dataset may take to become ready; gigabytes take Kaggle tens of minutes."""


@dataclass(frozen=True)
class Plan:
    """Where things go, and how.

    Attributes:
        owner: the account.
        out: the ``dist`` folder.
        dry: tell what would be sent, send nothing.
        poll_s: seconds between two questions to the server.
    """

    owner: str
    out: Path
    dry: bool = False
    poll_s: float = 20.0

    def connect(self) -> Kaggle:
        """Sign in, or make a connection that only tells.

        Raises:
            InputError: the owner's name cannot be one, or the credentials are not the owner's.
        """
        check_owner(self.owner)
        return connect_dry(self.owner) if self.dry else connect(self.owner)

    def state(self) -> State:
        """Return what has been sent before."""
        return State(self.out, self.owner, dry=self.dry)


def ship_datasets(plan: Plan, *, bundle: Path | None = None, pretrained: Sequence[str] = ()) -> None:
    """Build both datasets, send those that changed, and wait until they are ready.

    Args:
        plan: see `Plan`.
        bundle: exported models to put into the models' dataset.
        pretrained: see `datasets.build_models`.

    Raises:
        InputError: something cannot be built, sent, or does not become ready.
    """
    check_owner(plan.owner)
    root, state = repository(), plan.state()
    built = [build_package(root, plan.out, plan.owner)]
    models = build_models(root, plan.out, plan.owner, bundle=bundle, pretrained=pretrained)
    built += [models] if models else []
    for dataset in built:
        check_dataset(dataset.folder)
        print(dataset.table())
    kaggle = plan.connect()
    for dataset in built:
        _send(kaggle, dataset, state)
    for dataset in built:
        if not state.datasets[dataset.slug].ready and not plan.dry:
            _wait_ready(kaggle, dataset.slug, state, plan.poll_s)


def _send(kaggle: Kaggle, dataset: BuiltDataset, state: State) -> None:
    before = state.datasets.get(dataset.slug)
    if before and before.content == dataset.fingerprint:
        print(f"{dataset.slug}: unchanged since version {before.version}, not sent again")
        return
    # What a dry run would be told by the server is not known; what was sent from here is.
    version = (before.version if before else 0) if state.dry else kaggle.dataset_state(dataset.slug)[1]
    print(f"{dataset.slug}: sending version {version + 1}")
    kaggle.send_dataset(dataset, exists=version > 0, quiet=not sys.stderr.isatty())
    state.record_dataset(dataset.slug, Sent(dataset.fingerprint, dataset.slug, version + 1, ready=False))


def _wait_ready(kaggle: Kaggle, slug: str, state: State, poll_s: float) -> None:
    """Wait for the version that was sent: ``ready`` alone may still speak of the one before it."""
    wanted, deadline = state.datasets[slug].version, time.monotonic() + READY_MINUTES * 60
    while time.monotonic() < deadline:
        status, version = kaggle.dataset_state(slug)
        if status == "ready" and version >= wanted:
            state.record_ready(slug, version)
            print(f"{slug}: version {version} is ready")
            return
        if status in ("failed", "deleted"):
            raise InputError(f"dataset {slug}: its processing ended as {status}; see its page on kaggle.com")
        time.sleep(poll_s)
    raise InputError(
        f"dataset {slug}: version {wanted} is still being processed after {READY_MINUTES:.0f} minutes; "
        "run the same command again, it only goes on waiting"
    )


def ship_kernels(
    plan: Plan,
    names: Sequence[str] = (),
    *,
    recipe: str = BASELINE,
    resume: bool = False,
    docker_image: str = "",
    wait: bool = False,
) -> None:
    """Push kernels, each after those whose output it reads; stop at the first that has to wait.

    Args:
        plan: see `Plan`.
        names: which; by default every kernel of the recipe for which there is what it needs.
        recipe: one of `kernels.RECIPES`.
        resume: push the named kernels again with their own output attached.
        docker_image: see `kernels.kernel_metadata`.
        wait: follow each run to its end, so that the whole chain is pushed.

    Raises:
        InputError: a kernel lacks something, is refused, or fails.
    """
    check_owner(plan.owner)
    wanted, state = [find_kernel(name) for name in names], plan.state()
    kernels = [kernel for kernel in KERNELS if kernel in wanted] or chain(recipe)
    if resume and not wanted:
        raise InputError("--resume: name the kernel that is to go on, for example train-baseline")
    built = {
        kernel: build_kernel(plan, kernel, state, resume=resume, docker_image=docker_image)
        for kernel in kernels
        if _has_what_it_needs(plan, kernel, state, needed=bool(wanted) or kernel == kernels[0])
    }
    kaggle = plan.connect()
    for kernel, folder in built.items():
        if plan.dry or _sources_ran(kaggle, kernel, state, wait=wait, poll_s=plan.poll_s):
            _push(kaggle, kernel, folder, state, again=resume)
        if wait and kernel.name in state.kernels and not plan.dry:
            follow(kaggle, state, [kernel.name], poll_s=plan.poll_s)


def build_kernel(
    plan: Plan, kernel: Kernel, state: State, *, resume: bool = False, docker_image: str = ""
) -> Path:
    """Write a kernel's folder as it is pushed: owner, versions and fingerprints filled in, and checked.

    Args:
        plan: see `Plan`.
        kernel: a line of the table.
        state: what has been sent.
        resume, docker_image: see `kernels.kernel_metadata`.

    Raises:
        InputError: a check fails.
    """
    values = {"PACKAGE": package_fingerprint()}
    if kernel.bundle:
        values["BUNDLE"] = built_bundle(plan.out)
    folder = plan.out / "kernels" / kernel.name
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / kernel.notebook, make_notebook(repository() / kernel.folder / kernel.script, values))
    slugs = {name: sent.slug for name, sent in state.kernels.items()}
    metadata = kernel_metadata(kernel, plan.owner, resume=resume, docker_image=docker_image, slugs=slugs)
    write_json(folder / METADATA, metadata)
    check_kernel(folder)
    return folder


def _has_what_it_needs(plan: Plan, kernel: Kernel, state: State, *, needed: bool) -> bool:
    """Tell whether a kernel can be pushed; say what it lacks, and refuse one without which nothing goes."""
    lack = _lack(plan, kernel, state)
    if lack and not plan.dry:
        if needed:
            raise InputError(f"kernel {kernel.name}: {lack}")
        print(f"{kernel.name}: not pushed, {lack}")
    return plan.dry or not lack


def _lack(plan: Plan, kernel: Kernel, state: State) -> str:
    """Say what a kernel needs that has not been sent, or nothing."""
    sent = {name: entry for name, entry in state.datasets.items() if entry.ready}
    if PACKAGE not in sent or sent[PACKAGE].content != package_fingerprint():
        return (
            "this version of the package has not been sent, or is not ready; run lumbar ship datasets first"
        )
    if kernel.bundle and (MODELS not in sent or not built_bundle(plan.out)):
        return "no bundle has been sent; run lumbar ship datasets --bundle DIR first"
    pretrained = (plan.out / "datasets" / MODELS).glob("pretrained-*.safetensors")
    if kernel.weights and (MODELS not in sent or not any(pretrained)):
        return "no pretrained weights have been sent; run lumbar ship datasets --pretrained ARCH first"
    return ""


def _sources_ran(kaggle: Kaggle, kernel: Kernel, state: State, *, wait: bool, poll_s: float) -> bool:
    """Tell whether the outputs which a kernel reads are there: Kaggle drops a source without output."""
    for name in kernel.kernels:
        source = state.kernel(name)
        if wait:
            follow(kaggle, state, [name], poll_s=poll_s)
        status = kaggle.session(source.slug, source.version).status
        if status in ("error", "cancel_acknowledged"):
            raise InputError(
                f"kernel {kernel.name} reads the output of {name}, whose run ended as {status}; fix that, "
                f"then run lumbar ship kernels {name} --resume"
            )
        if status != "complete":
            print(
                f"{kernel.name}: waits for {name}, whose run is {status}; run the same command again when it "
                "is complete, or let it wait with --wait"
            )
            return False
    return True


def _push(kaggle: Kaggle, kernel: Kernel, folder: Path, state: State, *, again: bool) -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
    content, before = digest(files), state.kernels.get(kernel.name)
    if before and before.content == content and not again:
        print(f"{kernel.name}: unchanged since version {before.version}, not pushed again")
        return
    sizes = ", ".join(f"{name} ({len(text.encode()):,} bytes)" for name, text in files.items())
    print(f"{kernel.name}: pushing {folder}: {sizes}")
    pushed = kaggle.push(folder, kernel.name)
    if state.dry:
        return
    state.record_kernel(kernel.name, Sent(content, pushed.slug, pushed.version))
    print(f"{kernel.name}: version {pushed.version} is pushed, {pushed.url}")
    if pushed.slug != kernel.slug:
        print(f"{kernel.name}: Kaggle gave it the address {pushed.slug}, which is used from here on")
    metadata = json.loads(files[METADATA])
    _check_attached(kaggle, kernel.name, pushed.slug, metadata)


def _check_attached(kaggle: Kaggle, name: str, slug: str, metadata: dict[str, Any]) -> None:
    """Read back what is attached: an answer without complaint has been seen with sources dropped."""
    keys = ("dataset_sources", "competition_sources", "kernel_sources")
    wanted, attached = [source for key in keys for source in metadata[key]], kaggle.sources(slug)
    if not attached:
        print(f"{name}: its sources cannot be read back yet; look at them on its page")
        return
    # Kaggle writes some addresses with a prefix ("datasets/owner/slug") or a version behind.
    dropped = [each for each in wanted if not any(f"/{each}/" in f"/{found}/" for found in attached)]
    if dropped:
        raise InputError(
            f"kernel {name}: Kaggle dropped the source {', '.join(dropped)}; stop its run on kaggle.com, "
            "check that the source exists, is ready and is yours, then push it again"
        )
