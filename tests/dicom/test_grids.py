"""NIfTI and MetaImage series: the same volume as the same series in DICOM, and what is said of those that are none."""

import gzip
import json
from contextlib import suppress
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

import lumbar_kaggle as lk
from lumbar_kaggle.baseline.images import middle_slice
from lumbar_kaggle.dicom.cache import Source
from lumbar_kaggle.dicom.grids import read_grid, read_voxels
from lumbar_kaggle.dicom.headers import UnreadableInstance
from lumbar_kaggle.dicom.preprocess import read_volumes, volume_worker
from lumbar_kaggle.dicom.reading import read_slices
from lumbar_kaggle.dicom.series import UnreadableSeries, read_series
from lumbar_kaggle.dicom.studies import check, find_studies
from lumbar_kaggle.dicom.volume import GEOMETRY, Volume
from tests.support.dicom_files import AXIAL, CORONAL, SAGITTAL, write_slice
from tests.support.grid_files import nifti, write_array, write_by_itk, write_nifti
from tests.support.two_stage_studies import rotated

SLICES, ROWS, COLUMNS = 4, 9, 7
STEPS = (4.0, 0.5, 0.6)  # mm from slice to slice, row to row, column to column
UP_OR_DOWN = (1, -1)


def pictures(seed: int = 0) -> np.ndarray:
    """Grey values ``[slices, rows, columns]``."""
    return np.random.default_rng(seed).integers(0, 3000, (SLICES, ROWS, COLUMNS)).astype(np.uint16)


def as_dicom(folder: Path, cosines: np.ndarray, origin: np.ndarray, **tags: Any) -> np.ndarray:
    """Write the pictures as DICOM, with these direction cosines; returns the direction from slice to slice."""
    across = np.cross(cosines[:3], cosines[3:])
    for number, picture in enumerate(pictures()):
        place, turned = origin + number * STEPS[0] * across, tuple(map(float, cosines))
        where = {
            "position": tuple(map(float, place)),
            "orientation": turned,
            "spacing": STEPS[1:],
            "number": number + 1,
        }
        write_slice(folder / f"{number}.dcm", picture, **where, **tags)
    return across


def same(one: Volume, other: Volume, *, mm: float = 1e-4) -> None:
    """Both have the same slices in the same order at the same places."""
    np.testing.assert_array_equal(one.pixels, other.pixels)
    for name in GEOMETRY:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=mm)


@pytest.fixture(scope="module", params=[SAGITTAL, AXIAL, CORONAL], ids=["sagittal", "axial", "coronal"])
def oblique(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Volume, np.ndarray]:
    """A tilted series in DICOM, and its affine (LPS, of slice, row and column)."""
    folder, origin = tmp_path_factory.mktemp("dicom"), np.array([-20.0, 35.5, 12.25])
    cosines = rotated(np.array(request.param), (1.0, -2.0, 0.5), 17.0)
    across = as_dicom(folder, cosines, origin)
    steps = np.column_stack([across * STEPS[0], cosines[3:] * STEPS[1], cosines[:3] * STEPS[2]])
    return read_series(folder), np.column_stack([steps, origin])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_however_the_axes_are_stored_it_is_the_series_that_dicom_gives(
    oblique: tuple[Volume, np.ndarray], order: tuple[int, ...], tmp_path: Path
) -> None:
    """Any order and direction of the axes, right- and left-handed, in NIfTI-1 and -2, either order of the bytes."""
    expected, affine = oblique
    forms = [(1, "<"), (1, ">"), (2, "<"), (2, ">")]
    for number, flips in enumerate(product(UP_OR_DOWN, repeat=3)):
        voxels = pictures()[tuple(slice(None, None, flip) for flip in flips)].transpose(order)
        ends = (np.array([SLICES, ROWS, COLUMNS]) - 1) * (np.array(flips) < 0)
        steps, origin = affine[:, :3] * flips, affine[:, 3] + affine[:, :3] @ ends
        # The axes i, j, k of a file are an array's last to first.
        lps = np.column_stack([steps[:, order[::-1]], origin])
        version, bytes_order = forms[number % 4]
        ras = lps * np.array([[-1], [-1], [1]])
        path = write_nifti(tmp_path / "s.nii", voxels, sform=ras, version=version, order=bytes_order)
        same(read_series(path), expected)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
