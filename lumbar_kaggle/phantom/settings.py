"""The settings: vendors of scanners, quirks of the real data, the simulated reader, and the standard sets."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.core.settings import Validated, option

FORMAT = "phantom-1"  # version of the phantom; the same version, seed and index give the same bytes
SPLITS = ("train", "test")

Floats = NDArray[np.float64]  # of plans and tables
Singles = NDArray[np.float32]  # of images
Stored = NDArray[np.uint16]  # pixels in a file
# Brightness of each of `imaging.TISSUES`, 0 (air) to 1; ``flow`` is how much pulsation darkens parts of the fluid.
Contrast = dict[str, float]
Sizes = tuple[tuple[tuple[int, int], float], ...]  # (rows, columns) in pixels, and how often
Drawn = TypeVar("Drawn")


def draw_from(rng: np.random.Generator, choices: Sequence[tuple[Drawn, float]]) -> Drawn:
    """Draw one of the values that are given with their shares, which need not add up to 1."""
    sums = np.cumsum([share for _, share in choices])
    return choices[int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))][0]


@dataclass(frozen=True)
class Vendor:
    """A vendor's habits; each is invented and represents a family of real scanners."""

    name: str  # in headers
    share: float  # of all studies
    fields: tuple[tuple[float, float], ...]  # field strengths in tesla, and how often
    sagittal: Sizes
    axial: Sizes
    full_scale: tuple[float, float]  # stored value of the brightest tissue near the coil; logarithmic
    corrected: float  # share of series whose coil fall-off the scanner evens out
    smooth: tuple[float, float]  # part of the signal that the window takes at the rim of k-space
    sharpen: tuple[float, float]  # gain that an edge filter adds there
    spin_echo: str  # the vendor's word for a fast spin echo
    window_percentiles: tuple[float, float]  # of the pixels, between which the header's window lies


def _sizes(shares: dict[int | tuple[int, int], float]) -> Sizes:
    """Return stored sizes; a single number is the side of a square."""
    return tuple(((size, size) if isinstance(size, int) else size, share) for size, share in shares.items())


