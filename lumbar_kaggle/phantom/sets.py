"""The standard sets: fixed seeds and sizes, so that two people's phantoms of one name are the same bytes."""

from dataclasses import dataclass, field
from pathlib import Path

from lumbar_kaggle.core.errors import InputError
from lumbar_kaggle.phantom.settings import Scanners

STUDIES, TEST_STUDIES, SEED = 40, 10, 1
"""What a phantom that is no standard set has where nothing else is said."""


@dataclass(frozen=True)
class PhantomSet:
    """Which patients are written.

    Attributes:
        name: of the standard set, empty for any other.
        seed: of all randomness.
        studies, test_studies: how many patients.
        scanners: how they are scanned.
    """

    name: str
    seed: int
    studies: int
    test_studies: int
    scanners: Scanners = field(default_factory=Scanners)

    @property
    def counts(self) -> tuple[int, int]:
        """Studies of each split, in the order of `settings.SPLITS`."""
        return self.studies, self.test_studies


# No seed of a default (1 of `lumbar phantom` and the demo, 20,000,001 of `lumbar pretrain`), nor a small
# number that somebody would type: what was pretrained or tuned on must not come back as a test patient.
STANDARD_SETS = {
    chosen.name: chosen
    for chosen in (
        # For tests, in seconds: small matrices and few slices, which still reach both foramina.
        PhantomSet(
            "tiny",
            240_701,
            12,
            6,
            Scanners(
                sagittal_sizes=(128,),
                sagittal_slices=(11, 12),
                axial_sizes=(128,),
                axial_slices_per_disc=(3, 3),
            ),
        ),
        # For work without an accelerator.
        PhantomSet("small", 240_702, 400, 200),
        # As large as the real training set (1,975 studies) and the public part of its hidden test set.
        PhantomSet("standard", 240_703, 2000, 700),
    )
}
"""Name → set; they are part of the format, so any change of one is a new `settings.FORMAT`."""


def choose_set(
    name: str | None, studies: int | None, test_studies: int | None, seed: int | None
) -> PhantomSet:
    """Return the standard set `name`, or without a name the set of the given sizes and seed.

    Args:
        name: one of `STANDARD_SETS`, or None.
        studies, test_studies, seed: None for the defaults of this module.

    Raises:
        InputError: there is no such set, or a name is given together with a size or a seed.
    """
    if name is None:
        return PhantomSet(
            "",
            SEED if seed is None else seed,
            STUDIES if studies is None else studies,
            TEST_STUDIES if test_studies is None else test_studies,
        )
    if name not in STANDARD_SETS:
        raise InputError(f"phantom: there is no set {name}; the sets are {', '.join(STANDARD_SETS)}")
    if (studies, test_studies, seed) != (None, None, None):
        raise InputError(
            f"phantom: set {name} has its own sizes and seed; leave out --set, "
            "or leave out --studies, --test-studies and --seed"
        )
    return STANDARD_SETS[name]


def default_folder(chosen: PhantomSet, clean: bool) -> Path | None:
    """Return where a standard set goes when no folder is named; None where it is no standard set."""
    return Path(f"phantom-{chosen.name}{'-clean' if clean else ''}") if chosen.name else None