def test_what_itk_writes_is_the_series_that_dicom_gives(
    oblique: tuple[Volume, np.ndarray], suffix: str, tmp_path: Path
) -> None:
    """Upside down as well, in a folder or as a file; slices are numbered from 1 as they are stored."""
    expected, _ = oblique
    path = write_by_itk(tmp_path / "a" / f"s{suffix}", expected)
    same(read_series(path), expected)
    same(lk.read_series(path.parent), expected)
    last_first = expected.take(range(SLICES)[::-1])
    turned = read_series(write_by_itk(tmp_path / "b" / f"s{suffix}", last_first))
    same(turned, expected)
    assert turned.instance_numbers == (4, 3, 2, 1)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (0.0, 7.0), (2.5, -10.0), (float("nan"), 3.0)])
def test_values_are_those_that_itk_reads(kind: str, scaling: tuple[float, float], tmp_path: Path) -> None:
    """Of every type; slope 0 or none means as stored."""
    values = (pictures() % 120).astype(kind)
    path = write_nifti(tmp_path / "s.nii.gz", values, slope=scaling[0], inter=scaling[1])
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(np.float32)
    as_stored = scaling != (2.5, -10.0)
    if as_stored:
        image = values.astype(np.float32)  # ITK adds the intercept to slope 0, and NaN makes all of it NaN
    read = read_series(path).pixels[::-1]  # axial slices come from head to foot
    np.testing.assert_allclose(read, image[:, ::-1, ::-1], rtol=1e-6)
    assert read.dtype == (values.dtype if as_stored and kind in ["u1", "i1", "u2", "i2", "i4"] else np.float32)


def test_the_qform_counts_where_the_sform_says_nothing(tmp_path: Path) -> None:
    """The same place as ITK's, left-handed too, also where an sform is there and spans no space."""
    for handed, sform in ((1.0, None), (-1.0, np.zeros((3, 4)))):
        how = {"qform": (0.1, -0.6, 0.3, 5.0, -7.0, 11.0), "pixdim": (handed, 0.5, 0.6, 4.0)}
        read = read_series(write_nifti(tmp_path / "s.nii", pictures(), sform=sform, **how))
        image = SimpleITK.ReadImage(str(write_nifti(tmp_path / "itk.nii", pictures(), sform=None, **how)))
        expected = read_series(
            write_array(
                tmp_path / "s.mha",
                SimpleITK.GetArrayFromImage(image),
                np.reshape(image.GetDirection(), (3, 3)).T,
                image.GetSpacing(),
            )
        )
        expected.positions[:] += image.GetOrigin()
        same(read, expected)
        said = ("sform spans no space, which cannot be meant; it counts as absent (4 of 4 slices)",)
        assert read.notes == (() if sform is None else said)


def test_a_place_that_is_not_said_is_absent(tmp_path: Path) -> None:
    """Without sform and qform; the spacing counts where a unit is given. Axes that are not square make no plane."""
    nowhere = read_series(write_nifti(tmp_path / "a.nii", pictures(), sform=None))
    assert np.isnan(nowhere.positions).all()
    assert np.isnan(nowhere.orientation).all()
    np.testing.assert_allclose(nowhere.spacing, 0.5)
    np.testing.assert_array_equal(nowhere.pixels, pictures())
    assert np.isnan(read_series(write_nifti(tmp_path / "b.nii", pictures(), sform=None, units=0)).spacing).all()
    header = "ObjectType = Image\nNDims = 3\nDimSize = 7 9 4\nElementType = MET_USHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "c.mha").write_bytes(header.encode() + pictures().tobytes())
    bare = read_series(tmp_path / "c.mha")
    np.testing.assert_array_equal(bare.pixels, pictures())
    assert np.isnan(bare.positions).all()
    assert np.isnan(bare.spacing).all()
    skewed = read_series(
        write_nifti(tmp_path / "d.nii", pictures(), sform=((0.5, 0.2, 0, 0), (0, 0.5, 0, 0), (0, 0, 4, 0)))
    )
    assert np.isnan(skewed.orientation).all()
    assert "ImageOrientationPatient" in skewed.notes[0]
    assert "which cannot be meant; it counts as absent (4 of 4 slices)" in skewed.notes[0]


