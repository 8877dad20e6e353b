"""The work list in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from lumbar_kaggle.inference import predict as inference
from tests.inference.test_resuming_predictions import write_tables
from tests.serve.test_watching import write_study
from tests.support.browser import watched_page
from tests.support.serving import ByName, Served, serving
from tests.support.waiting import until

STUDIES, GRADED = 2000, 300
expect.set_options(timeout=30_000)  # the machine may be busy; what holds at once is not waited for


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of 2,000 studies, those of a competition's tables without their pictures, of which some are graded."""
    place = tmp_path_factory.mktemp("many")
    predictor = ByName(needs_series=False, rests_after=GRADED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference.os, "fsync", lambda _: None)
        folder = write_tables(place / "in", STUDIES)
        (folder / "test_images").mkdir()
        with serving(folder, place / "state", predictor) as served:
            until(lambda: list(served.statuses().values()).count("graded") == GRADED)
            until(lambda: sum(bool(row.name) for row in served.worklist.rows()) == STUDIES)  # all are read
            yield served
            predictor.rests_after = STUDIES + 1
            predictor.rested.set()


def names(page: Page) -> list[str]:
    """The studies in the order in which they are shown."""
    return page.locator("#list tbody th").all_text_contents()


def assert_accessible(page: Page) -> None:
    """No serious finding by axe-core."""
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_two_thousand_studies_are_sorted_and_filtered(many: Served, browser: Browser) -> None:
    """Every column sorts both ways, filters leave what they say, and the address keeps both."""
    with watched_page(browser) as page:
        page.goto(many.address)
        expect(page.locator("#count")).to_have_text("2000 of 2000 studies shown")
        expect(page.locator("#progress span")).to_contain_text("300 of 2000 studies graded, 1700 waiting")
        listed = pd.DataFrame([facts | facts["worst"] for facts in many.worklist.news()["studies"]])
        assert names(page) == sorted(listed["study"], key=int)
        for key in ("study", "status", "right_subarticular_stenosis", "changed"):
            page.locator(f"button[data-key={key}]").click()
            assert page.locator("th[aria-sort]").count() == 1
        page.locator("button[data-key=left_subarticular_stenosis]").click()
        grades = page.locator("#list tbody td:nth-child(6) b").all_text_contents()
        counts = listed["left_subarticular_stenosis"].dropna().map(lambda one: one["severity"]).value_counts()
        assert counts.sum() == GRADED
        words = (
            ["Severe"] * counts["severe"] + ["Moderate"] * counts["moderate"] + ["Normal/Mild"] * counts["normal_mild"]
        )
        assert grades == words
        page.get_by_label("Worst grade").select_option("severe")
        expect(page.locator("#count")).to_have_text(f"{counts['severe']} of 2000 studies shown")
        page.get_by_label("Study", exact=True).fill("20")
        shown = names(page)
        assert shown
        assert all("20" in name for name in shown)
        page.reload()
        expect(page.locator("#list tbody tr")).to_have_count(len(shown))
        assert names(page) == shown
        page.get_by_role("button", name="Show all").click()
        expect(page.locator("#list tbody tr")).to_have_count(STUDIES)


def test_the_list_of_two_thousand_is_sent_once(many: Served) -> None:
    """A first answer has all of it, one without news a few bytes."""
    status, _, text = many.get("/studies.json")
    assert status == 200
    assert text.count('"study"') == STUDIES
    cursor = many.worklist.news()["cursor"]
    assert len(many.get(f"/studies.json?since={cursor}")[2]) < 300
    assert many.get("/studies.csv")[2].count("\n") == STUDIES + 1
    assert many.get("/submission.csv")[2].count("\n") == 25 * STUDIES + 1


@pytest.fixture
def arriving(tiny_set: Path, tmp_path: Path) -> Iterator[tuple[Served, Path, list[Path]]]:
    """A server of one study of the phantom and a damaged one, its folder, and studies that have not arrived."""
    first, *others = sorted((tiny_set / "test_images").iterdir())
    folder = tmp_path / "in"
    shutil.copytree(first, folder / first.name)
    (folder / "<i>odd").mkdir()
    (folder / "<i>odd" / "1.dcm").write_bytes(b"no image")
    with serving(folder, tmp_path / "state", ByName()) as served:
        until(lambda: sorted(served.statuses().values()) == ["failed", "graded"])
        yield served, folder, others


def test_a_study_arrives_and_is_read(arriving: tuple[Served, Path, list[Path]], browser: Browser) -> None:
    """It appears by itself; the keyboard alone leads to its page, and back to the list as it was."""
    served, folder, (other, *_) = arriving
    with watched_page(browser) as page:
        page.goto(f"{served.address}#sort=-study")
        expect(page.locator("#list tbody tr")).to_have_count(2)
        expect(page.locator(".failed")).to_contain_text("nobody thought of this")
        assert_accessible(page)
        shutil.copytree(other, folder / other.name)
        until(lambda: served.statuses().get(other.name) == "graded")
        expect(page.locator("#list tbody tr")).to_have_count(3)
        expect(page.locator("#said")).to_have_text("Nothing is left to grade.")
        before = names(page)
        page.locator("#list tbody a").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_url("**/study?id=*")
        assert before[1] in page.title()
        assert "Spinal Canal Stenosis" in page.inner_text("body")
        assert page.evaluate("() => window.origin") == "null"
        page.go_back()
        expect(page.locator("#list tbody tr")).to_have_count(3)
        assert names(page) == before


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_it_can_be_read_anywhere(
    arriving: tuple[Served, Path, list[Path]], browser: Browser, width: int, dark: bool
) -> None:
    """On a phone and in the dark nothing is cut off, and nothing is too pale."""
    with watched_page(browser, width, dark=dark) as page:
        page.goto(arriving[0].address)
        expect(page.locator("#list tbody tr")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert_accessible(page)


def test_a_token_goes_out_of_sight(tmp_path: Path, browser: Browser) -> None:
    """The address that is opened has it; then the cookie does."""
    write_study(tmp_path / "in", "p1")
    token = "abcdefghijklmnop"
    with serving(tmp_path / "in", tmp_path / "state", ByName(), token=token) as served, watched_page(browser) as page:
        page.goto(f"{served.address}?token={token}")
        expect(page.locator("#list tbody tr")).to_have_count(1)
        assert "token" not in page.url
        until(lambda: served.statuses() == {"p1": "graded"})
        with page.expect_download() as download:
            page.get_by_role("link", name="submission.csv").click()
        assert "p1_" in Path(download.value.path()).read_text()
