"""What slices show: their plane, and which of the three kinds a series is (sagittal T1, sagittal T2 or STIR, axial T2).

A series of the lumbar spine is told by what it is: plane, sequence, times and region of its headers. Words of the
description say what the headers leave open. What is absent speaks against no series: the competition's files hold
nothing but "T1" or "T2"."""

import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from lumbar_kaggle.core.targets import SERIES_DESCRIPTIONS
from lumbar_kaggle.dicom import geometry
from lumbar_kaggle.dicom.grids import is_grid, stem
from lumbar_kaggle.dicom.instances import Instance

# The kinds in the words of the competition's tables.
KIND_WORDS = {kind: words for words, kind in SERIES_DESCRIPTIONS.items()}

# Spin echo: T1 has TR under around 1,000 ms and TE under 30, T2 has TR over 2,000 and TE over 80 (Westbrook, MRI in
# Practice, ch. 2); these bounds lie in the gaps.
LONG_ECHO_MS, LONG_REPETITION_MS = 60.0, 1500.0
SPIN_ECHO_MS = 150.0  # repetition times below are gradient echoes': spin-echo T1 takes 300 ms and more
FAT_NULLING_MS = 300.0  # STIR nulls fat with 120 to 250 ms, by field strength; T1 FLAIR takes 700 and more
# Planning images have one or two in a plane, a disc's axial stack has three and more; single sagittal slices that were
# kept of a series say by their description what they are.
FEWEST_SLICES = 3

# What an image may be instead of a plain magnitude image, and the values of ImageType that say so: the standard's
# (PS3.3 §C.8.3.1.1.1 and §C.8.13.3.1.1) and vendors'.
_CONTENTS = {
    "a phase image": r"P|PHASE([ _]MAP)?",
    "a real part": r"R|REAL",
    "an imaginary part": r"I|IMAGINARY",
    "water only": r"W|WATER",
    "fat only": r"F|FAT",
    "in phase": r"IP|IN[ _-]?PHASE",
    "out of phase": r"OP|(OPP(OSED)?|OUT)([ _-]OF)?[ _-]?PHASE",
    "a map": r"ADC.*|FA|TRACEW?|(.*[ _])?MAP|DIFFUSION|PERFUSION|VELOCITY",
    "a projection": r".*PROJECTION.*|M(AX|IN)?[ _]?IP|MAXIMUM|MINIMUM",
    "a subtraction": r"SUB(TRACT(ION)?)?",
    "a localizer": r"LOCALI[SZ]ER",
    "a picture of a screen": r"SCREEN[ _]SAVE|SCREENSHOT",
}

_AGENT = r"(c|ce|cm|km|gd|gad|gado\w*|contr?ast\w*|kontrast\w*|mdc|inj\w*|dotarem|magnevist|clariscan|prohance)\b"
_WITHOUT = r"\b(pre|no|non|not|without|w o|wo|ohne|sans|senza|sin|sem|before|vor|avant|zonder|nativ\w*) "
_ENHANCED = rf"\+ ?{_AGENT}|\bc ?\+|\bpost\b(?! ?op)|\bapres\b|\bnach\b|\benhanced\b|\b(?!c\b|cm\b){_AGENT}"

# Other uses than the plain diagnostic one, as descriptions name them.
_OTHER_USES = {
    "a planning image": r"\b(locali[sz](er|ador|atore)|loc|scout|survey|topogram|pilot|reperage)\b",
    "a projection or myelogram": r"\b(mip|minip|thick slab|projection|myelo\w*|mrm|mrcp|urogra\w*)\b",
    "a map": r"\b([de]?adc|map|maps|mapping|t[12] ?map\w*)\b",
    "diffusion, perfusion or spectroscopy": r"\b(dwi|dti|diff\w*|resolve|trace\w*|b\d{2,4}|perf\w*|dce|spectro\w*)\b",
    "a subtraction": r"\b(sub|subs|subtr\w*|soustraction)\b",
    "one part of a Dixon scan": r"\b(dixon|mdixon|ideal|flex)\b.* (op|out|in|ip|f|fat)\b(?! ?sat| ?sup)|"
    r"\b(opp|oop|opposed|in phase|out of phase|out phase|inphase|outphase|fat only|fatonly)\b",
    "a gradient echo": r"\b(t2\*|t2 ?star\w*|t2s\b|gre|(?:ge|fl)[23]d|flash|vibe|lava|thrive|[mb]?ffe|tfe|medic|merge|"
    r"swi|swan|trufi\w*|fiesta\w*|ciss|mprage|bravo|f?spgr)",
}