def test_an_affine_that_is_not_quite_a_rotation_is_taken(tmp_path: Path) -> None:
    """Rounded ones, which ITK refuses, and slices that are stacked askew, as DICOM has them too; metres as well."""
    rounded = ((-0.5, 0.002, 0, 10), (0, -0.5, 0.4, 20), (0, 0, 4.0, 30))
    path = write_nifti(tmp_path / "s.nii", pictures(), sform=rounded)
    with pytest.raises(RuntimeError, match="orthonormal"):
        SimpleITK.ReadImage(str(path))
    read = read_series(path)
    np.testing.assert_allclose(read.positions[:2], [[-10, -21.2, 42], [-10, -20.8, 38]], atol=1e-5)
    assert read.placed
    assert read.notes == ()
    same(read, read_series(write_nifti(tmp_path / "m.nii", pictures(), sform=np.array(rounded) / 1000, units=1)))


@pytest.mark.parametrize(
    ("shape", "sform", "slices"),
    [
        ((5, 6, 40), np.diag([0.5, 0.6, 4.0, 0])[:3], 5),
        ((40, 6, 5), np.diag([4.0, 0.6, 0.5, 0])[:3], 5),
        ((8, 40, 30), np.diag([1.0, 1.0, 1.05, 0])[:3], 8),
        ((30, 8, 40), np.diag([1.0, 1.0, 1.0, 0])[:3], 8),
        ((30, 1, 40), np.diag([9.0, 1.0, 1.0, 0])[:3], 1),
    ],
)
def test_slices_lie_across_the_longest_step_or_the_fewest_voxels(
    shape: tuple[int, ...], sform: np.ndarray, slices: int, tmp_path: Path
) -> None:
    """By far the longest; steps that are nearly alike do not tell. An axis of one voxel is never in the picture."""
    read = read_series(write_nifti(tmp_path / "s.nii", np.ones(shape, np.int16), sform=sform))
    assert len(read) == slices


def test_two_and_four_axes(tmp_path: Path) -> None:
    """A picture is a series of one slice; a fourth axis of one step is none."""
    assert len(read_series(write_nifti(tmp_path / "s.nii", pictures()[0]))) == 1
    assert len(read_series(write_nifti(tmp_path / "t.nii", pictures()[None]))) == SLICES
    image = SimpleITK.GetImageFromArray(pictures()[0])
    SimpleITK.WriteImage(image, str(tmp_path / "s.mha"))
    flat = read_series(tmp_path / "s.mha")
    np.testing.assert_array_equal(flat.pixels, pictures()[:1])
    assert np.isnan(flat.positions).all()


def colours(path: Path) -> None:
    """A MetaImage of colours."""
    image = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(path))


FAULTS = {
    "cut.nii": (nifti(pictures())[:600], "cut off: its header states 504 bytes of pixels, 248 are there"),
    "cut.nii.gz": (gzip.compress(nifti(pictures()))[:-60], "cut off: the compressed data end too early"),
    "flipped.nii.gz": (gzip.compress(nifti(pictures()), 0)[:-9] + bytes(9), "pixels cannot be read (BadGzipFile: CRC"),
    "head.nii": (nifti(pictures())[:200], "neither a NIfTI nor a MetaImage file of one piece"),
    "colours.nii": (nifti(np.zeros((4, 5, 6), "V3")), "a colour image, not an MR series"),
    "times.nii": (
        nifti(np.zeros((3, 4, 5, 6), "u1")),
        "3 volumes in one file, such as echoes or times; a file of each",
    ),
    "complex.nii": (nifti(pictures(), type=32), "its voxels are of type 32; integers and floats are read"),
    "huge.nii": (
        nifti(pictures(), dim=(3, 9000, 9000, 9000)),
        "its header states 9000 × 9000 × 9000 voxels, more than",
    ),
    "empty.nii": (nifti(pictures(), dim=(3, 5, 0, 7)), "header is damaged (an axis has no voxels)"),
    "far.nii": (nifti(pictures(), start=1e30), "header is damaged (its pixels lie beyond the end)"),
    "pair.mha": (
        b"NDims = 3\nDimSize = 4 4 4\nElementDataFile = s.raw\n",
        "its pixels lie in another file, or as text",
    ),
    "t2_mask.nii": (nifti(pictures()), "a segmentation by its name or its header, not a picture"),
    "t2.nii": (nifti(pictures(), intent=1002), "a segmentation by its name or its header, not a picture"),
    "text.nii": (b"nothing of the kind", "neither a NIfTI nor a MetaImage file of one piece"),
    "none.nii": (b"", "neither a NIfTI nor a MetaImage file of one piece"),
}


