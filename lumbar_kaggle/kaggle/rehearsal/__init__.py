"""Kaggle played on this machine. Here are the settings, light enough to be imported for ``lumbar --help``."""

from dataclasses import dataclass

from lumbar_kaggle.core.settings import check_settings, option
from lumbar_kaggle.inference import DEFAULT_RECIPE

VARIANTS = ("plain", "cut", "hidden", "all")


@dataclass(frozen=True)
class RehearsalSettings:
    """What is rehearsed, and within which limits; the limits' defaults are those of a Kaggle session with two T4."""

    variant: str = option("plain", "cut: training cut and resumed; hidden: a nasty test set", choices=VARIANTS)
    recipe: str = option(DEFAULT_RECIPE, "whose kernels are played", metavar="RECIPE")
    studies: int = option(16, "training studies of the phantom", metavar="N", least=1)
    test_studies: int = option(3, "test studies of the phantom", metavar="M", least=1)
    hidden_studies: int = option(40, "test studies of the hidden set; Kaggle's has about 722", metavar="H", least=1)
    seed: int = option(1, "of the phantom", metavar="S", least=0)
    minutes: float = option(15.0, "limit of a session that has 12 hours on Kaggle", metavar="MIN", above=0)
    config: str = option("", "JSON of settings, {recipe: {setting: value}}; none: those in kernels/", metavar="FILE")
    sandbox: str = option("auto", "auto: the better that works; bwrap: bubblewrap", choices=("auto", "bwrap", "plain"))
    cores: int = option(4, "processors of a session, as far as there are", metavar="N", least=1)
    memory_gb: float = option(31.0, "address space of a session's process in GiB", metavar="GB", above=0)
    disk_gb: float = option(20.0, "most that a session may leave in GiB", metavar="GB", above=0)

    def __post_init__(self) -> None:
        check_settings(self)
