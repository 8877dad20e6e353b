"""The pages: what must be on them, that they stand alone, and that odd inputs do not break them."""

import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser

from lumbar_kaggle.baseline.recipe import BaselineConfig
from lumbar_kaggle.baseline.report import compare, truth_of
from lumbar_kaggle.baseline.run import Run
from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.files import write_csv, write_json
from lumbar_kaggle.core.targets import CONDITIONS, LEVELS, SEVERITIES, TARGET_NAMES, row_id, target
from lumbar_kaggle.inference.bundle import write_manifest
from lumbar_kaggle.pages.charts import accuracy_scatter, bar_rows, loss_curves, paired_dots
from lumbar_kaggle.pages.render import fixed, percent, rate, target_words, write_report
from lumbar_kaggle.pages.study import write_study_page
from lumbar_kaggle.scoring.metric import confusion, score, weighted_prior
from tests.support.browser import watched_page
from tests.support.dicom_files import write_sagittal

CANAL = tuple(name for name in TARGET_NAMES if target(name).score_group == "spinal")


def write_run(
    run: Path,
    targets: tuple[str, ...] = TARGET_NAMES,
    *,
    protocol: str = "honest",
    folds: int = 3,
    studies: int = 40,
    study: str = "study_{}",
    seed: int = 0,
) -> Path:
    """Write a run folder as `baseline.run.fit` does, with drawn numbers."""
    random = np.random.default_rng(seed)
    config = BaselineConfig(targets=targets, protocol=protocol, folds=folds, arch="resnet18", weights="none")
    write_json(run / "config.json", asdict(config))
    parts = []
    for name in targets:
        frame = _write_target(run / "targets" / name, name, config, studies, study, random)
        parts.append(frame)
    rows = pd.concat(parts, ignore_index=True)
    truth = pd.DataFrame({"row_id": rows["row_id"], "severity": rows["truth"]})
    truth["study_id"] = [row.removesuffix(f"_{name}") for row, name in zip(rows["row_id"], rows["target"], strict=True)]
    truth["target"] = rows["target"]
    write_csv(run / "prior.csv", weighted_prior(truth, smoothing=0.5).reset_index())
    if protocol == "honest":
        write_csv(run / "oof.csv", rows[["row_id", "fold", *SEVERITIES]])
        write_json(run / "calibration.json", {"spinal": {"strength": 0.5, "mix": 0.1}})
    write_csv(run / "summary.csv", Run(run).summary)
    return run


def _write_target(
    folder: Path, name: str, config: BaselineConfig, studies: int, study: str, random: np.random.Generator
) -> pd.DataFrame:
    level = LEVELS.index(target(name).level)
    shares = np.array([0.9, 0.07, 0.03]) if level == 0 else np.array([0.62, 0.26, 0.12])
    severity = random.choice(3, studies, p=shares)
    severity[:2] = 0, 1
    if config.protocol == "report":
        # Equal numbers of each severity by copying, then dealt out at random.
        most = np.bincount(severity, minlength=3).max()
        picked = np.concatenate([np.resize(np.flatnonzero(severity == k), most) for k in np.unique(severity)])
        fold_of = random.permutation(np.arange(len(picked)) % config.folds)
        skill = 3.0
    else:
        picked, fold_of, skill = np.arange(studies), np.arange(studies) % config.folds, 1.2
    stage = "short" if level == 0 else "long"
    records, frames = [], []
    for fold in range(config.folds):
        rows = picked[fold_of == fold]
        logits = random.normal(size=(len(rows), 3)) + skill * np.eye(3)[severity[rows]]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        frame = pd.DataFrame({"row_id": [row_id(study.format(row), name) for row in rows], "fold": fold})
        frame["truth"] = severity[rows]
        frame[list(SEVERITIES)] = probabilities
        planned = config.short_epochs if stage == "short" else config.long_epochs
        records.append(_write_fold(folder / stage / f"fold-{fold}", frame, planned, stage, random))
        frames.append(frame.assign(target=name))
    valley = None if name == TARGET_NAMES[0] else float(10 ** random.uniform(-3.5, -2))
    rates = {"minimum": 1e-3, "steep": 2e-3, "valley": valley, "slide": 1e-2, "used": valley or 1e-3}
    result = {"target": name, "stage": stage, "short_accuracy": 0.8, "lr": rates, "folds": records}
    write_json(folder / "target.json", result)
    return pd.concat(frames, ignore_index=True)


