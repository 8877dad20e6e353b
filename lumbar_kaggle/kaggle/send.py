"""Sending datasets and kernels, each only when it changed and when what it needs is there."""

import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import digest, write_json, write_text
from lumbar_kaggle.kaggle.checks import check_dataset, check_kernel
from lumbar_kaggle.kaggle.client import Kaggle
from lumbar_kaggle.kaggle.datasets import (
    DATASET_METADATA,
    BuiltDataset,
    build_models,
    build_package,
    built_bundle,
    package_fingerprint,
)
from lumbar_kaggle.kaggle.follow import Plan, Sent, State, follow
from lumbar_kaggle.kaggle.kernels import (
    METADATA,
    MODELS,
    PACKAGE,
    Kernel,
    chain,
    find_kernel,
    kernel_metadata,
    make_notebook,
    read_kernels,
    repository,
)

log = logging.getLogger(__name__)

READY_MINUTES = 90.0
"""How long a dataset may take to become ready; gigabytes take Kaggle tens of minutes."""


def ship_datasets(plan: Plan, *, bundle: Path | None = None, pretrained: Sequence[str] = ()) -> None:
    """Build both datasets, send those that changed, and wait until they are ready.

    Args:
        plan: see `Plan`.
        bundle: exported models to put into the models' dataset.
        pretrained: see `datasets.build_models`.

    Raises:
        InputError: something cannot be built, sent, or does not become ready.
    """
    root, state = repository(), plan.state()
    built = [build_package(root, plan.out, plan.owner)]
    models = build_models(root, plan.out, plan.owner, bundle=bundle, pretrained=pretrained)
    built += [models] if models else []
    for dataset in built:
        check_dataset(dataset.folder)
        log.info("%s", dataset.table())
    changed = [dataset for dataset in built if not _unchanged(state, dataset)]
    if plan.dry:
        for dataset in changed:
            _tell(f"{dataset.slug}: would be sent", dataset.folder / DATASET_METADATA)
        return
    kaggle = plan.connect()
    for dataset in changed:
        _send(kaggle, dataset, state)
    for dataset in built:
        if not state.datasets[dataset.slug].ready:
            _wait_ready(kaggle, dataset.slug, state, plan.poll_s)


def _unchanged(state: State, dataset: BuiltDataset) -> bool:
    before = state.datasets.get(dataset.slug)
    if before and before.content == dataset.fingerprint:
        log.info("%s: unchanged since version %d, not sent again", dataset.slug, before.version)
        return True
    return False


def _tell(what: str, metadata: Path) -> None:
    log.info("%s:\n%s", what, metadata.read_text(encoding="utf-8").rstrip())


def _send(kaggle: Kaggle, dataset: BuiltDataset, state: State) -> None:
    version = kaggle.dataset_state(dataset.slug)[1]
    log.info("%s: sending version %d", dataset.slug, version + 1)
    kaggle.send_dataset(dataset, exists=version > 0, quiet=not sys.stderr.isatty())
    state.datasets[dataset.slug] = Sent(dataset.fingerprint, dataset.slug, version + 1, ready=False)
    state.write()


def _wait_ready(kaggle: Kaggle, slug: str, state: State, poll_s: float) -> None:
    """Wait for the version that was sent: ``ready`` alone may still speak of the one before it."""
    wanted, deadline = state.datasets[slug].version, time.monotonic() + READY_MINUTES * 60
    while time.monotonic() < deadline:
        status, version = kaggle.dataset_state(slug)
        if status == "ready" and version >= wanted:
            state.record_ready(slug, version)
            log.info("%s: version %d is ready", slug, version)
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
    recipe: str,
    resume: bool = False,
    docker_image: str = "",
    wait: bool = False,
) -> None:
    """Push kernels, each after those whose output it reads; stop at the first that has to wait.

    Args:
        plan: see `Plan`.
        names: which; by default every kernel of the recipe for which there is what it needs.
        recipe: whose kernels.
        resume: push the named kernels again with their own output attached.
        docker_image: see `kernels.kernel_metadata`.
        wait: follow each run to its end, so that the whole chain is pushed.

    Raises:
        InputError: a kernel lacks something, is refused, or fails.
    """
    wanted, state = [find_kernel(name) for name in names], plan.state()
    kernels = [each for each in read_kernels(repository()) if each in wanted] if wanted else chain(recipe)
    if resume and not wanted:
        raise InputError("--resume: name the kernel that is to go on, for example train-baseline")
    built = {
        kernel: build_kernel(plan, kernel, state, resume=resume, docker_image=docker_image)
        for kernel in kernels
        if _has_what_it_needs(plan, kernel, state, needed=bool(wanted) or kernel == kernels[0])
    }
    if plan.dry:
        for kernel, folder in built.items():
            _tell(f"{kernel.name}: {kernel.notebook} would be pushed", folder / METADATA)
        return
    kaggle = plan.connect()
    for kernel, folder in built.items():
        if _sources_ran(kaggle, kernel, state, wait=wait, poll_s=plan.poll_s):
            _push(kaggle, kernel, folder, state, again=resume)
        if wait and kernel.name in state.kernels:
            follow(kaggle, state, [kernel.name], poll_s=plan.poll_s)


