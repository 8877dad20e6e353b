"""The checks before a push: each trap that can be seen from here has a fault that names it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_json
from lumbar_kaggle.kaggle.checks import check
from lumbar_kaggle.kaggle.client import Sent, State
from lumbar_kaggle.kaggle.datasets import (
    PACKAGE_FOLDER,
    build_models,
    build_package,
    built_bundle,
    package_files,
    package_fingerprint,
)
from lumbar_kaggle.kaggle.kernels import Kernel, choose_kernels, read_kernels
from lumbar_kaggle.kaggle.ship import Ship
from tests.support.ship_desk import ROOT, small_bundle

IMAGE = "gcr.io/kaggle-gpu-images/python@sha256:" + "a" * 64


def chosen(name: str) -> Kernel:
    """The kernel of a name."""
    (kernel,) = choose_kernels("baseline", [name])
    return kernel


@pytest.fixture
def kernel_folder(tmp_path: Path) -> Path:
    """The training kernel, built for an owner."""
    return Ship("someone", tmp_path).build_kernel(chosen("train-baseline"), docker_image=IMAGE)


def test_every_kernel_of_the_table_passes(tmp_path: Path) -> None:
    """Built, filled in and checked; resumed ones read their own output; an image can be pinned."""
    every = read_kernels(ROOT)
    for kernel in every:
        folder = Ship("someone", tmp_path).build_kernel(kernel, resume=True, docker_image=IMAGE)
        metadata = json.loads((folder / "kernel-metadata.json").read_text())
        assert f"someone/{kernel.slug}" in metadata["kernel_sources"]
        assert metadata["docker_image"] == IMAGE
        assert "OWNER" not in json.dumps(metadata)
        before = every[: every.index(kernel)]
        assert set(kernel.kernels) <= {each.name for each in before}, "kernels are in order of dependency"
    with pytest.raises(InputError, match="kernel 'x' is unknown; the kernels are preprocess, train-baseline"):
        chosen("x")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"id": "OWNER/lumbar-train-baseline"}, "still has the template's owner"),
        ({"id": "lumbar-train-baseline"}, "is not owner/slug"),
        ({"id": "someone/Lumbar_Train"}, "is not owner/slug"),
        ({"id": "someone/lumb", "title": "lumb"}, "slug 'lumb' has 4 characters; 5 to 50"),
        ({"title": "lumbar training"}, "gives the slug 'lumbar-training', not 'lumbar-train-baseline'"),
        ({"title": "lumbar train baseline " * 3}, "66 characters; 5 to 50 are allowed"),
        ({"is_private": "true"}, "is_private is 'true'; write true or false"),
        ({"is_private": False}, "is_private is not true"),
        ({"enable_internet": True}, "enable_internet is not false"),
        ({"enable_internet": None}, "enable_internet is None; write true or false"),
        ({"enable_gpu": 1}, "enable_gpu is 1; write true or false"),
        ({"machine_shape": "NvidiaTeslaP100"}, "machine_shape is 'NvidiaTeslaP100'; with enable_gpu"),
        ({"machine_shape": None}, "machine_shape is None; with enable_gpu it must be NvidiaTeslaT4"),
        ({"enable_gpu": False}, "machine_shape is 'NvidiaTeslaT4' without enable_gpu"),
        ({"docker_image": "python:3.12"}, "docker_image 'python:3.12' is none of Kaggle's"),
        ({"dataset_sources": "someone/lumbar-kaggle"}, "it must be a list"),
        ({"dataset_sources": ["lumbar-kaggle"]}, "'lumbar-kaggle' is not owner/slug"),
        ({"dataset_sources": ["datasets/someone/lumbar-kaggle"]}, "is not owner/slug"),
        ({"dataset_sources": ["someone/lumbar-kaggle/3"]}, "is not owner/slug"),
        ({"kernel_sources": ["code/someone/lumbar-preprocess"]}, "is not owner/slug"),
        ({"kernel_sources": ["a/lumbar-preprocess"] * 2}, "'a/lumbar-preprocess' is there twice"),
        ({"competition_sources": ["c/rsna-2024"]}, "'c/rsna-2024' is not a bare slug"),
        ({"competition_sources": []}, "competition_sources is empty"),
        ({"model_sources": ["a/b/pyTorch/c/1"]}, "model_sources is not empty"),
        ({"code_file": "gone.ipynb"}, "code_file 'gone.ipynb' does not exist"),
        ({"enable_gpus": True}, "key 'enable_gpus' is unknown"),
    ],
)
def test_each_fault_of_a_kernels_metadata_is_named(kernel_folder: Path, changes: dict[str, Any], sentence: str) -> None:
    """One change at a time to metadata that is right."""
    check(kernel_folder)
    path = kernel_folder / "kernel-metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError) as fault:
        check(kernel_folder)
    assert sentence in str(fault.value)
    assert str(path) in str(fault.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (["!pip install lumbar_kaggle"], "cell 2 is no plain Python"),
        (["import os\n", "print(os.environ)"], "cell 2 prints os.environ"),
        (["token = 'KGAT_" + "0" * 32 + "'"], "cell 2 holds a credential"),
    ],
)
def test_each_fault_of_a_notebook_is_named(kernel_folder: Path, source: list[str], sentence: str) -> None:
    """What would only show after the queue, or never."""
    path = kernel_folder / "train_baseline.ipynb"
    notebook = json.loads(path.read_text())
    notebook["cells"][1]["source"] = source
    path.write_text(json.dumps(notebook))
    with pytest.raises(InputError, match=sentence):
        check(kernel_folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"id": "OWNER/lumbar-kaggle"}, "still has the template's owner"),
        ({"id": "someone/Bad_Slug X"}, "is not owner/slug in small letters"),
        ({"id": "someone/short"}, "slug 'short' has 5 characters; 6 to 50"),
        ({"title": "t" * 51}, "has 51 characters; 6 to 50 are allowed"),
        ({"subtitle": "too short"}, "subtitle 'too short' has 9 characters; 20 to 80"),
        ({"licenses": [{"name": "MIT"}]}, "it must be one of Kaggle's names"),
        ({"licenses": [{"name": "other"}, {"name": "unknown"}]}, "it must be one of Kaggle's names"),
    ],
)
def test_each_fault_of_a_datasets_metadata_is_named(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    """Limits that the server, not the client, would complain of."""
    folder = build_package(tmp_path, "someone").folder
    check(folder)
    path = folder / "dataset-metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError) as fault:
        check(folder)
    assert sentence in str(fault.value)


def test_nothing_goes_up_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    """Folders, links and strays, each by its name."""
    folder = build_package(tmp_path, "someone").folder
    for name, make in (
        ("weights", lambda path: path.mkdir()),
        ("link.zip", lambda path: path.symlink_to(folder)),
        (".DS_Store", lambda path: path.write_bytes(b"x")),
        ("notes.txt", lambda path: path.write_text("x")),
    ):
        make(folder / name)
        with pytest.raises(InputError, match=f"{name} does not belong to the dataset; remove it"):
            check(folder)
        (folder / name).rmdir() if name == "weights" else (folder / name).unlink()
    check(folder)


def test_the_package_dataset_is_the_source_and_nothing_else(tmp_path: Path) -> None:
    """Every module, no caches, the same bytes twice, and no upload when nothing changed."""
    first = build_package(tmp_path / "1", "someone")
    second = build_package(tmp_path / "2", "someone")
    archives = [built.folder / "lumbar_kaggle.zip" for built in (first, second)]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    before = archives[0].stat().st_mtime_ns
    build_package(tmp_path / "1", "someone")
    # The client resumes an upload by path, size and time of change.
    assert archives[0].stat().st_mtime_ns == before
    modules = {path.relative_to(PACKAGE_FOLDER).as_posix() for path in PACKAGE_FOLDER.rglob("*.py")}
    names = set(package_files())
    assert modules <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert {"pages/templates/report.html", "phantom/latent_factor.csv"} <= names
    manifest = json.loads((first.folder / "lumbar-kaggle.json").read_text())
    assert manifest["fingerprint"] == first.fingerprint == package_fingerprint()
    assert manifest["files"] == package_files()


def test_secrets_and_strays_in_the_source_tree_do_not_go_up(tmp_path: Path) -> None:
    """A key in a module stops everything; caches, links and hidden files are passed over."""
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.py").write_text("x")
    (tmp_path / ".hidden.py").write_text("x")
    (tmp_path / "kaggle.json").write_text('{"key": "' + "0" * 32 + '"}')
    (tmp_path / "module.py").write_text('"""A module."""\n')
    (tmp_path / "link.py").symlink_to(tmp_path / "module.py")
    assert list(package_files(tmp_path)) == ["module.py"]
    (tmp_path / "module.py").write_text('KEY = {"key": "' + "0" * 32 + '"}\n')
    with pytest.raises(InputError, match=r"module\.py: holds a Kaggle credential"):
        package_files(tmp_path)


def test_the_models_dataset_keeps_what_earlier_calls_put_there(tmp_path: Path) -> None:
    """A version is sent whole: weights stay when a bundle comes, and a bundle is replaced by the next."""
    from safetensors.torch import load_file, save_file

    from lumbar_kaggle.training.library_models import body_state, build_body

    assert build_models(tmp_path, "someone") is None
    arch = "mobilenetv3_small_050"
    state = {name: value.contiguous() for name, value in body_state(build_body(arch, 3), arch).items()}
    save_file(state, tmp_path / "weights.safetensors")
    weights = f"{arch}={tmp_path / 'weights.safetensors'}"
    first = build_models(tmp_path, "someone", pretrained=[weights])
    assert first
    assert list(first.files) == ["lumbar-models.json", f"pretrained-{arch}.safetensors"]
    written = load_file(first.folder / f"pretrained-{arch}.safetensors")
    assert all(bool((written[name] == value).all()) for name, value in state.items())
    fingerprints = []
    for content in (b"one", b"two"):
        small_bundle(tmp_path / "bundle", content)
        built = build_models(tmp_path, "someone", bundle=tmp_path / "bundle")
        assert built
        assert list(built.files)[1:] == [f"pretrained-{arch}.safetensors", "bundle-baseline.zip"]
        check(built.folder)
        fingerprints.append(built.fingerprint)
    assert len({first.fingerprint, *fingerprints}) == 3
    (tmp_path / "bundle" / "weights" / "a-fold-0.safetensors").write_bytes(b"changed")
    with pytest.raises(InputError, match="its SHA-256 is not the manifest's"):
        build_models(tmp_path, "someone", bundle=tmp_path / "bundle")


def test_inference_is_pushed_with_the_bundle_that_was_put_in_last(tmp_path: Path) -> None:
    """The bundles of both recipes lie side by side; which one counts is the last call's choice."""
    fingerprints = {}
    for recipe in ("baseline", "two-stage", "baseline"):
        fingerprints[recipe] = small_bundle(tmp_path / recipe, recipe=recipe).fingerprint
        built = build_models(tmp_path, "someone", bundle=tmp_path / recipe)
        assert built_bundle(tmp_path) == fingerprints[recipe]
    assert built
    assert list(built.files)[1:] == ["bundle-baseline.zip", "bundle-two-stage.zip"]
    assert len(set(fingerprints.values())) == 2


