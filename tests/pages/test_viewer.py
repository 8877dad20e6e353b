"""The study page in a browser: scrolling, linked places, grades, keys, layers; nothing asked of the network."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from lumbar_kaggle.core.targets import TARGET_NAMES
from lumbar_kaggle.dicom.preprocess import windowed_stacks
from lumbar_kaggle.dicom.series import read_series
from lumbar_kaggle.dicom.studies import find_studies
from lumbar_kaggle.dicom.volume import Volume
from lumbar_kaggle.inference.base import ExplainedCrop, Explanation, study_rows
from lumbar_kaggle.inference.bundle import Bundle
from lumbar_kaggle.pages.render import target_words
from lumbar_kaggle.pages.study import write_study_page
from tests.support.browser import watched_page
from tests.support.dicom_files import rewrite

KINDS = ("sagittal_t1", "sagittal_t2", "axial_t2")
NAMES = ("Sagittal T1", "Sagittal T2/STIR", "Axial T2")


class Shown:
    """A study's page, what it is of, and what it says."""

    def __init__(self, folder: Path, bundle: Path, out: Path) -> None:
        graders, studies = Bundle(bundle), find_studies(folder)
        # One with a series of each kind.
        kinds = studies.series.groupby("study_id")["kind"].apply(sorted)
        self.study = study_rows(studies, next(name for name in studies.studies if kinds[name] == sorted(KINDS)))
        self.explanation: Explanation = graders.explain(self.study)
        self.url = write_study_page(folder, self.study.study_id, graders, out).as_uri()

    def volume(self, kind: str) -> Volume:
        """Return its only stack of a kind."""
        (row,) = self.study.series[self.study.series["kind"] == kind].to_dict("records")
        (stack,) = windowed_stacks(read_series(Path(row["folder"]), row["files"], kind))
        return stack