def build_kernel(plan: Plan, kernel: Kernel, state: State, *, resume: bool = False, docker_image: str = "") -> Path:
    """Write a kernel's folder as it is pushed: owner, versions and fingerprints filled in, and checked.

    Args:
        plan: see `Plan`.
        kernel: which.
        state: what has been sent.
        resume, docker_image: see `kernels.kernel_metadata`.

    Raises:
        InputError: a check fails.
    """
    folder = plan.out / "kernels" / kernel.name
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / kernel.notebook, make_notebook(kernel.script, notebook_values(kernel, plan.out)))
    slugs = {name: sent.slug for name, sent in state.kernels.items()}
    metadata = kernel_metadata(kernel, plan.owner, resume=resume, docker_image=docker_image, slugs=slugs)
    write_json(folder / METADATA, metadata)
    check_kernel(folder)
    return folder


def notebook_values(kernel: Kernel, out: Path) -> dict[str, str]:
    """Return what is filled into a kernel's parameters: the fingerprints of what it is pushed with.

    Args:
        kernel: which.
        out: the ``dist`` folder.
    """
    values = {"PACKAGE": package_fingerprint()}
    return values | ({"BUNDLE": built_bundle(out)} if kernel.bundle else {})


def _has_what_it_needs(plan: Plan, kernel: Kernel, state: State, *, needed: bool) -> bool:
    """Tell whether a kernel can be pushed; say what it lacks, and refuse one without which nothing goes."""
    lack = "" if plan.dry else _lack(plan, kernel, state)
    if lack and needed:
        raise InputError(f"kernel {kernel.name}: {lack}")
    if lack:
        log.info("%s: not pushed, %s", kernel.name, lack)
    return not lack


def _lack(plan: Plan, kernel: Kernel, state: State) -> str:
    """Say what a kernel needs that has not been sent, or nothing."""
    sent = {name: entry for name, entry in state.datasets.items() if entry.ready}
    if PACKAGE not in sent or sent[PACKAGE].content != package_fingerprint():
        return "this version of the package has not been sent, or is not ready; run lumbar ship datasets first"
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
        status = kaggle.run(source.slug, source.version).status
        if status in ("error", "cancel_acknowledged"):
            raise InputError(
                f"kernel {kernel.name} reads the output of {name}, whose run ended as {status}; fix that, "
                f"then run lumbar ship kernels {name} --resume"
            )
        if status != "complete":
            log.info(
                "%s: waits for %s, whose run is %s; run the same command again when it is complete, "
                "or let it wait with --wait",
                *(kernel.name, name, status),
            )
            return False
    return True


def _push(kaggle: Kaggle, kernel: Kernel, folder: Path, state: State, *, again: bool) -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
    content, before = digest(files), state.kernels.get(kernel.name)
    if before and before.content == content and not again:
        log.info("%s: unchanged since version %d, not pushed again", kernel.name, before.version)
        return
    sizes = ", ".join(f"{name} ({len(text.encode()):,} bytes)" for name, text in files.items())
    log.info("%s: pushing %s: %s", kernel.name, folder, sizes)
    pushed = kaggle.push(folder, kernel.name)
    state.kernels[kernel.name] = Sent(content, pushed.slug, pushed.version)
    state.write()
    log.info("%s: version %d is pushed, %s", kernel.name, pushed.version, pushed.url)
    if pushed.slug != kernel.slug:
        log.info("%s: Kaggle gave it the address %s, which is used from here on", kernel.name, pushed.slug)
    _check_attached(kaggle, kernel.name, pushed.slug, json.loads(files[METADATA]))


def _check_attached(kaggle: Kaggle, name: str, slug: str, metadata: dict[str, Any]) -> None:
    """Read back what is attached: an answer without complaint has been seen with sources dropped."""
    keys = ("dataset_sources", "competition_sources", "kernel_sources")
    wanted, attached = [source for key in keys for source in metadata[key]], kaggle.sources(slug)
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
