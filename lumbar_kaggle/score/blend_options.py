"""The command-line options of ``lumbar blend``; light, so that ``lumbar --help`` answers at once."""

import argparse
from pathlib import Path


def add_blend_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `blend_files.blend_files`, under the names of its parameters."""
    parser.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="OOF.csv",
        help="out-of-fold predictions: row_id, normal_mild, moderate, severe; any conditions, any rows",
    )
    parser.add_argument("--labels", type=Path, required=True, help="labels, with the columns of train.csv")
    parser.add_argument("--folds", type=Path, required=True, help="study_id, fold: by which they were made")
    parser.add_argument("--out", type=Path, required=True, help="cross-fitted result to write, as CSV")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="BLEND.json",
        help="blend to write, for new predictions of the same files",
    )
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="NOISE.csv",
        help="labels to write that the result contradicts, with a smaller weight for a retraining",
    )
    parser.add_argument(
        "--noise-above",
        type=float,
        default=0.8,
        metavar="SHARE",
        help="contradicted: the label's probability is less than 1 minus this (default: 0.8)",
    )
