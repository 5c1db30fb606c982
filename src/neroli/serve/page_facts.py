"""What the review pages say of one image, in words and figures for people who know no p-values."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from neroli.explain.facts import VerdictBadge, plain
from neroli.explain.report import article_facts
from neroli.serve.page_charts import calibration_chart
from neroli.serve.scored import Scored

if TYPE_CHECKING:
    from neroli.calibration import Calibration
    from neroli.explain.explanation import Explanation
    from neroli.serve.decisions import Decisions
    from neroli.serve.filters import Record

DECIDED = {"ood": "really out of distribution", "fine": "actually fine"}


@dataclass(frozen=True)
class ImageView:
    """One record as a page shows it.

    Attributes:
        predicted, score, threshold, p_value: as text.
        at, at_iso: when it was scored, for people and for programs.
        decision, decided: the decision and what it means; None and "" without one.
        thumbnail: the address of a picture that holds it; None if it was not kept.
    """

    id: str
    content: str
    badge: VerdictBadge
    predicted: str
    score: str
    threshold: str
    p_value: str
    at: str
    at_iso: str
    decision: str | None
    decided: str
    note: str
    thumbnail: str | None

    @classmethod
    def of(cls, scored: Scored | Record, thumbnail: bytes | None = None) -> ImageView:
        """Of a record, or of an image that was just scored."""
        at = datetime.fromtimestamp(scored.at, UTC)
        decision = getattr(scored, "decision", None)
        return cls(
            id=scored.id,
            content=scored.content,
            badge=VerdictBadge.of(scored),
            predicted=class_name(scored),
            score=f"{scored.score:.4g}",
            threshold=f"{scored.threshold:.4g}",
            p_value=f"{scored.p_value:.2g}",
            at=f"{at:%d %b %Y, %H:%M} UTC",
            at_iso=f"{at:%Y-%m-%dT%H:%M:%SZ}",
            decision=decision,
            decided=DECIDED.get(decision or "", ""),
            note=getattr(scored, "note", ""),
            thumbnail=None if thumbnail is None else jpeg_address(thumbnail),
        )


@dataclass(frozen=True)
class Place:
    """Where a score lies: the p-value in words, and the calibration scores as a chart, if known."""

    in_words: str
    position: str
    chart: Markup | None

    @classmethod
    def of(cls, scored: Scored, calibration: Calibration, guard_version: str) -> Place:
        """Among the calibration scores, if the same guard scored it."""
        in_words = p_value_in_words(scored.p_value)
        if scored.guard != guard_version:
            return cls(
                in_words,
                f"Another version of the guard scored it ({scored.guard}), whose calibration "
                "scores are not here.",
                None,
            )
        values, of_class = calibration.scores, ""
        if scored.predicted_class in calibration.own_classes:
            values = values[calibration.predictions == scored.predicted_class]
            of_class = f" predicted {class_name(scored)}"
        lower = int((values < scored.score).sum())
        images = f"{len(values):,} calibration images{of_class}"
        position = (
            f"higher than those of all {images}"
            if lower == len(values)
            else f"higher than those of {lower:,} of the {images}"
            if lower
            else f"not higher than that of any of the {images}"
        )
        chart = calibration_chart(values, scored.threshold, scored.score)
        return cls(in_words, f"Its score is {position}.", chart)


def p_value_in_words(p_value: float) -> str:
    """What a p-value means, as a frequency."""
    of = next((n for n in (100, 1000, 10_000, 100_000) if p_value * n >= 3), 1_000_000)
    count = round(p_value * of)
    return (
        f"Of {of:,} ordinary images, like those the guard was calibrated on, about {count:,} or "
        "fewer would score this high."
    )


def class_name(scored: Scored) -> str:
    """What the predicted class is called."""
    name = scored.predicted_name
    return f"class {scored.predicted_class}" if name is None else plain(name)


def explained(explanation: Explanation) -> dict[str, Any]:
    """What the templates of a page show of an explanation."""
    facts = article_facts(explanation)
    names = ("picture", "prediction", "deviation")[: len(facts["pictures"])]
    views = zip(names, facts["pictures"], strict=True)
    return facts | {"views": [(name, *view) for name, view in views]}


def jpeg_address(content: bytes) -> str:
    """A JPEG as the address of an image that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def summary(found: Decisions, promised: float | None) -> str:
    """What was decided, and what that says of the threshold.

    Args:
        found: of one guard.
        promised: false-alarm rate of that guard, in 0..1; None if it is not known here.
    """
    if not found.images:
        return "This guard has scored no image yet."
    of = f"{found.images:,} image{'' if found.images == 1 else 's'} scored, {found.flagged:,} "
    of += f"flagged; {found.decided:,} of these reviewed"
    if found.decided:
        of += f" ({found.flagged_fine:,} actually fine, {found.flagged_ood:,} really OOD)"
    return f"{of}." if promised is None else f"{of}. {found.judged(promised)}"
