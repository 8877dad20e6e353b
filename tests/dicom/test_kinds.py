"""What a series is: plain lumbar T1 and T2 are recognised, what merely resembles them is not."""

from pathlib import Path
from typing import Any

import pytest

from lumbar_kaggle.dicom.instances import Instance
from lumbar_kaggle.dicom.kinds import preference, recognise_series
from tests.support.dicom_files import AXIAL, CORONAL, SAGITTAL

ORDINARY = ("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D")
TILTED_AXIAL = (1.0, 0.0, 0.0, 0.0, 0.906308, 0.422618)
T1_TIMES = {"echo_time_ms": 10.0, "repetition_time_ms": 550.0}
T2_TIMES = {"echo_time_ms": 102.0, "repetition_time_ms": 3500.0}
PROTON_DENSITY_TIMES = {"echo_time_ms": 15.0, "repetition_time_ms": 3000.0}
INVERSION_TIMES = {"echo_time_ms": 40.0, "repetition_time_ms": 4000.0, "inversion_time_ms": 150.0, "sequence": "SE IR"}


def header(description: str = "", index: int = 0, **more: Any) -> Instance:
    """The header of one sagittal slice."""
    known = {"position": (4.0 * index, 0.0, 0.0), "orientation": SAGITTAL, "description": description}
    return Instance(Path(f"{index}"), 64, 64, **{**known, **more})


def kind_of(description: str = "", **more: Any) -> str | None:
    """The kind of a series of five such slices."""
    return recognise_series([header(description, index, **more) for index in range(5)])[0]


@pytest.mark.parametrize(
    "description",
    [
        *("SAG T1 POST GAD", "T1 FS +C", "sub T1 post", "ADC T2", "T2 MYELO", "T1 Dixon OPP", "T1 SAG KM"),
        *("T1 sag nach KM", "T1 C+ sag", "t1_tse_sag_GD", "T1 après injection", "SAG CE T1", "Sag T1 con contraste"),
        *("SAG T2 CERVICAL", "Sag T2 thoracic", "T2 HWS sag", "T2 BWS", "T2 SAG DORSAL", "C-SPINE T2", "T2 C2-T3"),
        *("T2 sag rachis cervical", "SAG T2 T4-T12", "T1 BRAIN SAG", "T2 sag SI joints"),
        *("T2* sag", "T2_MERGE", "T1 FLASH sag", "T2 MAP", "T1map", "t2_tse_dixon_sag_F", "T2 sag opp-phase", "MIP T2"),
        *("DWI T2 b800", "T1 fl2d sag", "T2 scout", "PD SAG", "T12-S1", ""),
    ],
)
def test_what_resembles_a_lumbar_series_is_none(description: str) -> None:
    """After contrast agent, other regions, maps, projections, gradient echoes, no weighting: none is taken."""
    assert kind_of(description) is None


@pytest.mark.parametrize(
    ("kind", "descriptions"),
    [
        ("sagittal_t1", ("sT1W_TSE SAG", "T1", "T1 SAG w/o contrast", "T1 sag ohne KM", "T1 PRE CONTRAST")),
        ("sagittal_t1", ("SAG T1 nativ", "T1 sans injection", "SAG T1 TSE", "t1_tse_sag_384", "Sag T1 FLAIR")),
        ("sagittal_t1", ("sT1W_TSE", "T1W_TSE SAG", "SAG T1 T11-S2")),
        ("sagittal_t2", ("T2 sag", "STIR", "SAG T2 WHOLE SPINE", "Sag T2 thoraco-lumbar", "T2 postop LWS", "T2")),
        ("sagittal_t2", ("SAG T2 L-SPINE", "T2 rachis lombaire", "T2 T12-S2", "t2_tse_dixon_sag_W", "T1 STIR SAG")),
        ("sagittal_t2", ("COL LUMBAR T2 SAG", "T2 HWS BWS LWS sag", "SagT2 FRFSE", "t2_tse_sag", "t2_tirm_sag_fs")),
        ("sagittal_t2", ("STIR SAG", "SAG T2 FRFSE T12-S1")),
    ],
)
def test_ordinary_names_are_recognised(kind: str, descriptions: tuple[str, ...]) -> None:
    """The competition's two words, vendors' names, negations, whole spines and words that only look foreign."""
    assert {name: kind_of(name) for name in descriptions} == dict.fromkeys(descriptions, kind)


@pytest.mark.parametrize(
    ("orientation", "description", "kind"),
    [
        *((AXIAL, name, "axial_t2") for name in ("T2", "AX T2 FSE", "t2_tse_tra L1-S1")),
        (TILTED_AXIAL, "T2", "axial_t2"),
        *((AXIAL, "AX T1 TSE", None), (CORONAL, "COR T2", None), (CORONAL, "COR STIR", None)),
        *((None, "SAG T1 TSE", "sagittal_t1"), (None, "T1 TSE", None), (None, "AX T2", None)),
    ],
)
def test_the_plane_comes_from_the_orientation(
    orientation: tuple[float, ...] | None, description: str, kind: str | None
) -> None:
    """An axial series is used as T2 alone, a coronal one not at all, and without orientation nothing is told."""
    assert kind_of(description, orientation=orientation) == kind


