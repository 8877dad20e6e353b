"""No shortcuts: what lies beside the anatomy tells nothing of the grades, and a crop only of its own place.

Every family is measured by the same procedure, which is also shown to find a leak that was planted.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest

from lumbar_kaggle.core.budget import start_method
from lumbar_kaggle.core.targets import SCORE_GROUPS
from lumbar_kaggle.phantom.acquisition import Plane
from tests.support.leak_features import Sample, cut_patch, header_sample, rendered_sample
from tests.support.leak_measure import (
    all_labels,
    carriers,
    compressed,
    crop_problem,
    feature_table,
    gain,
    leak,
    logistic,
    losses,
    planted,
)

HEADER_SEED, HEADER_STUDIES = 300, 1000
RENDERED_SEED, RENDERED_STUDIES = 301, 300
CROP_SHARE = 0.8
"""Of a crop's classifier in the blend with the prior: it is meant to learn something."""

WRONG = [(group, away) for group in ("spinal", "foraminal") for away in (-2, -1, 1, 2)]
WRONG += [("subarticular", -2), ("subarticular", 2)]


def drawn(sample: Callable[[int, int], Sample], seed: int, studies: int) -> list[Sample]:
    with ProcessPoolExecutor(2, get_context(start_method())) as pool:
        return list(pool.map(partial(sample, seed), range(studies), chunksize=10))


@pytest.fixture(scope="module")
def planned() -> list[Sample]:
    return drawn(header_sample, HEADER_SEED, HEADER_STUDIES)


@pytest.fixture(scope="module")
def rendered() -> list[Sample]:
    return drawn(rendered_sample, RENDERED_SEED, RENDERED_STUDIES)


def assert_no_leak(samples: list[Sample], family: str, group: str) -> None:
    table, labels = feature_table([sample.families[family] for sample in samples]), all_labels(samples)
    found = leak(table, labels, group)
    print(f"{family}, {group}: {found}")
    assert found.low <= 0, f"{found}, carried by {carriers(table, labels, group)}"


@pytest.mark.parametrize("group", SCORE_GROUPS)
def test_headers_identifiers_and_counts_tell_nothing(planned: list[Sample], group: str) -> None:
    assert len(planned[0].families["headers"]) > 250
    assert_no_leak(planned, "headers", group)


@pytest.mark.parametrize("group", SCORE_GROUPS)
@pytest.mark.parametrize("family", ["headers", "intensities", "border"])
def test_files_grey_values_and_borders_tell_nothing(rendered: list[Sample], family: str, group: str) -> None:
    """Here the headers are those beside the pixels: file size, window, rescaling."""
    assert_no_leak(rendered, family, group)


@pytest.mark.parametrize("family", ["headers", "intensities", "border"])
def test_a_planted_leak_is_found(rendered: list[Sample], family: str) -> None:
    """One feature out of many that explains half of a study's mean grade: the tests above can fail."""
    table, labels = feature_table([sample.families[family] for sample in rendered]), all_labels(rendered)
    found = leak(planted(table, labels), labels, "subarticular")
    print(f"planted in {family}: {found}")
    assert found.low > 0


def test_a_faint_planted_leak_is_found_among_many_studies(planned: list[Sample]) -> None:
    """One feature that explains a fifth of a study's mean grade."""
    table, labels = feature_table([sample.families["headers"] for sample in planned]), all_labels(planned)
    found = leak(planted(table, labels, noise=2.0), labels, "subarticular")
    print(f"faint, planted in headers: {found}")
    assert found.low > 0


@pytest.mark.parametrize("group", SCORE_GROUPS)
def test_a_crop_at_the_right_place_tells_the_grade(rendered: list[Sample], group: str) -> None:
    problem, told = crop_problem(rendered, group, 0)
    prior, crop = losses(problem), losses(problem, compressed, CROP_SHARE)
    found, most = gain(problem, prior, crop), gain(problem, prior, losses(told, logistic, CROP_SHARE))
    print(f"crop, {group}: {found}; from the true severities: {most}")
    assert found.low > 0
    assert found.mean > 0.25 * most.mean


@pytest.mark.parametrize(("group", "away"), WRONG)
def test_a_crop_of_a_wrong_level_tells_no_more_than_that_levels_severities(
    rendered: list[Sample], group: str, away: int
) -> None:
    problem, told = crop_problem(rendered, group, away)
    bound, crop = losses(told, logistic, CROP_SHARE), losses(problem, compressed, CROP_SHARE)
    found = gain(problem, bound, crop)
    print(f"crop {away:+d} levels, {group}, against that level's severities: {found}")
    assert found.low <= 0


@pytest.mark.parametrize("group", ["spinal", "foraminal"])
def test_a_crop_that_shows_the_right_level_too_would_be_found(rendered: list[Sample], group: str) -> None:
    """Patches of the right level, passed off as those of the level two below."""
    shifted = [replace(sample, patches=np.roll(sample.patches, 2, axis=0)) for sample in rendered]
    problem, told = crop_problem(shifted, group, 2)
    bound, crop = losses(told, logistic, CROP_SHARE), losses(problem, compressed, CROP_SHARE)
    found = gain(problem, bound, crop)
    print(f"right crop as a wrong one, {group}: {found}")
    assert found.low > 0


def test_a_patch_lies_around_its_point() -> None:
    image = np.zeros((50, 60), np.uint16)
    image[20, 30] = 1000
    plane = Plane(np.array([5.0, 7.0, 9.0]), np.array([0.0, 1, 0, 0, 0, -1]), (0.5, 0.5), (50, 60))
    point = np.array([5.0, 7.0 + 15.0, 9.0 - 10.0])
    patch = cut_patch(image, plane, point, (5.0, 10.0), (11, 21))
    assert patch.shape == (11, 21)
    assert np.unravel_index(patch.argmax(), patch.shape) == (5, 10)
    corner = cut_patch(image, plane, plane.position, (5.0, 10.0), (11, 21))
    assert (corner[:5] == 0).all()