@pytest.mark.parametrize("action", ["datasets", "kernels", "status", "output", "submit", "notebooks"])
def test_each_action_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option is explained, and the page on Kaggle shows the action."""
    with pytest.raises(SystemExit) as stop:
        main(["ship", action, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: lumbar ship {action}")
    assert f"lumbar ship {action}" in (ROOT / "docs/kaggle.md").read_text(encoding="utf-8")


def test_notebooks_are_in_step_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """`lumbar ship notebooks` changes nothing in a repository that is in step."""
    assert main(["ship", "notebooks"]) == 0
    assert "every notebook is in step" in capsys.readouterr().out


@pytest.mark.parametrize("owner", ["OWNER", "some one", "a/b", ""])
def test_an_owner_that_cannot_be_one_is_refused(owner: str) -> None:
    """Before anything is built."""
    with pytest.raises(InputError, match="give your user name"):
        Ship(owner)


def test_the_state_belongs_to_one_account(tmp_path: Path) -> None:
    """Another account's is refused; what is missing says what to run."""
    state = State("someone", kernels={"preprocess": Sent("c", "lumbar-preprocess", 1)})
    write_json(tmp_path / "state.json", asdict(state))
    assert Ship("SomeOne", tmp_path).sent_kernels() == state.kernels
    with pytest.raises(InputError, match="was sent to someone, not other; choose another --out"):
        Ship("other", tmp_path).sent_kernels()
    with pytest.raises(InputError, match="kernel inference has not been pushed; run lumbar ship kernels"):
        Ship("someone", tmp_path).sent_kernels(["inference"])


def test_a_kernels_address_is_the_one_that_kaggle_gave() -> None:
    """A source is spelled with the slug of the server's answer."""
    metadata = chosen("train-baseline").metadata("someone", slugs={"preprocess": "other-slug"})
    assert metadata["kernel_sources"] == ["someone/other-slug"]
