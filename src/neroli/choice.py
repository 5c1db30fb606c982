"""Choice: what a comparison of detectors without OOD data found, as it is written to JSON."""

from __future__ import annotations

import pydantic

from neroli.benchmark.results import Estimate, Failed


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OnStandIns(_Record):
    """How well a detector tells images that stand in for OOD ones from held-out ID images.

    Attributes:
        auroc: as a fraction; over classes left out the mean over the folds.
        fpr95: share of the stand-ins accepted when 95 % of the ID images are; likewise.
        folds: AUROC of every fold of classes left out; empty of corrupted images.
    """

    auroc: Estimate
    fpr95: float
    folds: list[float] = []


class Gain(_Record):
    """By how much the objective of a detector exceeds that of the default, on the same images.

    Attributes:
        value: of AUROC, as a fraction; below zero if the default does better.
        error: its standard error; None if nothing is known of it.
        on: the same of either kind of stand-in, of which it is the mean.
        chance: the probability of so large a gain if there were none on one of them: the larger of
            both, corrected by Holm for the number of detectors compared.
    """

    value: float
    error: float | None
    on: dict[str, float]
    chance: float


class Ranked(_Record):
    """One detector of a comparison.

    Attributes:
        rank: by objective, 1 is best.
        detector: its name.
        left_out: on classes left out in turn; None if none could be.
        corrupted: on corrupted held-out images; None if there were none.
        objective: mean AUROC of what there is, as a fraction, with its 95 % interval.
        gain: over the default; None of the default itself, and if that failed.
        like_best: whether it cannot be told from the best.
        train_test: AUROC between training images and held-out ones; a half if it cannot tell them.
    """

    rank: int
    detector: str
    left_out: OnStandIns | None
    corrupted: OnStandIns | None
    objective: Estimate
    gain: Gain | None
    like_best: bool
    train_test: Estimate


class Choice(_Record):
    """Detectors compared without OOD data, and which to take.

    Attributes:
        recommended: the detector to take.
        default: the one that stands unless another is surely better.
        reason: why the one is recommended, in a sentence.
        alike: the detectors whose objective cannot be told from the highest, one of them.
        ranked: all that gave a result, the best first.
        failures: those that gave none, with the reason.
        warnings: what is doubtful about the images or a detector, a sentence or two each.
        remarks: what the comparison rests on where that is not the usual.
        training_images, held_out_images, corrupted_images: numbers of images.
        dropped: how many further held-out images are training images, or copies of another.
        folds: number of groups of classes left out in turn.
        seed: of the folds and samples.
    """

    recommended: str
    default: str
    reason: str
    alike: list[str]
    ranked: list[Ranked]
    failures: list[Failed]
    warnings: list[str]
    remarks: list[str]
    training_images: int
    held_out_images: int
    corrupted_images: int
    dropped: int = 0
    folds: int
    seed: int

    @property
    def stands(self) -> bool:
        """Whether the default is recommended."""
        return self.recommended == self.default