# Shares and matrices add up to the stored sizes of the competition's sagittal series (512² 33 %, 320² 18 %,
# 384² 14 %, 448² 9 %, 256² 4 %, 760×640 2 %, 14 % not square) and to the usual axial ones.
VENDORS = (
    Vendor(
        "Alpha Imaging", 0.34, fields=((1.5, 0.7), (3.0, 0.3)), full_scale=(900.0, 4000.0), corrected=0.35,
        smooth=(0.2, 0.8), sharpen=(0.0, 0.8), spin_echo="FSE", window_percentiles=(0.5, 99.5),
        sagittal=_sizes({512: 0.93, 256: 0.05, 1024: 0.01, 320: 0.01}),
        axial=_sizes({512: 0.73, 320: 0.13, 256: 0.10, 640: 0.02, 1024: 0.02}),
    ),
    Vendor(
        "Beta Medical", 0.40, fields=((1.5, 0.75), (3.0, 0.25)), full_scale=(200.0, 1400.0), corrected=0.5,
        smooth=(0.0, 0.4), sharpen=(0.0, 0.3), spin_echo="TSE", window_percentiles=(2.0, 98.5),
        sagittal=_sizes({320: 0.42, 384: 0.28, 448: 0.12, 256: 0.04, 768: 0.03, 640: 0.02,
                         (384, 288): 0.04, (448, 336): 0.03, (320, 260): 0.02}),
        axial=_sizes({320: 0.53, 384: 0.16, 640: 0.17, 256: 0.06, 448: 0.04, (320, 260): 0.02, (288, 384): 0.02}),
    ),
    Vendor(
        "Gamma Systems", 0.18, fields=((1.5, 0.6), (3.0, 0.35), (1.0, 0.05)), full_scale=(700.0, 3500.0),
        corrected=0.7, smooth=(0.0, 0.6), sharpen=(0.0, 0.5), spin_echo="TSE", window_percentiles=(1.0, 99.0),
        sagittal=_sizes({448: 0.20, 384: 0.16, 320: 0.07, 576: 0.09, 512: 0.06, 528: 0.04, 560: 0.04, 640: 0.03,
                         672: 0.03, 768: 0.02, 1024: 0.01, 288: 0.02, 224: 0.01, (512, 448): 0.09, (560, 400): 0.07,
                         (384, 320): 0.06}),
        axial=_sizes({512: 0.20, 640: 0.24, 320: 0.14, 384: 0.13, 448: 0.14, 256: 0.05, 560: 0.04, 768: 0.03,
                      224: 0.01, 1024: 0.02}),
    ),
    Vendor(
        "Delta Diagnostics", 0.08, fields=((1.5, 0.7), (0.35, 0.15), (1.2, 0.15)), full_scale=(400.0, 3000.0),
        corrected=0.4, smooth=(0.1, 1.0), sharpen=(0.0, 1.0), spin_echo="FSE", window_percentiles=(1.0, 99.8),
        sagittal=_sizes({448: 0.10, 256: 0.07, 320: 0.05, (760, 640): 0.28, (640, 512): 0.26, (512, 384): 0.24}),
        axial=_sizes({640: 0.30, 512: 0.20, 256: 0.20, 320: 0.15, (512, 640): 0.15}),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Defects:
    """How often each quirk of the real data occurs, as shares of studies or of series; `clean` has none. Counted in the
    competition's tables or told by its entrants: number of axial series, missing levels, extra and coronal series,
    order of the instances, gaps. The others are estimates. Fields that end in ``_every`` are not drawn: one study in so
    many has the defect (0: none), a deliberate exaggeration (really 3 in 1,975), so that a small folder has it too."""

    # The study
    missing_series_every: int = 32  # studies; one of the three series is absent
    two_sizes_every: int = 24  # studies; the axial series changes its matrix half-way
    standard_headers: float = 0.15  # of studies: Modality, valid UIDs, echo times; real: hardly any
    inversion_recovery: float = 0.15  # of studies: STIR in place of T2
    extra_sagittal_t1: float = 0.0035  # of studies
    coronal_as_axial: float = 0.0005  # of studies: a coronal series among the axial ones
    axial_series: tuple[float, ...] = (0.830, 0.155, 0.0142, 0.0008)  # of studies: 1, 2, 3, 4 series
    # Levels that no axial series covers: shares of studies
    axial_below_first_level: float = 0.083  # L1/L2 is missing,
    axial_below_second_level: float = 0.0415  # and L2/L3,
    axial_below_fourth_level: float = 0.0015  # and all but L5/S1
    axial_above_last_level: float = 0.0055  # L5/S1 is missing
    # The series
    tilted_axial: float = 0.62  # of axial series: one short stack per disc, along the disc
    block_axial: float = 0.06  # of axial series: two stacks, each through some levels
    double_axial: float = 0.12  # of axial series: a straight stack and one stack per disc
    duplicate_position: float = 0.03  # of series: a slice was taken twice
    sagittal_reversed: float = 0.36  # of studies: the instances run from left to right
    axial_reversed: float = 0.125  # of series: the instances run from foot to head
    interleaved: float = 0.01  # of series: every second slice first
    instance_gaps: float = 0.0013  # of series: an instance number is left out
    signed_pixels: float = 0.06  # of series, when not compressed by a JPEG
    absent_tags: float = 0.04  # of series: some tags that say nothing of the place are absent
    # The images: shares of series
    saturation: float = 0.6  # sagittal: a band in front of the spine without signal; axial: a third as often
    wrap: float = 0.035  # anatomy beyond the field comes in on the other side
    motion: float = 0.1  # the breathing front leaves replicas, and edges are blurred
    flow: float = 0.25  # the great vessels leave replicas
    clipped: float = 0.03  # the brightest fat exceeds the range
    mask: float = 0.04  # nothing outside a circle or a frame
    padding: float = 0.04  # a narrower field, filled up with zeros
    syntaxes: tuple[tuple[str, float], ...] = (
        ("rle", 0.78), ("explicit", 0.10), ("jpeg_lossless", 0.05), ("jpeg_ls", 0.04), ("jpeg_2000", 0.03),
    )  # fmt: skip

    @classmethod
    def clean(cls) -> "Defects":
        """Return no defect at all: three series, all levels, one size, the usual order, RLE or plain."""
        off: dict[str, Any] = {field.name: 0 for field in fields(cls) if field.type in (int, float)}
        off["tilted_axial"] = cls.tilted_axial  # both are proper ways to scan
        return replace(cls(), **off, axial_series=(1.0,), syntaxes=(("rle", 0.8), ("explicit", 0.2)))


@dataclass(frozen=True)
class Scanners:
    """What the acquisitions are drawn from; pairs are lowest and highest unless they say mean and spread."""

    vendors: tuple[Vendor, ...] = VENDORS
    sagittal_sizes: tuple[int, ...] = ()  # pixels of square matrices in place of the vendors' own; none: theirs
    axial_sizes: tuple[int, ...] = ()
    # The planes. Fields are the longer side, by the labels' distances (0.442 L1/L2 to L5/S1, 0.094 between recesses).
    sagittal_field_mm: tuple[float, float] = (284.0, 24.0)  # mean, standard deviation
    sagittal_spacing_mm: tuple[float, float] = (0.27, 1.18)
    sagittal_slices: tuple[int, int] = (8, 38)
    sagittal_slices_usual: tuple[float, float] = (16.5, 3.0)  # mean, standard deviation
    sagittal_steps_mm: tuple[tuple[float, float], ...] = (
        (3.3, 0.05), (3.6, 0.04), (3.85, 0.04), (4.0, 0.20), (4.4, 0.38), (4.5, 0.10), (4.8, 0.08), (5.0, 0.06),
        (5.2, 0.02), (5.5, 0.02), (6.0, 0.01),
    )  # fmt: skip
    sagittal_half_width_mm: float = 31.0  # at least this far from the middle slice's plane to the outer ones
    sagittal_shift: float = 0.045  # of the field; standard deviation of where the spine lies in it
    axial_field_mm: tuple[float, float] = (193.0, 25.0)  # mean, standard deviation
    axial_spacing_mm: tuple[float, float] = (0.2, 1.1)
    axial_steps_mm: tuple[tuple[float, float], ...] = (
        (1.0, 0.003), (2.0, 0.003), (3.0, 0.03), (3.3, 0.04), (3.6, 0.02), (4.0, 0.14), (4.2, 0.04), (4.4, 0.32),
        (4.5, 0.08), (4.8, 0.08), (5.0, 0.10), (5.5, 0.07), (6.0, 0.05), (7.0, 0.02),
    )  # fmt: skip
    axial_margin_mm: tuple[float, float] = (11.0, 26.0)  # of a straight stack beyond its outer levels
    axial_slices_per_disc: tuple[int, int] = (4, 8)
    axial_shift: tuple[float, float] = (0.018, 0.04)  # of the field; standard deviations, across and down
    gap_share: tuple[float, float] = (0.0, 0.2)  # of the step that lies between two slices
    # The images
    sagittal_detail_mm: tuple[float, float] = (0.7, 1.1)  # size of the acquired pixel, never below the stored
    axial_detail_mm: tuple[float, float] = (0.5, 0.8)
    phase_lines: tuple[float, float] = (0.6, 1.0)  # part of the phase-encoding lines that is acquired
    bandwidth_hz: tuple[float, float] = (150.0, 500.0)  # of one pixel; logarithmic
    noise: tuple[float, float] = (0.006, 0.07)  # standard deviation at the spine, brightness; logarithmic
    tone: tuple[float, float] = (-0.2, 0.2)  # bend of the intensity scale


@dataclass(frozen=True)
class Reader:
    """The simulated radiologist who fills the tables; `phantom.grades` says how. Fields with three values have one for
    each of `targets.SCORE_GROUPS`. Standard deviations are in units of the latent grade; they are set so that the
    oracle scores a little better than the best ensembles whose out-of-fold losses were published (0.249, 0.464, 0.524).
    Of the real labels 1.6, 3.0 and 4.2 % contradict such an ensemble by more than 0.85; as that includes borderline
    readings, around half of each is put down to gross errors."""

    strictness: float = 0.12  # standard deviation of a bias shared by all readings of a study
    group_strictness: tuple[float, ...] = (0.08, 0.22, 0.18)  # of a further one shared by a score group
    noise: tuple[float, ...] = (0.23, 0.50, 0.41)  # of what differs from cell to cell
    off_by_one: float = 0.0074  # of score groups of studies; an entrant dropped 364 of 49,375 cells for it
    swapped: float = 0.005  # of paired score groups of studies; assumed, no source gives a rate
    gross: tuple[float, ...] = (0.008, 0.015, 0.021)  # of cells: the label has nothing to do with the disc
    missing_label: float = 0.001  # of cells, beside those whose series is absent
    missing_coordinate: float = 0.0035  # of labelled cells
    point_jitter_px: float = 1.0  # standard deviation, each axis
    neighbour_slice: float = 0.04  # of points put on a neighbouring slice

    @classmethod
    def clean(cls) -> "Reader":
        """Return a reader who keeps the doubt about each grade, but leaves no gap and makes no slip."""
        careful = replace(cls(), off_by_one=0.0, swapped=0.0, gross=(0.0, 0.0, 0.0))
        return replace(careful, missing_label=0.0, missing_coordinate=0.0, neighbour_slice=0.0)


@dataclass(frozen=True)
class PhantomSet(Validated):
    """Which patients are written, how they are scanned and read; a number out of range is an `InputError`."""

    name: str = ""  # of the standard set, empty for any other
    seed: int = option(1, "of all randomness", least=0)
    studies: int = option(40, "of the training split", least=1)
    test_studies: int = option(10, "of the test split", least=0)
    scanners: Scanners = field(default_factory=Scanners)
    clean: bool = option(False, "without the real set's defects in studies and tables")
    varied: bool = option(False, "with canals and discs that differ as real patients' do")

    @property
    def folder(self) -> Path | None:
        """Where a standard set goes when no folder is named; None where it is no standard set."""
        kinds = "".join(f"-{kind}" for kind in ("clean", "varied") if getattr(self, kind))
        return Path(f"phantom-{self.name}{kinds}") if self.name else None


# Part of the format: any change of one is a new `FORMAT`. No seed of a default (1 of `lumbar phantom` and the demo,
# 20,000,001 of `lumbar pretrain`), nor one that somebody would type: what was trained on must not be tested on.
STANDARD_SETS = {
    "tiny": PhantomSet("tiny", 240_701, 12, 6, Scanners(  # for tests, in seconds; still reaches both foramina
        sagittal_sizes=(128,), axial_sizes=(128,), sagittal_slices=(11, 12), axial_slices_per_disc=(3, 3),
    )),
    "small": PhantomSet("small", 240_702, 400, 200),  # for work without an accelerator
    "standard": PhantomSet("standard", 240_703, 2000, 700),  # as large as the real training and public test sets
}  # fmt: skip


def choose_set(name: str | None, clean: bool, varied: bool = False, **sizes: int | None) -> PhantomSet:
    """Return the standard set `name`, or without a name that of the given ``studies``, ``test_studies``, ``seed``."""
    given: dict[str, Any] = {key: number for key, number in sizes.items() if number is not None}
    if name is None:
        return PhantomSet(**given, clean=clean, varied=varied)
    if name not in STANDARD_SETS:
        raise InputError(f"phantom: there is no set {name}; the sets are {', '.join(STANDARD_SETS)}")
    if given:
        remedy = "leave out --set, or leave out --studies, --test-studies and --seed"
        raise InputError(f"phantom: set {name} has its own sizes and seed; {remedy}")
    return replace(STANDARD_SETS[name], clean=clean, varied=varied)