# Regions of the body as descriptions name them in English, German, French, Spanish, Italian and Dutch.
_SPINE = r"(?:spine|spinal|column|col\b|ws\b|wirbels\w*|rachis|columna|colonna|wervelkolom)"
_REGIONS = {
    "lumbar": r"\b(l ?[1-5]\b|s[12]\b|lumb|lomb|l ?sp|ls sp|lws\b|lw[kz]\b|lende|thoracolumb|dorsolumb|"
    r"tl ?sp|cauda)",
    "whole spine": rf"\b(whole|total|full|entire|complete|ganze|gesamte|toute) ?{_SPINE}|\bgws\b|"
    r"\b(holo|pan)spin",
    "cervical": r"\b(c ?[1-7]\b|cerv|zervi|c ?sp|hws\b|hwk\b|cw[kz]\b|nuque|halswirbel|neck)",
    "thoracic": r"\b(th?([4-9]|1[0-2])\b|thora|tora|dors|t ?sp|bws\b|bwk\b|twk\b|brustwirbel)",
    "other": r"\b(brain|head|skull|crani|schadel|cerebr|hirn|knee|knie|genou|hips?\b|hufte|shoulder|schulter|"
    r"epaule|ankle|foot|hand|wrist|elbow|heart|cardiac|chest|breast|prostat|pelvi|becken|bassin|sij?\b|isg\b|"
    r"sacro ?ilia|iliosa[kc]ral|abdom|liver|leber|kidney|femur|thigh|brachial|plexus)",
}

# Values of BodyPartExamined (PS3.16 annex L) that no technician leaves on a lumbar spine.
_FOREIGN_BODY_PARTS = re.compile(
    "[CT]SPINE|CTSPINE|HEAD|BRAIN|NECK|SKULL|KNEE|HIP|SHOULDER|ANKLE|FOOT|HAND|WRIST|ELBOW|HEART|CHEST|BREAST|"
    "PROSTATE|THIGH|FEMUR|LIVER|KIDNEY"
)


_STIR = r"\b(stir|tirm)"
_SAGITTAL = r"\bsag(it\w*|t[12]\w*)?\b"
_NAMED_WEIGHTING = r"\b(?:s|sag|ax|tra|cor)?(t[12])(?!\d)"  # "sT1W", "SagT2": vendors' spellings; T10 to T12: vertebrae


def contents(instance: Instance) -> list[str]:
    """Return what ImageType says that an image is, in words; empty for a plain magnitude image."""
    values = instance.image_type[2:]
    return [name for name, form in _CONTENTS.items() if any(re.fullmatch(form, one) for one in values)]


def places(instances: Sequence[Instance]) -> int:
    """Return at how many places of the body slices lie; those without position count one each."""
    known = [item.position for item in instances if item.position is not None]
    return len(set(map(tuple, np.round(known, 1).tolist()))) + len(instances) - len(known)


def _count(group: Sequence[Instance]) -> int:
    """Return how many slices a series has; all at one place: the positions cannot be meant."""
    return places(group) if places(group) > 1 else len(group)


def plane_of(instances: Sequence[Instance]) -> str | None:
    """Return the plane that most slices are nearest to, or None where no orientation is known."""
    planes = [item.plane for item in instances if item.plane]
    return max(geometry.AXES, key=planes.count) if planes else None


def may_be(kind: str, instances: Sequence[Instance]) -> bool:
    """Whether slices of a series said to be of a kind may lie in its plane: tilted by less than 60°, or not known."""
    axis = geometry.AXES.index(kind.split("_")[0])
    known = [item.orientation for item in instances if item.orientation is not None]
    return not known or float(np.median(np.abs(geometry.slice_normal(known)[:, axis]))) > 0.5


