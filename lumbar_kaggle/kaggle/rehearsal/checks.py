"""What must hold of a rehearsed submission."""

from pathlib import Path

import pandas as pd

from lumbar_kaggle.inference.predict import log_path
from lumbar_kaggle.kaggle.rehearsal.hidden import HiddenSet
from lumbar_kaggle.kaggle.rehearsal.injuries import LEFT_OUT
from lumbar_kaggle.kaggle.rehearsal.play import Played
from lumbar_kaggle.kaggle.rehearsal.transcript import Step, Transcript
from lumbar_kaggle.score.comparison import score_file
from lumbar_kaggle.tables.submission import validate


def check_submission(transcript: Transcript, played: Played, competition: Path, truth: Path) -> None:
    """Check that a session's submission is complete and valid, and score it.

    Args:
        transcript: gets the check and the score.
        played: the inference session.
        competition: the folder that it read.
        truth: label table of the test studies.

    Raises:
        InputError: the submission is missing or has a fault.
    """
    path = played.output / "submission.csv"
    faults = validate(path, competition)
    sentence = f"{played.name}: the submission is complete and valid"
    transcript.check(sentence, not faults, str(faults[0]) if faults else "")
    scoring = score_file(path, truth, competition / "train.csv")
    totals = [score.total for score in (scoring.score, scoring.prior)]
    words = [f"{total:.4f}" if total is not None else "none" for total in totals]
    transcript.note(Step(f"{played.name}: score", 0.0, f"{words[0]}, the prior's {words[1]}"))


def check_hidden(transcript: Transcript, played: Played, hidden: HiddenSet) -> None:
    """Check that each odd study came out as it must, and that the log tells why.

    Raises:
        InputError: one did not.
    """
    log = pd.read_csv(
        log_path(played.output / "submission.csv"), dtype={"study_id": str}, keep_default_na=False
    ).set_index("study_id")
    for odd in hidden.odd:
        if odd.outcome == LEFT_OUT:
            told = odd.study_id in played.log and odd.study_id not in log.index
            found = "no word of it in the session's log"
        else:
            status, reason = log.loc[odd.study_id, ["status", "reason"]]
            told = status == odd.outcome and (bool(reason) or not odd.noted)
            found = f"status {status!r}, reason {reason!r}"
        sentence = f"{odd.what}: {odd.outcome}{', with the reason in the log' if odd.noted else ''}"
        transcript.check(sentence, told, f"(study {odd.study_id}: {found})")
    sound = log[~log.index.isin([odd.study_id for odd in hidden.odd])]
    transcript.check(f"all {len(sound)} sound studies are graded", bool((sound["status"] == "graded").all()))
