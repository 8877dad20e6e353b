"""What may be turned: how often each defect occurs, and how the scanners vary."""

from dataclasses import dataclass

FORMAT = "phantom-1"
"""Version of the phantom; the same version, seed and index give the same bytes."""

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Defects:
    """Shares of studies (or of series) with each peculiarity of the real set.

    Fields that end in ``_every`` are not drawn: one study of so many has the defect, so that a small
    folder has it too.
    """

    missing_series_every: int = 32  # studies; one of the three series is absent
    two_sizes_every: int = 24  # studies; the axial series changes its matrix half-way
    standard_headers: float = 0.15  # of studies: Modality, valid UIDs, echo times
    inversion_recovery: float = 0.15  # of studies: STIR in place of T2
    two_axial_series: float = 0.15  # of studies: an upper and a lower axial series
    tilted_axial: float = 0.5  # of studies: one short stack per disc, along the disc
    axial_below_first_level: float = 0.083  # of studies: no axial slice at L1/L2
    axial_below_second_level: float = 0.042  # of studies: nor at L2/L3
    duplicate_position: float = 0.05  # of series: the last slice was taken twice
    reversed_order: float = 0.4  # of series: instances run left to right, or foot to head
    signed_pixels: float = 0.06  # of series, when not compressed by a JPEG
    syntaxes: tuple[tuple[str, float], ...] = (
        ("rle", 0.72),
        ("explicit", 0.10),
        ("jpeg_lossless", 0.06),
        ("jpeg_ls", 0.06),
        ("jpeg_2000", 0.06),
    )


@dataclass(frozen=True)
class Scanners:
    """Ranges that the acquisitions are drawn from; pairs are lowest and highest."""

    sagittal_sizes: tuple[int, ...] = (256, 320, 320, 384)  # pixels
    sagittal_field_mm: tuple[float, float] = (270.0, 320.0)
    sagittal_slices: tuple[int, int] = (11, 17)
    sagittal_step_mm: tuple[float, float] = (4.4, 5.2)
    sagittal_shift: float = 0.04  # of the field; standard deviation of where the spine lies in it
    axial_sizes: tuple[int, ...] = (256, 320, 320)
    axial_field_mm: tuple[float, float] = (180.0, 220.0)
    axial_step_mm: tuple[float, float] = (4.4, 5.4)
    axial_slices_per_disc: tuple[int, int] = (4, 6)
    gap_share: tuple[float, float] = (0.08, 0.2)  # of the step that lies between two slices
    noise: tuple[float, float] = (0.012, 0.035)  # standard deviation, of the brightest tissue
    bias: tuple[float, float] = (0.1, 0.4)  # depth of the coil's fall-off
    blur_pixels: tuple[float, float] = (0.5, 0.8)  # standard deviation of the point spread
    full_scale: tuple[float, float] = (500.0, 1900.0)  # stored value of the brightest tissue


@dataclass(frozen=True)
class Reader:
    """The simulated radiologist who fills the tables."""

    noise: float = 0.35  # standard deviation of a reading, in units of the latent grade
    missing_label: float = 0.001  # of cells, beside those whose series is absent
    missing_coordinate: float = 0.0035  # of labelled cells
    point_jitter_px: float = 1.0  # standard deviation, each axis
    neighbour_slice: float = 0.04  # of points put on a neighbouring slice