def recognise_series(group: Sequence[Instance]) -> tuple[str | None, str]:
    """Return the kind of a group of slices, see `series.group_slices`, or None and why it is none."""
    plane = plane_of(group)
    fitting = [item for item in group if item.plane == plane]
    item = fitting[len(fitting) // 2]
    if item.kind:
        fits = may_be(item.kind, group)
        return (item.kind, "") if fits else (None, f"named {KIND_WORDS[item.kind]}, but its slices are {plane}")
    words = _words(item.description)
    said = bool(re.search(_SAGITTAL, words) and re.search(rf"{_NAMED_WEIGHTING}|{_STIR}", words))
    if plane is None and not said:
        return None, (
            "the series has no ImageOrientationPatient, and its description does not say sagittal T1 or T2, "
            "so its kind cannot be told"
        )
    plane = plane or "sagittal"
    name = f"{'an' if plane == 'axial' else 'a'} {plane} series (description {item.description!r})"
    kind, other = f"{plane}_{_weighting(item, words)}", _other_use(item, words)
    if other or kind not in KIND_WORDS:
        told = f"; if it is one, {stem(item.path)}.json can say so" if is_grid(item.path) else ""
        return None, f"{name} is {other or 'none of sagittal T1, sagittal T2/STIR, axial T2'}{told}"
    count = _count(group)
    if count < FEWEST_SLICES and not (said and plane == "sagittal"):
        return None, f"{name} has too few slices ({count}; at least {FEWEST_SLICES})"
    return kind, ""


def preference(group: Sequence[Instance]) -> tuple[tuple[bool | int, str], ...]:
    """Return pairs of a value, of which the greater is better, and the words for it. Of several series of a kind they
    decide which is taken, by the earliest point that differs."""
    item = group[len(group) // 2]
    words = _words(f"{item.description} {item.protocol}")
    suppressed = _fat_nulled(item) or re.search(r"\b(fs|fatsat|fat sat\w*|spair|spir)\b", words)
    return (
        (_count(group) >= FEWEST_SLICES, f"it has {FEWEST_SLICES} slices or more"),
        ("whole spine" not in _regions(words), "it is no whole spine"),
        ("lumbar" in _regions(words) | _regions(_words(item.body_part)), "it names the lumbar spine"),
        (not suppressed, "its fat is not suppressed"),
        (not contents(item), "it is a plain magnitude image"),
        (item.echo_time_ms is None or _by_times(item) == _weighting(item, words), "its times agree with its name"),
        (places(group), "it has more slices"),
    )


def _words(text: str) -> str:
    """Return text in lower case, without accents, its words parted by single spaces; + and * stay."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return " ".join(re.sub(r"[^a-z0-9+*]+", " ", plain).split())


def _other_use(item: Instance, words: str) -> str:
    """Return what else the series is than a plain spin-echo series of the lumbar spine, or empty text."""
    if item.modality and item.modality.upper() != "MR":
        return f"of modality {item.modality}"
    if bad := [content for content in contents(item) if content not in ("water only", "a real part")]:
        return f"{bad[0]} by its ImageType"
    if item.b_value:
        return f"a diffusion image (b = {item.b_value:g} s/mm²)"
    if item.acquisition_contrast in ("DIFFUSION", "PERFUSION", "FLOW_ENCODED", "TAGGING"):
        return f"no plain image (AcquisitionContrast {item.acquisition_contrast})"
    agent = _words(item.contrast_agent)
    if agent and not re.fullmatch(rf"no|none|n|0|n a|nil|unknown|without.*|{_WITHOUT}.*", agent):
        return f"taken after contrast agent ({item.contrast_agent})"
    if re.search(_ENHANCED, re.sub(_WITHOUT + _AGENT, " ", words)):
        return "taken after contrast agent by its description"
    if named := next((use for use, form in _OTHER_USES.items() if re.search(form, words)), ""):
        return f"{named} by its description"
    kinds = set(item.sequence.upper().split())
    if "SE" not in kinds and kinds & {"GR", "EP"}:
        return f"no spin echo (ScanningSequence {item.sequence})"
    if item.repetition_time_ms is not None and 0 < item.repetition_time_ms < SPIN_ECHO_MS:
        return f"no spin echo (RepetitionTime {item.repetition_time_ms:g} ms)"
    # Of the region, the description is believed before the rest.
    regions = _regions(words) or _regions(_words(item.protocol))
    if regions:
        return "" if regions & {"lumbar", "whole spine"} else f"of another region ({', '.join(sorted(regions))})"
    part = re.sub("[^A-Z]", "", item.body_part.upper())
    return f"of another region (BodyPartExamined {item.body_part})" if _FOREIGN_BODY_PARTS.fullmatch(part) else ""


def _regions(words: str) -> set[str]:
    return {region for region, form in _REGIONS.items() if re.search(form, words)}


def _weighting(item: Instance, words: str) -> str | None:
    """Return ``t1`` or ``t2``: the one weighting that the words name, else what the times say; or None."""
    named = set(re.findall(_NAMED_WEIGHTING, words))
    # STIR before T1: "STIR T1" sequences exist and are read as fluid-sensitive ones.
    named = {"t2"} if re.search(_STIR, words) else named
    dense = item.echo_time_ms is not None and re.search(r"\b(s|sag)?(pd|dp|proton)", words)
    return named.pop() if len(named) == 1 and not dense else _by_times(item)


def _fat_nulled(item: Instance) -> bool:
    inversion = math.nan if item.inversion_time_ms is None else item.inversion_time_ms
    return "IR" in item.sequence.split() and inversion <= FAT_NULLING_MS


def _by_times(item: Instance) -> str | None:
    if _fat_nulled(item):
        return "t2"
    if item.echo_time_ms is None:
        return None
    if item.echo_time_ms >= LONG_ECHO_MS:
        return "t2"
    # A short echo with a long repetition is proton density, which none of the three series is; but T1 FLAIR, whose
    # long inversion time nulls the fluid, is T1.
    long = (item.repetition_time_ms or 0) >= LONG_REPETITION_MS
    return None if long and "IR" not in item.sequence.split() else "t1"