@pytest.mark.parametrize("name", [*FAULTS, "colours.mha"])
def test_what_is_no_series_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    """And a good series beside it is found all the same."""
    path = tmp_path / "p" / name
    write_by_itk(tmp_path / "p" / "sag_t1.nii.gz", stack(SAGITTAL))
    if name == "colours.mha":
        colours(path)
    content, sentence = FAULTS.get(name, (None, "a colour image, not an MR series"))
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableSeries) as caught:
        read_series(path)
    assert f"none of 1 files is a usable slice; {name}: {sentence}" in str(caught.value)
    assert "sagittal_t1" in set(find_studies(tmp_path).series["kind"])


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, 355),
    byte=st.integers(0, 255),
    length=st.integers(0, 900),
    form=st.sampled_from(["nii", "mha"]),
)
def test_damage_gives_a_sentence(place: int, byte: int, length: int, form: str) -> None:
    """Whatever is wrong with a byte or the end: slices, or a reason, and nothing else is raised."""
    header = b"NDims = 3\nDimSize = 7 9 4\nElementSpacing = .5 .5 4\nTransformMatrix = 1 0 0 0 1 0 0 0 1\n"
    header += b"Offset = 0 0 0\nCompressedData = False\nElementType = MET_USHORT\nElementDataFile = LOCAL\n"
    whole = nifti(pictures()) if form == "nii" else header + pictures().tobytes()
    content = (whole[:place] + bytes([byte]) + whole[place + 1 :])[:length]
    with suppress(UnreadableInstance):
        for one in read_slices(f"nowhere/s.{form}", pixels=True, content=content):
            assert one.image.shape == (one.rows, one.columns)


def stack(orientation: tuple[float, ...], slices: int = SLICES) -> Volume:
    """A series as a volume."""
    cosines = np.array(orientation)
    across = np.cross(cosines[:3], cosines[3:])
    positions = np.array([4.0 * number * across for number in range(slices)])
    spacing = np.full((slices, 2), 0.5)
    images = np.stack([pictures()[0]] * slices)
    return Volume(images, positions, np.tile(cosines, (slices, 1)), spacing, (None,) * slices)


@pytest.mark.parametrize(
    ("name", "sidecar", "plane", "kind"),
    [
        ("sagittal_t1.nii.gz", None, SAGITTAL, "sagittal_t1"),
        ("SAG_T2.NII", None, SAGITTAL, "sagittal_t2"),
        ("t1.mha", None, SAGITTAL, "sagittal_t1"),
        ("T2.nii", None, AXIAL, "axial_t2"),
        ("stir.nii.gz", None, SAGITTAL, "sagittal_t2"),
        ("sub-01_ses-2_acq-sag_T2w.nii.gz", None, SAGITTAL, "sagittal_t2"),
        ("sub-c_ce-none_T1w.nii.gz", {"kind": "sagittal_t1"}, SAGITTAL, "sagittal_t1"),
        ("series.nii.gz", {"kind": "sagittal_t2"}, SAGITTAL, "sagittal_t2"),
        ("series.nii.gz", {"SeriesDescription": "SAG T1 LWS"}, SAGITTAL, "sagittal_t1"),
        ("series.nii.gz", {"EchoTime": 0.102, "RepetitionTime": 3.5}, AXIAL, "axial_t2"),
        ("series.nii.gz", {"EchoTime": 0.011, "RepetitionTime": 0.55}, SAGITTAL, "sagittal_t1"),
        (
            "series.nii.gz",
            {"ScanningSequence": "SE_IR", "InversionTime": 0.16, "EchoTime": 0.05, "RepetitionTime": 4},
            SAGITTAL,
            "sagittal_t2",
        ),
        ("series.nii.gz", None, SAGITTAL, "a sagittal series (description 'series') is none of sagittal T1"),
        ("series.nii.gz", None, SAGITTAL, "series.json can say so"),
        ("t1.nii.gz", None, AXIAL, "an axial series (description 't1') is none of"),
        ("t2.nii.gz", None, CORONAL, "a coronal series (description 't2') is none of"),
        ("t2.nii.gz", {"ImageType": ["DERIVED", "PRIMARY", "ADC"]}, AXIAL, "is a map by its ImageType"),
        ("t1.nii.gz", {"kind": "axial_t2"}, SAGITTAL, "named Axial T2, but its slices are sagittal"),
        ("t1.nii.gz", {"ContrastBolusAgent": "Dotarem"}, SAGITTAL, "taken after contrast agent (Dotarem)"),
    ],
)
def test_name_and_sidecar_tell_the_kind(
    name: str, sidecar: dict[str, Any] | None, plane: Any, kind: str, tmp_path: Path
) -> None:
    """The plane is the geometry's; a kind in the sidecar counts first, then its fields and the name, as in DICOM."""
    lower = tmp_path / "p" / name.lower()
    write_by_itk(lower, stack(plane)).rename(lower.with_name(name))
    if sidecar is not None:
        (tmp_path / "p" / f"{name.split('.')[0]}.json").write_text(json.dumps(sidecar))
    read = find_studies(tmp_path)
    if kind.endswith(("_t1", "_t2")):
        assert read.series["kind"].tolist() == [kind]
        assert read.series["series_id"].tolist() == [name.split(".")[0]]
        assert read.notes["p"] == ()
    else:
        assert read.series.empty
        assert kind in read.reasons("p")


