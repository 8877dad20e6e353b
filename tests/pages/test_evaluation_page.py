"""The page of an evaluation: the numbers of the JSON, pictures where the level is, readable by everyone."""

import base64
import html
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from lumbar_kaggle.cli import main
from lumbar_kaggle.core.targets import SEVERITIES, TARGET_NAMES
from lumbar_kaggle.dicom.examination import every_split
from lumbar_kaggle.inference.bundle import Bundle
from lumbar_kaggle.pages.charts import calibration_curves, interval_dots
from lumbar_kaggle.pages.failures import Pictures
from lumbar_kaggle.pages.render import fixed, signed
from lumbar_kaggle.tables.competition import submission_rows
from tests.support.browser import watched_page
from tests.support.evaluation_worlds import FIRST, few_resamples, make_tables, write_marked_study

MARKED = "left_neural_foraminal_narrowing_l3_l4"


quick = few_resamples(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 40 studies, one of which has pictures in ``rsna``, and there two errors that are the surest."""
    folder = tmp_path_factory.mktemp("evaluation-page")
    truth, mine = make_tables(40, 3, noise=0.7)
    _, other = make_tables(40, 3, noise=1.1)
    study = str(FIRST)
    for name in (MARKED, "left_subarticular_stenosis_l1_l2"):
        truth.loc[0, name] = "Severe"
        row = mine["row_id"] == f"{study}_{name}"
        mine.loc[row, list(SEVERITIES)] = [0.9999, 0.00006, 0.00004]
    groups = truth[["study_id"]].assign(site=["<b>Ä</b>", "B"] * 20)
    for name, table in {"truth": truth, "mine": mine, "other": other, "groups": groups}.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    write_marked_study(folder / "rsna", study, truth.astype({"study_id": str}), marked=MARKED)
    return folder


def evaluate(folder: Path, out: str, *words: str) -> str:
    """Run the verb on the files of a folder; return what it has written."""
    command = ["evaluate", str(folder / "mine.csv"), "--truth", str(folder / "truth.csv"), "--out", str(folder / out)]
    assert main([*command, *words]) == 0
    return (folder / out).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    """Two files, groups, pictures."""
    words = ["--against", "other.csv", "--groups", "groups.csv", "--folder", "rsna"]
    return evaluate(folder, "page.html", *(word if word[0] == "-" else str(folder / word) for word in words))


def table_rows(page: str, identifier: str) -> dict[str, list[str]]:
    """The cells of a table's lines by their first words, each as text with single spaces."""
    table = re.search(rf'id="{identifier}">.*?</table>', page, re.DOTALL)
    assert table
    found = {}
    for line in re.findall(r"<tr.*?</tr>", table[0], re.DOTALL):
        cells = [" ".join(re.sub(r"<.*?>", " ", cell).split()) for cell in re.split(r"<t[dh][ >]", line)[1:]]
        found[cells[0].split(">")[-1].strip()] = [cell.split(">", 1)[-1].strip() for cell in cells[1:]]
    return found


def test_the_page_has_the_numbers_of_the_json(folder: Path, page: str) -> None:
    """Values, intervals and differences of the overview, and the score."""
    made = json.loads(evaluate(folder, "made.json", "--against", str(folder / "other.csv")))
    agreements = table_rows(page, "agreements")
    names = ("loss", "kappa_quadratic", "kappa_linear", "accuracy", "precision_macro", "precision_weighted")
    for line, scope in {"All": "all", "Right side": "right", "L5/S1": "l5_s1"}.items():
        part, cells = made["scopes"][scope], agreements[line]
        assert cells[0] == fixed(part["rows"], 0)
        for name, cell in zip(names, cells[1:], strict=False):
            one, other, apart = (part[key][name] for key in ("figures", "against", "difference"))
            told = f"{fixed(one['value'])} {fixed(one['low'])} to {fixed(one['high'])} other {fixed(other['value'])}"
            told += f" {signed(apart['value'])} {signed(apart['low'])} to {signed(apart['high'])}"
            assert cell.replace("−", "-") == told.replace("−", "-")
    total = made["score"]["figures"]["total"]
    assert table_rows(page, "score")["total"][0] == fixed(total["value"], 4)
    groups = table_rows(page, "group-5")
    assert groups["B"][0] == "20"
    assert "&lt;b&gt;Ä&lt;/b&gt;" in groups
    assert "<b>Ä</b>" not in page
    points = table_rows(page, "points-severe")["All"]
    assert points[1] == fixed(made["scopes"]["all"]["thresholds"]["severe"]["youden"])
    assert table_rows(page, "target-figures")["Spinal Canal Stenosis L1/L2"][3] == "too few"


def test_groups_come_from_the_headers_too(page: str) -> None:
    """Of the one study that has pictures; the others are said to be in no group."""
    assert re.findall(r"<h3>(Manufacturer|Field strength|Sex|Age|Site)</h3>", page) == [
        *("Manufacturer", "Field strength", "Sex", "Age", "Site")
    ]
    for number, group in enumerate(("Siemens", "3 T", "female", "60 to below 80"), start=1):
        assert table_rows(page, f"group-{number}")[group][1] == "too few: 1 study where 10 are needed"
    assert page.count("39 of 40 studies are in no group") == 4


def test_failures_are_shown_where_their_level_is(folder: Path, page: str) -> None:
    """At the annotated point, or else the middle slice; where there is no picture the page says why."""
    figures = re.findall(r"<figure class=\"card\">\s*<svg.*?</figure>", page.partition('id="failures"')[2], re.DOTALL)
    annotated = next(one for one in figures if "at the annotated point" in one)
    assert "Sagittal T1, instance 4, at the annotated point" in annotated
    assert "Left Neural Foraminal Narrowing L3/L4" in annotated
    x, y = (float(value) for value in re.findall(r'c[xy]="([\d.]+)"', annotated))
    picture = decoded(annotated)
    bright = np.argwhere(picture > 200)
    # Two rows of the slice are as high as four of its columns are wide.
    assert np.abs(bright.mean(axis=0) - [y, x]).max() < 2
    assert picture[0, 0] < 100
    middle = next(one for one in figures if "Left Subarticular Stenosis L1/L2" in one)
    assert "Axial T2, instance 3, the middle slice of its series: the level is not marked" in middle
    assert "<circle" not in middle
    assert decoded(middle).mean() > 200
    assert re.findall(r'<text class="over".*?>(.)<', annotated) == ["A", "P"]
    assert re.findall(r'<text class="over".*?>(.)<', middle) == ["R", "L"]
    assert page.count("No picture: the folder holds no such study") == 20 - len(figures)


def decoded(markup: str) -> np.ndarray:
    """The JPEG picture in a piece of the page."""
    found = re.search(r"base64,([^\"]+)", markup)
    assert found
    return cv2.imdecode(np.frombuffer(base64.b64decode(html.unescape(found[1])), np.uint8), cv2.IMREAD_GRAYSCALE)


def test_a_bundle_finds_places_that_are_not_annotated(two_stage: Path) -> None:
    """Of a test study, with the series that the target is graded on."""
    pictures = Pictures(every_split(two_stage / "competition"), Bundle(two_stage / "bundle"))
    study = pictures.competitions[1].studies[0]
    found = [pictures.of(study, name) for name in TARGET_NAMES]
    located = [one for one in found if one.get("source") == "at the located point"]
    assert len(located) > 10
    off = [abs(one["point"][0] - one["width"] / 2) for one in located]
    # A locator of five epochs loses one now and then.
    assert np.median(off) < 5
    assert np.mean(np.array(off) < 30) > 0.8
    without = Pictures(pictures.competitions).of(study, TARGET_NAMES[0])
    assert without["point"] is None
    assert without["source"].startswith("the middle slice")


def test_the_page_is_the_same_again_and_stands_alone(folder: Path, page: str) -> None:
    """The same bytes, nothing from elsewhere; one file alone makes a page, too."""
    words = ["--against", "other.csv", "--groups", "groups.csv", "--folder", "rsna"]
    again = evaluate(folder, "again.html", *(word if word[0] == "-" else str(folder / word) for word in words))
    assert again == page
    alone = evaluate(folder, "alone.html")
    for text in (page, alone):
        assert not re.search(r'(src|href)="(?!data:)', text)
        assert not re.search(r"\b(nan|None|inf)\b", re.sub(r"base64,[^\"]*", "", text))
    assert "Other predictions" in page
    assert "Other predictions" not in alone
    assert "With <code>--folder</code> each is shown with its picture" in alone


def test_the_page_reads_well_in_a_browser(browser: Browser, folder: Path, page: str) -> None:
    """Nothing wider than a phone's window, no serious finding of axe-core, the keyboard alone opens and scrolls."""
    with watched_page(browser, width=360, dark=True) as tab:
        tab.goto((folder / "page.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        found = Axe().run(tab).response["violations"]
        assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
        tab.locator("summary").first.focus()
        tab.keyboard.press("Enter")
        assert tab.locator("details .confusion").first.is_visible()
        tab.locator(".scroll:has(#agreements)").focus()
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function("document.activeElement.scrollLeft > 0")
        # Over a picture letters are white, and a ring hides nothing of what it is around.
        fills = [
            tab.locator(f".sheet .{name}").first.evaluate("e => getComputedStyle(e).fill") for name in ("over", "ring")
        ]
        assert fills == ["rgb(255, 255, 255)", "none"]


def test_one_study_makes_a_page_without_figures(folder: Path, tmp_path: Path) -> None:
    """Counts and the reasons, in place of numbers that say nothing."""
    truth = pd.read_csv(folder / "truth.csv").iloc[:1]
    truth.to_csv(tmp_path / "truth.csv", index=False)
    rows = submission_rows([str(FIRST)])[["row_id"]].assign(normal_mild=0.5, moderate=0.3, severe=0.2)
    rows.to_csv(tmp_path / "mine.csv", index=False)
    text = evaluate(tmp_path, "page.html")
    assert "too few: 1 study where 10 are needed" in text
    assert table_rows(text, "agreements")["All"] == ["25", "too few: 1 study where 10 are needed"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "page.pdf"], "page.pdf: an evaluation is written as .html or .json; name such a file"),
        (["--bundle", "bundle"], "--bundle finds the places of failures in the pictures; give these with --folder too"),
        (["--folder", "nowhere"], "nowhere: no such folder; give a competition folder or a folder of studies"),
        (["--groups", "nothing.csv"], "nothing.csv: no such file"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    words: list[str], sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And exit code 2."""
    assert main(["evaluate", str(folder / "mine.csv"), "--truth", str(folder / "truth.csv"), *words]) == 2
    assert sentence in capsys.readouterr().err


def test_charts_draw_what_is_there() -> None:
    """A disc for each value, a ring for that of another file, words where there is none."""
    none = {"value": None, "low": None, "high": None, "reason": "too few: 1"}
    some = {"value": 0.75, "low": 0.5, "high": 0.9}
    chart = interval_dots([("One", [some, some]), ("Two", [none, none])], "AUROC", 0.5)
    assert chart.count("One: 0.750 (0.500 to 0.900)") == 2
    assert chart.count("too few") == 1
    assert not re.search(r'="[^"]*\b(nan|inf)\b', chart)
    points = [{"predicted": 0.25, "observed": some, "rows": 1200}]
    assert "said 0.25, seen 0.75 of 1,200" in calibration_curves([points, []], "Calibration")