@pytest.mark.parametrize(
    ("orientation", "more", "kind"),
    [
        (SAGITTAL, T1_TIMES, "sagittal_t1"),
        (SAGITTAL, T2_TIMES, "sagittal_t2"),
        (SAGITTAL, {"sequence": "SE", **T1_TIMES}, "sagittal_t1"),
        (SAGITTAL, INVERSION_TIMES, "sagittal_t2"),
        (SAGITTAL, {**INVERSION_TIMES, "inversion_time_ms": 860.0, "echo_time_ms": 24.0}, "sagittal_t1"),
        (SAGITTAL, PROTON_DENSITY_TIMES, None),
        (AXIAL, T2_TIMES, "axial_t2"),
        (AXIAL, T1_TIMES, None),
        (CORONAL, T2_TIMES, None),
        (SAGITTAL, {"echo_time_ms": 10.0}, "sagittal_t1"),
        (SAGITTAL, {"echo_time_ms": 90.0}, "sagittal_t2"),
        (SAGITTAL, {"repetition_time_ms": 500.0}, None),
        (SAGITTAL, {**T1_TIMES, "description": "Lumbar spine"}, "sagittal_t1"),
        (SAGITTAL, {**T2_TIMES, "description": "SAG T1 and T2"}, "sagittal_t2"),
        (SAGITTAL, {**PROTON_DENSITY_TIMES, "description": "PD_TSE_SAG"}, None),
        # A description that names one weighting is believed.
        *((SAGITTAL, {**times, "description": "T1"}, "sagittal_t1") for times in (T1_TIMES, T2_TIMES)),
        *((SAGITTAL, {**times, "description": "T2"}, "sagittal_t2") for times in (T1_TIMES, T2_TIMES)),
    ],
    ids=str,
)
def test_without_a_telling_description_the_times_decide(
    orientation: tuple[float, ...], more: dict[str, Any], kind: str | None
) -> None:
    """Echo, repetition and inversion time tell T1, T2 and STIR, and proton density is none of them."""
    assert kind_of(orientation=orientation, **more) == kind


@pytest.mark.parametrize("name", ["LOCALIZER", "3-plane loc", "3 Plane Localiser", "t2_haste_localizer", "Scout"])
@pytest.mark.parametrize("orientation", [SAGITTAL, AXIAL, CORONAL])
def test_a_localizer_is_no_diagnostic_series(name: str, orientation: tuple[float, ...]) -> None:
    """Planning images are left out although their times look like T1 and their name may say T2."""
    times = {"echo_time_ms": 4.0, "repetition_time_ms": 9.0}
    for words, more in ((name, {"sequence": "GR", **times}), (f"T2 {name}", {}), ("SURVEY T2", {})):
        assert kind_of(words, orientation=orientation, **more) is None


@pytest.mark.parametrize(
    "more",
    [
        {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")},
        {"image_type": ("DERIVED", "SECONDARY", "MIP")},
        {"image_type": ("DERIVED", "PRIMARY", "ADC")},
        {"image_type": ("ORIGINAL", "PRIMARY", "OPP_PHASE")},
        {"image_type": ("ORIGINAL", "PRIMARY", "P", "SE")},
        {"image_type": ("DERIVED", "PRIMARY", "T2 MAP")},
        {"sequence": "GR"},
        {"sequence": "EP SE GR", "b_value": 500.0},
        {"contrast_agent": "Gadovist"},
        {"body_part": "CSPINE"},
        {"body_part": "C-SPINE"},
        {"protocol": "Cervical spine"},
        {"modality": "CT"},
        {"repetition_time_ms": 9.0, "echo_time_ms": 4.0},
        {"acquisition_contrast": "DIFFUSION"},
    ],
    ids=str,
)
def test_headers_speak_against_a_telling_description(more: dict[str, Any]) -> None:
    """A series named T2 that is something else by its tags is left out, and it is said what it is."""
    group = [header("SAG T2", index, **more) for index in range(5)]
    kind, reason = recognise_series(group)
    assert kind is None
    assert reason.startswith("a sagittal series (description 'SAG T2') is ")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"image_type": ORDINARY, "sequence": "SE", "modality": "MR", "body_part": "LSPINE"},
        {"sequence": "SE IR"},
        {"sequence": "RM"},
        {"body_part": "SPINE"},
        {"body_part": "CSPINE", "protocol": "L-Spine routine"},
        {"contrast_agent": "NONE"},
        {"b_value": 0.0},
        {"image_type": ("DERIVED", "PRIMARY", "MPR")},
    ],
    ids=str,
)
def test_ordinary_headers_do_not(more: dict[str, Any]) -> None:
    """What is absent or ordinary speaks against no series."""
    assert recognise_series([header("SAG T2", index, **more) for index in range(5)]) == ("sagittal_t2", "")


def test_two_slices_are_no_series() -> None:
    """Planning images have one or two slices in a plane."""
    kind, reason = recognise_series([header("T2", index, orientation=AXIAL) for index in range(2)])
    assert kind is None
    assert "has too few slices (2; at least 3)" in reason


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"description": "SAG T2 LSPINE"}, {"description": "SAG T2"}),
        ({"description": "SAG T2"}, {"description": "SAG T2 WHOLE SPINE"}),
        ({"description": "SAG T2"}, {"description": "STIR", "sequence": "SE IR", "inversion_time_ms": 160.0}),
        ({"description": "SAG T2"}, {"description": "SAG T2 FS"}),
        ({"description": "T2", "echo_time_ms": 95.0}, {"description": "T2", "echo_time_ms": 12.0}),
        ({"image_type": ORDINARY}, {"image_type": ("DERIVED", "PRIMARY", "WATER")}),
    ],
    ids=str,
)
def test_of_two_series_the_better_one_is_preferred(better: dict[str, Any], worse: dict[str, Any]) -> None:
    """Region, fat and times come before the number of slices."""
    fuller = [header(index=index, **{"repetition_time_ms": 3500.0, **worse}) for index in range(9)]
    sparser = [header(index=index, **{"repetition_time_ms": 3500.0, **better}) for index in range(5)]
    assert [value for value, _ in preference(sparser)] > [value for value, _ in preference(fuller)]