def test_a_sidecar_that_cannot_be_meant_is_said(tmp_path: Path) -> None:
    """No JSON, no object, an unknown kind: the file is read without it."""
    path = write_by_itk(tmp_path / "p" / "sag_t1.nii", stack(SAGITTAL))
    for text, said in (
        ("{", "sag_t1.json cannot be read (Expecting property name"),
        ("[1]", "sag_t1.json is no JSON object; it counts as absent"),
        ('{"kind": "T1"}', "sag_t1.json has the kind 'T1', which is none of sagittal_t1, sagittal_t2, axial_t2"),
        ('{"EchoTime": -3}', "EchoTime is -3000, which cannot be meant; it counts as absent"),
    ):
        path.with_name("sag_t1.json").write_text(text)
        read = find_studies(tmp_path)
        assert read.series["kind"].tolist() == ["sagittal_t1"]
        (note,) = read_series(path).notes
        assert said in note


def test_grids_lie_beside_folders_of_dicom(tmp_path: Path) -> None:
    """In one study, whether its folder is given or the one above it; a series' files are a grid and its sidecar."""
    study = tmp_path / "all" / "p"
    t1 = {"SeriesDescription": "SAG T1", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    as_dicom(study / "1", np.array(SAGITTAL), np.zeros(3), **t1)
    for name in ("t2", "a", "b"):
        write_by_itk(study / f"{name}.nii.gz", stack(SAGITTAL if name == "t2" else AXIAL))
    (study / "a.json").write_text('{"kind": "axial_t2"}')
    (study / "b.json").write_text('{"kind": "axial_t2"}')
    for read in (find_studies(study.parent), find_studies(study)):
        rows = read.series.sort_values("series_id", ignore_index=True)
        assert rows["series_id"].tolist() == ["1", "a", "b", "t2"]
        assert rows["kind"].tolist() == ["sagittal_t1", "axial_t2", "axial_t2", "sagittal_t2"]
        assert rows["files"].tolist() == [(), ("a.nii.gz", "a.json"), ("b.nii.gz", "b.json"), ("t2.nii.gz",)]
        assert read.studies == ("p",)
        assert read.notes["p"] == ()
        assert len(read_series(study, rows["files"][1], "axial_t2")) == SLICES
    assert "sagittal T2/STIR 4 slices" in repr(lk.read_study(study))


def test_a_changed_file_or_sidecar_is_another_source(tmp_path: Path) -> None:
    """So a cache or a journal does not take the old one for it."""
    path = write_by_itk(tmp_path / "t2.nii.gz", stack(SAGITTAL))
    path.with_name("t2.json").write_text('{"EchoTime": 0.1}')
    states = set()
    for change in (lambda: None, lambda: path.with_name("t2.json").write_text('{"EchoTime": 0.2}')):
        change()
        states.add(Source.scan("p", "t2", "sagittal_t2", str(tmp_path)).fingerprint())
    write_by_itk(path, stack(SAGITTAL, 5))
    source = Source.scan("p", "t2", "sagittal_t2", str(tmp_path))
    states.add(source.fingerprint())
    assert len(states) == 3
    (tmp_path / "cache").mkdir()
    entry = volume_worker(source, tmp_path / "cache")
    assert entry["source"] == source.fingerprint()
    (cached,) = read_volumes(tmp_path / "cache", str(entry["file"]))
    np.testing.assert_array_equal(cached.take(range(5)).pixels, read_series(path).windowed().pixels)
    np.testing.assert_allclose(cached.positions, read_series(path).positions)


def test_the_middle_slice_is_that_of_dicom(tmp_path: Path) -> None:
    """The baseline's picture, out of a grid."""
    as_dicom(tmp_path / "dicom", np.array(SAGITTAL), np.zeros(3))
    write_by_itk(tmp_path / "grid" / "s.nii.gz", read_series(tmp_path / "dicom"))
    image, facts = middle_slice(tmp_path / "grid")
    expected, theirs = middle_slice(tmp_path / "dicom")
    np.testing.assert_array_equal(image, expected)
    assert [facts[name] for name in ("slices", "rows", "columns")] == [theirs[n] for n in ("slices", "rows", "columns")]


def test_in_a_competition_folder_the_tables_name_the_kind(tmp_path: Path) -> None:
    """And `lumbar check` compares it with the plane."""
    for series, plane in (("51", SAGITTAL), ("52", SAGITTAL)):
        write_by_itk(tmp_path / "test_images" / "5" / series / "image.nii.gz", stack(plane))
    rows = "study_id,series_id,series_description\n5,51,Sagittal T1\n5,52,Axial T2\n"
    (tmp_path / "test_series_descriptions.csv").write_text(rows)
    (fault,) = [fault for fault in check(tmp_path) if fault.file.name == "52"]
    assert "named Axial T2, but its slices are sagittal; it is left out" in fault.message
    row = find_studies(tmp_path).series.iloc[0]
    assert len(read_series(Path(row["folder"]), row["files"], row["kind"])) == SLICES


def test_the_lines_of_a_metaimage_may_say_more(tmp_path: Path) -> None:
    """As where it was made of DICOM files: keys are tags, and lines end as on Windows."""
    more = b"0008|103e = SAG = T1\r\nITK_InputFilterName = GDCMImageIO\r\nObjectType = Image\r\nNDims = 3\r\n"
    more += (
        b"DimSize = 7 9 4\r\nBinaryDataByteOrderMSB = True\r\nElementType = MET_USHORT\r\nElementDataFile = LOCAL\r\n"
    )
    (tmp_path / "s.mha").write_bytes(more + pictures().astype(">u2").tobytes())
    np.testing.assert_array_equal(read_series(tmp_path / "s.mha").pixels, pictures())


def test_an_object_store_has_grids_too() -> None:
    """Read by their address, with what lies beside them."""
    upath = pytest.importorskip("upath", reason="install the extra [storage]")
    folder = upath.UPath("memory://grids/p")
    folder.mkdir(parents=True)
    (folder / "a.nii.gz").write_bytes(gzip.compress(nifti(pictures())))
    (folder / "a.json").write_text('{"kind": "axial_t2"}')
    read = find_studies("memory://grids")
    assert read.series["kind"].tolist() == ["axial_t2"]
    assert len(lk.read_series("memory://grids/p/a.nii.gz")) == SLICES


def test_the_header_alone_is_read_where_no_pixels_are_asked_for() -> None:
    """Of a compressed file of any size the first bytes are enough."""
    noise = np.random.default_rng(0).integers(0, 3000, (8, 200, 200)).astype(np.uint16)
    whole = gzip.compress(nifti(noise), 1)
    grid = read_grid(whole[:16384])
    assert grid.shape == (200, 200, 8)
    np.testing.assert_array_equal(read_voxels(grid, whole), noise)


def test_a_folder_of_other_files_says_which_are_read(tmp_path: Path) -> None:
    """Of a series, and of a study."""
    for name in ("s.nrrd", "s.mhd"):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / name).write_bytes(b"NRRD0004\n")
    (tmp_path / "q").mkdir()
    write_by_itk(tmp_path / "q" / "sag_t1.mha", stack(SAGITTAL))
    with pytest.raises(
        UnreadableSeries, match=r"s\.mhd: not a DICOM file; DICOM, \.nii, \.nii\.gz and \.mha files are"
    ):
        read_series(tmp_path / "p")
    (fault,) = find_studies(tmp_path).faults
    assert fault.message == "holds nothing that is read (DICOM, .nii, .nii.gz and .mha files are); it is left out"
