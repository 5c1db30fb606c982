"""What the server says of one image, in answers, records and pages alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scored:
    """One image that was scored.

    Attributes:
        id: of the record, unique, 32 hexadecimal digits.
        request: id of the request it came with.
        content: hash of the image's content, 32 hexadecimal digits; no file name is kept.
        at: when, in seconds since 1970 (UTC).
        predicted_class: and its name, if that is known.
        score: higher = more OOD.
        p_value: conformal, in (0, 1].
        is_ood: whether the score is above the threshold.
        threshold: of the predicted class.
        guard: version of the guard, 16 hexadecimal digits.
    """

    id: str
    request: str
    content: str
    at: float
    predicted_class: int
    predicted_name: str | None
    score: float
    p_value: float
    is_ood: bool
    threshold: float
    guard: str