@pytest.fixture(scope="module")
def shown(two_stage: Path, tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(tiny_set, two_stage / "bundle", tmp_path_factory.mktemp("viewer") / "study.html")


@pytest.fixture
def page(shown: Shown, browser: Browser) -> Iterator[Page]:
    with watched_page(browser) as page:
        page.goto(shown.url)
        yield page


def view(page: Page, name: str) -> Locator:
    """Return the picture of a series, drawn."""
    found = page.get_by_role("application", name=name)
    found.and_(page.locator("[data-drawn]")).wait_for()
    return found


def slice_of(page: Page, name: str, expected: int | None = None) -> int:
    """Return the number, from 0, of the slice that a series shows, which may be waited for; it is drawn, and the slider
    and the words agree."""
    panel = page.locator(".panel").filter(has=page.get_by_role("application", name=name))
    if expected is not None:
        expect(panel.get_by_role("slider")).to_have_value(str(expected + 1))
    number = int(panel.get_by_role("slider").input_value())
    panel.locator(f'[data-drawn="{number}"]').wait_for()
    assert f"Slice {number} of " in panel.locator("output").inner_text()
    return number - 1


def to_view(volume: Volume, side: float, row: float, column: float) -> tuple[float, float]:
    """Return where a pixel's centre lies in a square view in which the whole slice is seen: x, y in px."""
    height, width = np.multiply(volume.shape, volume.spacing[0])
    down, across = np.array([height, width]) / max(height, width) * side / volume.shape
    x = side / 2 + (column - (volume.shape[1] - 1) / 2) * across
    return x, side / 2 + (row - (volume.shape[0] - 1) / 2) * down


def to_pixel(volume: Volume, side: float, x: float, y: float) -> tuple[float, float]:
    """Return row and column of a place in such a view."""
    first, second = to_view(volume, side, 0, 0), to_view(volume, side, 1, 1)
    return (y - first[1]) / (second[1] - first[1]), (x - first[0]) / (second[0] - first[0])


def test_every_series_is_scrolled_by_wheel_keys_slider_and_dragging(shown: Shown, page: Page) -> None:
    page.get_by_label("Parallel series together").uncheck()
    for kind, name in zip(KINDS, NAMES, strict=True):
        count, picture = len(shown.volume(kind)), view(page, name)
        start = slice_of(page, name)
        assert start == count // 2
        picture.hover()
        page.mouse.wheel(0, 100)
        assert slice_of(page, name, start + 1) == start + 1
        page.mouse.wheel(0, -100)
        assert slice_of(page, name, start) == start
        picture.focus()
        page.keyboard.press("ArrowUp")
        assert slice_of(page, name) == start - 1
        for key, expected in (("Home", 0), ("ArrowLeft", 0), ("PageDown", min(5, count - 1)), ("End", count - 1)):
            page.keyboard.press(key)
            assert slice_of(page, name) == expected
        page.get_by_role("slider", name=f"Slice of {name}").fill("2")
        assert slice_of(page, name) == 1
    page.get_by_label("Slices").check()
    picture.hover()
    page.mouse.down()
    page.mouse.move(*center(picture, dx=60), steps=4)
    page.mouse.up()
    expect(page.get_by_role("slider", name="Slice of Axial T2")).not_to_have_value("2")
    assert slice_of(page, "Axial T2") > 1


def center(picture: Locator, dx: float = 0, dy: float = 0) -> tuple[float, float]:
    """Return a place of the window, beside the middle of a picture."""
    box = picture.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy


@pytest.mark.parametrize("start", NAMES)
def test_a_click_takes_all_series_to_that_point_of_the_patient(shown: Shown, page: Page, start: str) -> None:
    """To the nearest slice, and within a pixel of the point's projection."""
    here, side = shown.volume(KINDS[NAMES.index(start)]), view(page, start).bounding_box()["width"]
    x, y = 0.5 * side + 21, 0.5 * side - 13
    view(page, start).click(position={"x": x, "y": y})
    row, column = to_pixel(here, side, x, y)
    point = here.to_patient(slice_of(page, start), row, column)
    for kind, name in zip(KINDS, NAMES, strict=True):
        volume, found = shown.volume(kind), view(page, name).locator("svg").get_attribute("data-cross")
        index = slice_of(page, name)
        assert name == start or index == int(volume.depth(point).argmin())
        row, column, _ = volume.to_slice(index, point)
        away = np.subtract(list(map(float, str(found).split())), to_view(volume, side, float(row), float(column)))
        assert np.abs(away).max() < 1


def test_moving_in_one_series_shows_where_it_cuts_the_others(shown: Shown, page: Page) -> None:
    """A line of the sagittal slice in the axial one, whose points lie on both; parallel series move along."""
    axial, sagittal = shown.volume("axial_t2"), shown.volume("sagittal_t1")
    view(page, "Sagittal T1").focus()
    for step in range(2):
        page.keyboard.press("ArrowDown")
        index, other = slice_of(page, "Sagittal T1"), slice_of(page, "Axial T2")
        assert index == len(sagittal) // 2 + 1 + step
        line = view(page, "Axial T2").locator("line.line")
        side = view(page, "Axial T2").bounding_box()["width"]
        for end in ("1", "2"):
            x, y = (float(line.get_attribute(axis + end) or "nan") for axis in "xy")
            point = axial.to_patient(other, *to_pixel(axial, side, x, y))
            assert abs(sagittal.to_slice(index, point)[2]) < 0.05
    t2 = shown.volume("sagittal_t2")
    middle = sagittal.to_patient(index, *(np.subtract(sagittal.shape, 1) / 2))
    assert slice_of(page, "Sagittal T2/STIR") == int(t2.depth(middle).argmin())
    page.get_by_label("Where the slice cuts").uncheck()
    assert line.count() == 0


def test_a_grade_goes_to_what_it_was_graded_from(shown: Shown, page: Page) -> None:
    """To the slice with the most attention, by mouse and by key; its frame lies around its point."""
    crops = [one for one in shown.explanation.crops if isinstance(one, ExplainedCrop)]
    for one in (crops[1], crops[-1]):
        button = page.locator(f'[data-target="{TARGET_NAMES.index(one.target)}"]')
        button.focus()
        page.keyboard.press("Enter")
        assert button.get_attribute("aria-pressed") == "true"
        kind = shown.study.series.set_index("series_id")["kind"][one.series_id]
        volume, name = shown.volume(kind), NAMES[KINDS.index(kind)]
        expected = np.linalg.norm(volume.positions - one.positions[np.argmax(one.attention)], axis=1).argmin()
        assert slice_of(page, name) == expected
        frame = view(page, name).locator("polygon.frame")
        side, corners = view(page, name).bounding_box()["width"], frame.get_attribute("points").split()
        rows, columns, _ = volume.to_slice(int(expected), one.corners)
        drawn = [to_view(volume, side, *place) for place in zip(rows, columns, strict=True)]
        np.testing.assert_allclose([list(map(float, corner.split(","))) for corner in corners], drawn, atol=1)
        assert f"{target_words(one.target)}: graded from {name}, " in page.locator("#chosen").inner_text()
        assert page.locator(".marks i").count() == len(one.attention)
        button.click()
        assert button.get_attribute("aria-pressed") == "false"


def test_layers_are_off_at_first(shown: Shown, page: Page) -> None:
    """And come with their sliders: rings on the located points, cells of heat for the grade that is chosen."""
    view(page, "Axial T2")
    over = page.locator(".ring, .frame, .heat, .line, .cross")
    assert over.count() == 0
    page.get_by_role("slider", name="Points").fill("50")
    assert page.locator(".ring").count() > 0
    heats = [one for one in shown.explanation.crops if isinstance(one, ExplainedCrop) and one.heat.any()]
    one = next(one for one in heats if one.heat[np.argmax(one.attention)].any())
    page.get_by_role("slider", name="Heat map of the chosen grade").fill("100")
    assert page.locator(".heat").count() == 0
    page.locator(f'[data-target="{TARGET_NAMES.index(one.target)}"]').click()
    cells = page.locator(".heat").first.locator("rect").count()
    assert cells == np.count_nonzero(np.rint(one.heat[np.argmax(one.attention)] * 255))


def grey(page: Page, name: str) -> np.ndarray:
    """Return the pixels ``[rows, columns]`` that a series shows."""
    # Of a copy: a canvas that is read twice makes Chromium write to the console.
    code = """view => { const canvas = view.querySelector("canvas"), {width, height} = canvas;
        const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
        copy.drawImage(canvas, 0, 0);
        return [height, width, [...copy.getImageData(0, 0, width, height).data].filter((_, k) => k % 4 === 0)] }"""
    height, width, values = view(page, name).evaluate(code)
    return np.reshape(values, (height, width)).astype(float)


def test_window_and_level_by_preset_drag_and_key(shown: Shown, page: Page) -> None:
    """The models' window shows what the models see, up to JPEG; wider ones are darker; the words tell intensities."""
    expected = shown.volume("sagittal_t1").images[slice_of(page, "Sagittal T1")].astype(float)
    assert np.abs(grey(page, "Sagittal T1") - expected).mean() < 6
    said = page.locator(".panel output").first
    low, high = shown.volume("sagittal_t1").window or (0, 0)

    def told() -> list[float]:
        return [float(number) for number in re.findall(r"window (\S+), level (\S+)", said.inner_text())[0]]

    assert told() == pytest.approx([high - low, (high + low) / 2], abs=0.51)
    page.get_by_role("button", name="Wide").click()
    assert told() == pytest.approx([1.5 * (high - low), low + 0.75 * (high - low)], abs=0.51)
    assert grey(page, "Sagittal T1").mean() < 0.8 * expected.mean()
    page.get_by_role("button", name="Reset all").click()
    picture = view(page, "Sagittal T1")
    for move in ("mouse", "keys"):
        before = told()
        if move == "mouse":
            picture.hover()
            page.mouse.down()
            page.mouse.move(*center(picture, dx=40, dy=-20), steps=3)
            page.mouse.up()
        else:
            picture.focus()
            page.keyboard.press("Shift+ArrowRight")
        assert told()[0] > before[0]
        assert slice_of(page, "Sagittal T1") == len(shown.volume("sagittal_t1")) // 2
    assert page.locator(".cross").count() == 0


def test_zoom_and_move_keep_the_places(shown: Shown, page: Page) -> None:
    """What lies below the mouse stays there; the scale bar grows; keys do the same."""
    picture, side = view(page, "Axial T2"), view(page, "Axial T2").bounding_box()["width"]
    volume, x, y = shown.volume("axial_t2"), side * 0.4, side * 0.55
    picture.hover(position={"x": x, "y": y})
    page.keyboard.down("Control")
    page.mouse.wheel(0, -150)
    page.keyboard.up("Control")
    picture.click(position={"x": x, "y": y})
    point = volume.to_patient(slice_of(page, "Axial T2"), *to_pixel(volume, side, x, y))
    sagittal = shown.volume("sagittal_t2")
    row, column, _ = sagittal.to_slice(slice_of(page, "Sagittal T2/STIR"), point)
    cross = view(page, "Sagittal T2/STIR").locator("svg").get_attribute("data-cross")
    away = np.subtract(list(map(float, str(cross).split())), to_view(sagittal, side, float(row), float(column)))
    assert np.abs(away).max() < 1
    width = float(re.findall("[0-9.]+", picture.locator("canvas").evaluate("node => node.style.width"))[0])
    assert width > 150
    picture.focus()
    page.keyboard.press("+")
    page.get_by_label("Move").check()
    picture.focus()
    before = picture.locator("canvas").evaluate("node => node.style.left")
    page.keyboard.press("Shift+ArrowRight")
    assert picture.locator("canvas").evaluate("node => node.style.left") != before
    page.keyboard.press("0")
    assert picture.locator("canvas").evaluate("node => node.style.width") == "100%"


def test_keys_alone_point_and_enlarge(page: Page) -> None:
    picture = view(page, "Sagittal T1")
    side = picture.bounding_box()["width"]
    picture.focus()
    page.keyboard.press("Enter")
    svg = view(page, "Sagittal T1").locator("svg")
    assert list(map(float, str(svg.get_attribute("data-cross")).split())) == pytest.approx([side / 2] * 2, abs=0.01)
    page.get_by_label("Point", exact=True).check()
    picture.focus()
    page.keyboard.press("Shift+ArrowDown")
    assert float(str(svg.get_attribute("data-cross")).split()[1]) == pytest.approx(side / 2 + 8, abs=0.01)
    page.get_by_role("button", name="Enlarge Sagittal T1").press("Enter")
    assert picture.bounding_box()["width"] > 1.5 * side


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_nothing_serious_to_axe_and_nothing_to_scroll_sideways(
    shown: Shown, browser: Browser, width: int, dark: bool
) -> None:
    with watched_page(browser, width, dark=dark) as page:
        page.goto(shown.url)
        page.locator("#keys summary").click()
        view(page, "Axial T2")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_letters_and_scale_are_those_of_the_headers(page: Page) -> None:
    for name, letters in (("Sagittal T1", "A P H F"), ("Axial T2", "R L A P")):
        texts = view(page, name).locator("text").all_text_contents()
        assert [text[:1] for text in texts[:4]] == letters.split()
        assert re.fullmatch(r"\d+ mm", texts[-1])


def test_without_script_the_middle_slices_are_there(shown: Shown, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(shown.url)
    assert [image.is_visible() for image in page.locator(".view img").all()] == [True] * 3
    assert "Without JavaScript" in page.locator("main").inner_text()
    assert not page.locator(".controls").first.is_visible()
    context.close()


def test_a_series_that_does_not_know_its_place_stays_by_itself(
    shown: Shown, two_stage: Path, browser: Browser, tmp_path: Path
) -> None:
    """No letters, no lines, and no click elsewhere moves it; the page says so at the series."""
    for row in shown.study.series.to_dict("records"):
        target = tmp_path / "set" / "study" / str(row["series_id"])
        target.mkdir(parents=True)
        for path in Path(row["folder"]).iterdir():
            (target / path.name).write_bytes(path.read_bytes())
            if row["kind"] == "sagittal_t1":
                rewrite(target / path.name, remove=("ImagePositionPatient",))
    url = write_study_page(tmp_path / "set", "study", two_stage / "bundle", tmp_path / "a.html").as_uri()
    with watched_page(browser) as page:
        page.goto(url)
        lost = page.locator(".panel").filter(has=view(page, "Sagittal T1"))
        assert "no position in the headers, assumed" in lost.inner_text()
        assert [text for text in lost.locator("text").all_text_contents() if text and "mm" not in text] == []
        before = slice_of(page, "Sagittal T1")
        view(page, "Axial T2").click(position={"x": 150, "y": 150})
        view(page, "Sagittal T2/STIR").press("Home")
        assert slice_of(page, "Sagittal T1") == before
        assert lost.locator(".cross, .line").count() == 0
