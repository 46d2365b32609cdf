"""Why a user is in a segment or not, in one sentence with the numbers."""

import htpy as h

from segmentd.console.layout import moment, sentence
from segmentd.console.visit import Visit
from segmentd.console.words import user as words
from segmentd.domain.memberships import Because, Evidence
from segmentd.domain.segments import shortest


def why(visit: Visit, evidence: Evidence) -> h.Fragment:
    """The sentence for what decides."""
    because = evidence.because()
    percent = None if evidence.percent is None else str(shortest(evidence.percent))
    parts: dict[str, h.Node] = {
        "since": moment(visit, evidence.last_change),
        "until": moment(visit, evidence.until),
        "percent": percent,
        "threshold": None if evidence.threshold is None else visit.language.number(evidence.threshold),
        "bucket": visit.language.number(evidence.bucket),
    }
    match because:
        case Because.EXPLICIT:
            text = words.ADDED_FOR_GOOD if evidence.until is None else words.ADDED_UNTIL
        case Because.NOT_IN_ROLLOUT:
            text = words.COVERED_NO_LONGER if percent is None else words.NOT_COVERED
        case Because.EXCLUDED:
            text = words.EXCLUDED
            parts["percent"] = visit.say(words.NO_PERCENTAGE) if percent is None else f"{percent} %"
        case _:
            text = words.WHYS[because]
    return sentence(visit, text, **parts)