def _write_fold(
    folder: Path, frame: pd.DataFrame, planned: int, stage: str, random: np.random.Generator
) -> dict[str, object]:
    epochs = int(random.integers(min(planned, 4), planned + 1))
    steps = np.arange(1, epochs + 1)
    history = pd.DataFrame({"epoch": steps, "train_loss": 1.4 * np.exp(-0.25 * steps)})
    history["valid_loss"] = 0.75 + 0.5 * np.exp(-0.8 * steps) + 0.02 * steps + random.normal(0, 0.03, epochs)
    right = float((frame[list(SEVERITIES)].to_numpy().argmax(axis=1) == frame["truth"]).mean())
    history["accuracy"] = np.clip(right + random.normal(0, 0.02, epochs), 0, 1)
    write_csv(folder / "history.csv", history)
    write_csv(folder / "predictions.csv", frame)
    return {
        "fold": int(frame["fold"].iloc[0]),
        "accuracy": right,
        "latest_accuracy": float(history["accuracy"].iloc[-1]),
        "best_accuracy": float(history["accuracy"].max()),
        "best_epoch": int(history["valid_loss"].to_numpy().argmin()) + 1,
        "epochs_run": epochs,
        "training_rows": 3 * len(frame),
        "validation_rows": len(frame),
        "severities_seen": [0, 1, 2],
        "stage": stage,
        "epochs_planned": planned,
        "pretrained": False,
        "lr": 1e-3,
        "seed": 1,
        "seconds_per_epoch": float(random.uniform(9, 19)),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def report_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report"), CANAL, protocol="report")


@pytest.fixture(scope="module")
def page(run: Path, report_run: Path) -> str:
    return write_report(run, run / "page.html", against=report_run, score_text="part <total> 0.5").read_text()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for two canal targets."""
    import safetensors.torch
    import torch

    from lumbar_kaggle.training.library_models import build_network

    folder = tmp_path_factory.mktemp("bundle")
    arch, names, folds = "mobilenetv3_small_100", list(CANAL[:2]), {}
    (folder / "weights").mkdir()
    for index, name in enumerate(names):
        torch.manual_seed(index)
        state = {key: value.contiguous() for key, value in build_network(arch).model.state_dict().items()}
        safetensors.torch.save_file(state, folder / "weights" / f"{name}.safetensors")
        folds[name] = [{"file": f"weights/{name}.safetensors", "severities_seen": [0, 1, 2]}]
    empty = pd.DataFrame({"target": [], "severity": []})
    trust = {"strength": 1.0, "mix": 0.1}
    write_manifest(
        folder,
        recipe="baseline",
        config={},
        targets=names,
        contract={"image_size": 64},
        prior=weighted_prior(empty),
        metrics={},
        weights=[entry["file"] for entries in folds.values() for entry in entries],
        models={"arch": arch, "folds": folds, "calibration": {"spinal": trust}},
    )
    return folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good study, and one whose only series is a sagittal T2."""
    folder = tmp_path_factory.mktemp("studies")
    tags = {"spacing": (2.0, 2.0), "shape": (48, 40)}
    write_sagittal(folder / "good" / "t1", SeriesDescription="Sagittal T1", **tags)
    write_sagittal(folder / "no_t1" / "t2", SeriesDescription="Sagittal T2", **tags)
    return folder


class Tables(HTMLParser):
    """Collects the cells' text of every table that has an id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.rows = self.tables.setdefault(str(dict(attributes).get("id")), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def assert_stands_alone(page: str) -> None:
    assert "http:" not in page
    assert "https:" not in page
    assert re.search(r"<script[^>]*\bsrc", page) is None
    assert "@import" not in page
    assert "url(" not in page
    sources = re.findall(r'(?:src|href|srcset|data)="([^"]*)"', page)
    assert all(source.startswith("data:") for source in sources)
    assert page.count("<section") == page.count("</section>")
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", page))


def test_report_has_every_section_and_stands_alone(page: str) -> None:
    assert_stands_alone(page)
    sections = re.findall(r'<section id="([^"]+)"', page)
    assert sections == ["run", "table", "protocols", "overview", "targets", "heat-maps"]
    for words in ("Not a medical device", "Training size", "Seconds per epoch", "Latest against best accuracy"):
        assert words in page
    assert page.count('aria-label="Losses of ') == page.count('aria-label="Confusion matrix of ') == 25
    assert len(page.encode()) < 3_000_000


def test_report_table_is_the_summary(run: Path, page: str) -> None:
    rows = Tables(page).tables["summary"]
    assert rows[0] == [
        *("Label", "Latest accuracy", "Max accuracy", "Average training time per epoch (s)", "Optimal epochs"),
        *("Training size", "Convergence rate", "Description", "Suggested learning rate"),
    ]
    summary = pd.read_csv(run / "summary.csv")
    assert [row[0] for row in rows[1:-1]] == list(summary["label"])
    for row, expected in zip(rows[1:-1], summary.to_dict("records"), strict=True):
        assert row[1:] == [
            fixed(expected["latest_accuracy"]),
            fixed(expected["max_accuracy"]),
            fixed(expected["seconds_per_epoch"], 1),
            str(expected["optimal_epochs"]),
            fixed(expected["training_size"], 0),
            expected["convergence_rate"],
            expected["description"],
            rate(expected["suggested_lr"]),
        ]
    means = summary.mean(numeric_only=True)
    assert rows[-1][:3] == ["Average", fixed(means["latest_accuracy"]), fixed(means["max_accuracy"])]
    assert rows[-1][-1] == rate(means["suggested_lr"])


def test_report_shows_the_official_score(run: Path, page: str) -> None:
    truth = truth_of(Run(run))
    result = score(pd.read_csv(run / "oof.csv"), truth)
    assert result.total is not None
    assert fixed(result.total, 5) in page
    assert all(fixed(part, 5) in page for part in result.parts.values())
    assert "part &lt;total&gt; 0.5" in page


def test_report_compares_the_protocols(run: Path, report_run: Path, page: str) -> None:
    comparison = compare(Run(run), Run(report_run))
    rows = Tables(page).tables["comparison"]
    assert [row[0] for row in rows[2:]] == [*CANAL, "Average"]
    assert rows[2][1:3] == [fixed(value) for value in (comparison["rows"][0][key] for key in ("honest", "report"))]
    assert 0.5 < comparison["shared"] <= 1
    assert f"<b>{percent(comparison['shared']).replace('>', '&gt;')}</b>" in page
    assert "copies of one image are on both sides" in page
    assert comparison["differing"] == []


def test_same_run_gives_the_same_bytes(run: Path, page: str, report_run: Path, tmp_path: Path) -> None:
    again = write_report(run, tmp_path / "b.html", against=report_run, score_text="part <total> 0.5")
    assert again.read_text() == page


def test_partial_run_without_comparison(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", CANAL[1:4], folds=2, studies=12)
    (run / "targets" / CANAL[2] / "target.json").unlink()
    page = write_report(run, tmp_path / "page.html").read_text()
    assert_stands_alone(page)
    assert "targets still to be trained: 1" in page
    assert "--against" in page
    assert "The total needs rows" in page
    assert len(Tables(page).tables["summary"]) == 4


def test_report_protocol_run_alone_says_so(report_run: Path, tmp_path: Path) -> None:
    page = write_report(report_run, tmp_path / "page.html").read_text()
    assert "This run itself was trained by the report" in page
    assert "no out-of-fold predictions" in page


def test_bad_inputs_are_one_sentence(run: Path, report_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    with pytest.raises(InputError, match="holds no training run"):
        write_report(tmp_path, out)
    with pytest.raises(InputError, match="honest and honest"):
        write_report(run, out, against=run)
    with pytest.raises(InputError, match="give --bundle and --folder"):
        write_report(run, out, studies=["1"])
    write_json(tmp_path / "empty" / "config.json", asdict(BaselineConfig()))
    with pytest.raises(InputError, match="no target is finished"):
        write_report(tmp_path / "empty", out)
    other = write_run(tmp_path / "other", (TARGET_NAMES[-1],), folds=2, studies=8)
    with pytest.raises(InputError, match="no finished target in common"):
        write_report(other, out, against=report_run)
    broken = next(other.glob("targets/*/*/fold-0/history.csv"))
    broken.unlink()
    with pytest.raises(InputError, match=r"history\.csv: no such file"):
        write_report(other, out)
    assert not out.exists()


def test_heat_maps_of_chosen_studies(run: Path, bundle: Path, studies: Path, tmp_path: Path) -> None:
    hostile = "<script>alert(1)"
    write_sagittal(studies / hostile / "t1", SeriesDescription="Sagittal T1", slices=3)
    chosen = ["good", "no_t1", hostile]
    arguments = {"bundle": bundle, "folder": studies, "studies": chosen}
    first = write_report(run, tmp_path / "a.html", **arguments).read_text()
    assert_stands_alone(first)
    assert "&lt;script&gt;alert(1)" in first
    assert "No picture: no sagittal T1 series." in first
    assert first.count("data:image/jpeg") == 2 * (1 + 2)
    assert "The map explains the model and is not a diagnosis" in first.replace("\n", " ")
    assert write_report(run, tmp_path / "b.html", **arguments).read_text() == first
    with pytest.raises(InputError, match="holds no study 7"):
        write_report(run, tmp_path / "c.html", bundle=bundle, folder=studies, studies=["7"])


def test_study_page(bundle: Path, studies: Path, tmp_path: Path) -> None:
    page = write_study_page(studies, "good", bundle, tmp_path / "a.html").read_text()
    assert_stands_alone(page)
    grid = Tables(page).tables["grid"]
    assert [row[0] for row in grid[1:]] == ["L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1"]
    assert len(grid[0]) == 1 + len(CONDITIONS)
    assert all(word in grid[1][1] for word in ("Normal/Mild", "Moderate", "Severe", "%"))
    assert page.count('class="grade ') == 25
    assert page.count("<small>prior</small>") == 23
    assert page.count('"data:image/jpeg') == 1 + 2
    assert "Not a medical device" in page
    assert "slices of 48 × 40 px of 2.00 × 2.00 mm, 96 × 80 mm in all" in page
    assert page.count("<li>no readable ") == 2
    assert write_study_page(studies, "good", bundle, tmp_path / "b.html").read_text() == page


def test_a_hostile_name_stays_text(bundle: Path, studies: Path, browser: Browser, tmp_path: Path) -> None:
    """Of a study and of a series, in the markup and in the script's data."""
    study, series = "<script>document.title = 1", "<!--<script>'&"
    write_sagittal(studies / study / series, SeriesDescription="Sagittal T1", slices=3)
    url = write_study_page(studies, study, bundle, tmp_path / "a.html").as_uri()
    with watched_page(browser) as page:
        page.goto(url)
        page.locator("[data-drawn]").wait_for()
        assert page.title() == f"Study {study}"
        assert page.evaluate("JSON.parse(document.getElementById('data').textContent).series[0].id") == series


def test_a_grade_that_was_read_from_a_whole_slice(
    bundle: Path, studies: Path, browser: Browser, tmp_path: Path
) -> None:
    """The baseline's: the frame is the slice; a grade without a model goes nowhere and says so."""
    url = write_study_page(studies, "good", bundle, tmp_path / "a.html").as_uri()
    with watched_page(browser) as page:
        page.goto(url)
        page.locator("[data-drawn]").wait_for()
        page.locator(f'[data-target="{TARGET_NAMES.index(CANAL[0])}"]').click()
        assert re.search(r"graded from Sagittal T1, series t1, slice \d+ \(all of it\)", page.inner_text("#chosen"))
        side = page.locator(".view").bounding_box()["width"]
        corners = page.locator("polygon.frame").get_attribute("points").split()
        left, top, right, bottom = side / 12, 0, side * 11 / 12, side
        drawn = [list(map(float, corner.split(","))) for corner in corners]
        np.testing.assert_allclose(drawn, [[left, top], [right, top], [right, bottom], [left, bottom]], atol=0.5)
        page.locator('[data-target="24"]').click()
        assert "no slice was looked at" in page.inner_text("#chosen")
        assert page.locator("polygon.frame").count() == 0


def test_study_page_without_a_readable_series(bundle: Path, studies: Path, tmp_path: Path) -> None:
    page = write_study_page(studies, "no_t1", bundle, tmp_path / "a.html").read_text()
    assert_stands_alone(page)
    assert page.count("<small>prior</small>") == 25
    assert "could not be graded: no sagittal T1 series" in page
    assert page.count('"data:image') == 1  # of the series that the models do not look at
    with pytest.raises(InputError, match="holds no study"):
        write_study_page(studies, "unknown", bundle, tmp_path / "b.html")


def test_report_needs_no_torch() -> None:
    code = "import sys, lumbar_kaggle.pages.render, lumbar_kaggle.pages.study; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def drawn_losses() -> str:
    """A chart of two folds, of which one stopped early."""
    epochs = pd.DataFrame({"fold": [0, 0, 0, 1, 1], "epoch": [1, 2, 3, 1, 2]})
    return str(loss_curves(epochs.assign(train_loss=0.5, valid_loss=[0.9, 0.7, 0.8, 0.8, 0.6]), "<losses>"))


def test_charts_are_plain_markup_in_the_colours_of_the_page() -> None:
    """Text as text, the colours of the style sheet, and nothing that other parts of a page could meet."""
    chart = drawn_losses()
    assert chart.startswith('<svg viewBox="0 0 220 118" role="img" aria-label="&lt;losses&gt;">')
    assert "<title>epoch 2: 0.650</title>" in chart
    assert re.findall(r">([\d.]+)</text>", chart)
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", chart))
    assert colours == {"none", "var(--accent)", "var(--soft)", "var(--rule)", "var(--card)"}
    assert not re.search(r" id=|<defs|<style|url\(|href|http|<\?xml|font-family", chart)


def test_charts_are_the_same_in_another_process() -> None:
    code = "from tests.pages.test_pages import drawn_losses; print(drawn_losses())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == drawn_losses() + "\n"


def test_charts_survive_missing_numbers() -> None:
    missing = float("nan")
    unknown, half = pd.Series([missing] * 2, CANAL[:2]), pd.Series([missing, 0.5], CANAL[:2])
    nothing = pd.DataFrame({"fold": [0], "epoch": [1], "train_loss": missing, "valid_loss": missing})
    charts = [
        accuracy_scatter(half, half),
        accuracy_scatter(unknown, unknown),
        paired_dots(half, half / 2, "pairs"),
        paired_dots(unknown, unknown, "pairs"),
        loss_curves(nothing, "x"),
    ]
    assert not any(re.search(r'="[^"]*\b(nan|inf)\b', chart) for chart in charts)


@pytest.mark.parametrize(
    ("values", "marks", "shares", "strokes"),
    [
        ([4.0, 2.0], None, [1.0, 0.5], [None, None]),
        ([float("nan"), 2.0], [1.0, float("nan")], [None, 1.0], [0.5, None]),
        ([0.0, 0.0], None, [0.0, 0.0], [None, None]),
    ],
)
def test_bars_are_shares_of_the_greatest(
    values: list[float], marks: list[float] | None, shares: list[float], strokes: list[float]
) -> None:
    index = CANAL[:2]
    rows = bar_rows(pd.Series(values, index), marks=None if marks is None else pd.Series(marks, index))
    assert [row["share"] for row in rows] == shares
    assert [row["mark"] for row in rows] == strokes
    assert [row["level"] for row in rows] == list(LEVELS[:2])


def test_confusion_matrices_are_those_of_the_predictions(run: Path, page: str) -> None:
    """Counts and shares of the row, one row per true severity; a severity that does not occur has none."""
    name = TARGET_NAMES[0]
    rows = Run(run).predictions
    rows = rows[rows["target"] == name]
    matrix = confusion(rows[list(SEVERITIES)].to_numpy(), rows["truth"].to_numpy())
    assert matrix.sum() == 40
    table = re.search(rf'aria-label="Confusion matrix of {target_words(name)}">.*?</table>', page, re.DOTALL)
    assert table is not None
    cells = re.findall(r'<td style="--share:([\d.]+)"><b>(\d+)</b><br>(.+?)</td>', table[0])
    totals = np.repeat(matrix.sum(axis=1), 3)
    assert [int(count) for _, count, _ in cells] == matrix.ravel().tolist()
    shares = matrix.ravel() / np.maximum(totals, 1)
    np.testing.assert_allclose([float(share) for share, _, _ in cells], shares, atol=0.001)
    words = [percent(share if total else None) for share, total in zip(shares, totals, strict=True)]
    assert [text for _, _, text in cells] == [text.replace("<", "&lt;").replace(">", "&gt;") for text in words]


def test_a_damaged_table_of_a_run_is_named(report_run: Path, tmp_path: Path) -> None:
    """A table that was cut off is one sentence, whatever the page wants of it."""
    shutil.copytree(report_run, tmp_path / "run")
    table = next(tmp_path.glob("run/targets/*/*/fold-0/history.csv"))
    table.write_bytes(table.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"history\.csv: damaged \(its end is missing\); delete"):
        write_report(tmp_path / "run", tmp_path / "a.html")
