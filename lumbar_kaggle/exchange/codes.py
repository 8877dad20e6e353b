"""The codes of the structured report: of SNOMED CT and DICOM where one says what is meant, else of `SCHEME`.

The levels are those of DICOM's CID 7604, severities and their name those of CID 3716, sides those of CID 244."""

from pydicom.sr.coding import Code

SCHEME = "99LUMBAR"


def _own(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


def _snomed(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


PROCEDURE = Code("24968-0", "LN", "MR Lumbar spine")
COMMENT = Code("121106", "DCM", "Comment")
SEVERITY = _snomed("246112005", "Severity")
NO_UNITS = Code("1", "UCUM", "no units")
CONFIDENCE = _own("LOCATION_CONFIDENCE", "Confidence of the location")

# No code of SNOMED CT or RadLex could be found and checked for the foramina and lateral recesses of the lumbar spine.
FINDINGS = {
    "spinal": _snomed("18347007", "Spinal stenosis of lumbar region"),
    "foraminal": _own("FORAMINAL", "Lumbar neural foraminal narrowing"),
    "subarticular": _own("SUBARTICULAR", "Lumbar subarticular stenosis"),
}
"""Per score group."""

LEVELS = {
    "l1_l2": _snomed("80064006", "L1/L2 disc"),
    "l2_l3": _snomed("67459009", "L2/L3 disc"),
    "l3_l4": _snomed("62551000", "L3/L4 disc"),
    "l4_l5": _snomed("84020006", "L4/L5 disc"),
    "l5_s1": _snomed("715056000", "L5/S1 disc"),
}

SIDES = {"left": _snomed("7771000", "Left"), "right": _snomed("24028007", "Right")}

SEVERITIES = {
    "normal_mild": _own("NORMAL_MILD", "Normal or mild"),  # one grade of two of SNOMED CT's
    "moderate": _snomed("6736007", "Moderate"),
    "severe": _snomed("24484000", "Severe"),
}

PROBABILITIES = {
    "normal_mild": _own("P_NORMAL_MILD", "Probability of normal or mild"),
    "moderate": _own("P_MODERATE", "Probability of moderate"),
    "severe": _own("P_SEVERE", "Probability of severe"),
}
