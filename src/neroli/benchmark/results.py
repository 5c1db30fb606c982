"""What a benchmark found, as it is written to ``results.json`` and read again."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from neroli.data.named.sets import Nearness

SCHEMA_VERSION = 1

Role = Literal["train", "calibration", "test", "ood"]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Record):
    """A number with its 95 % interval, in a benchmark by bootstrap."""

    value: float
    low: float
    high: float


class SetFacts(_Record):
    """One set of images.

    Attributes:
        name: of an OOD set its own, otherwise its role.
        role: what it is used for.
        nearness: of an OOD set, if the suite says.
        images: how many were readable.
        unreadable: how many were not.
        accuracy: of the classifier, as a fraction; None without labels.
    """

    name: str
    role: Role
    nearness: Nearness | None = None
    images: int
    unreadable: int = 0
    accuracy: float | None = None


class OnSet(_Record):
    """How well a detector tells one OOD set from the ID test images; all are fractions.

    Attributes:
        flagged: share of the OOD images above the threshold that promises the false-alarm rate;
            None if there were too few images to calibrate it.
    """

    auroc: Estimate
    fpr95: Estimate
    aupr_in: float
    aupr_out: float
    flagged: float | None


class Mean(_Record):
    """Over several OOD sets, each counting the same; fractions."""

    auroc: Estimate
    fpr95: Estimate


class Cost(_Record):
    """What a detector costs.

    Attributes:
        fit_seconds: what it would take alone, without reading the activations.
        score_seconds: for 1,000 images, from their activations.
        state_bytes: what a saved guard holds of it.
        network_ratio: how long the network takes with the layers, gradients or further runs that
            it needs, beside a plain run; roughly, of a few images.
    """

    fit_seconds: float
    score_seconds: float
    state_bytes: int
    network_ratio: float = 1.0


class Row(_Record):
    """One detector with one choice of hyper-parameters.

    Attributes:
        label: what it is called in tables; unique.
        detector: its name, as ``neroli detectors`` lists it.
        hyperparameters: all of them.
        tuned: whether they were chosen by the search that uses no OOD data.
        sets: by OOD set.
        mean, near, far: over all OOD sets, and over those near and far; None without any.
        flagged_id: share of ID test images above the threshold; to compare with the promise.
        train_test: AUROC between ID training and ID test images; far from a half, the detector
            tells whether an image was trained on.
        memorises: whether it is.
        behind_best: mean AUROC of the best row less that of this, of the same resamples; None for
            the best.
        mean_rank: over the OOD sets by AUROC, 1 is best; equal ones share ranks.
        cost: beside the network.
    """

    label: str
    detector: str
    hyperparameters: dict[str, Any]
    tuned: bool = False
    sets: dict[str, OnSet]
    mean: Mean
    near: Mean | None = None
    far: Mean | None = None
    flagged_id: float | None
    train_test: Estimate
    memorises: bool
    behind_best: Estimate | None = None
    mean_rank: float
    cost: Cost

    @property
    def as_good_as_best(self) -> bool:
        """Whether the paired interval does not tell it from the best."""
        return self.behind_best is None or self.behind_best.low <= 0


class Failed(_Record):
    """A detector that gave no result, with the reason."""

    label: str
    reason: str


class Duplicates(_Record):
    """Images with the same content in two sets that should share none."""

    first: str
    second: str
    images: int


class CriticalDifference(_Record):
    """Nemenyi's test over OOD sets: mean ranks that differ by less are not told apart.

    Attributes:
        distance: the critical difference of mean ranks at 5 %.
        p_value: of Friedman's test that all detectors are alike.
        sets: number of OOD sets ranked over.
    """

    distance: float
    p_value: float
    sets: int


class Trial(_Record):
    """One choice of hyper-parameters in the search without OOD data; AUROC as fractions.

    Attributes:
        settings: those that differ from the published default; empty for the default itself.
        left_out: mean AUROC over the classes left out in turn; None if none could be.
        corrupted: AUROC of corrupted against clean held-out images; None if there were none.
    """

    settings: dict[str, Any]
    left_out: float | None
    corrupted: float | None

    @property
    def objective(self) -> float:
        """What is maximised: the mean of what is known."""
        known = [value for value in (self.left_out, self.corrupted) if value is not None]
        return sum(known) / len(known)


class Tuning(_Record):
    """The search of one detector: all trials, the published default first, and the choice.

    Attributes:
        trials: that succeeded; none if the default failed, as there is nothing to compare with.
        chosen: settings of the trial chosen; empty for the default.
        failures: the trials that failed.
    """

    detector: str
    trials: list[Trial]
    chosen: dict[str, Any]
    failures: list[Failed] = []


class Published(_Record):
    """A figure of a paper's own table, in %; never mixed with what was measured.

    Attributes:
        detector: ours of the same name, if there is one.
    """

    paper: str
    id_set: str
    model: str
    method: str
    detector: str | None = None
    auroc: float
    fpr95: float
    source: str


class ModelFacts(_Record):
    """The classifier that was wrapped."""

    spec: str
    head: str
    weights_hash: str
    preprocessing: str
    features: int
    classes: int


class Forward(_Record):
    """The network's own time.

    Attributes:
        images: that went through it in this run; 0 if all activations were there already.
        seconds: that took, with reading, decoding and storing.
    """

    images: int
    seconds: float


class Results(_Record):
    """All that a benchmark found; rows in descending order of mean AUROC."""

    schema_version: int = SCHEMA_VERSION
    suite: str
    about: str = ""
    command: str
    finished: str
    versions: dict[str, str]
    seed: int
    resamples: int
    false_alarm_rate: float
    promise: str
    calibrated_on: str
    model: ModelFacts
    sets: list[SetFacts]
    rows: list[Row]
    failures: list[Failed] = []
    duplicates: list[Duplicates] = []
    critical_difference: CriticalDifference | None = None
    tuning: list[Tuning] = []
    published: list[Published] = []
    remarks: list[str] = []
    forward: Forward

    @property
    def ood_sets(self) -> list[SetFacts]:
        """The OOD sets, in the suite's order."""
        return [each for each in self.sets if each.role == "ood"]

    def default_of(self, detector: str) -> Row | None:
        """The row of a detector with its published defaults: the plain one, called as it is."""
        return next((row for row in self.rows if row.label == detector), None)

    def tuned_of(self, detector: str) -> Row | None:
        """The row of what the search without OOD data chose; None if that is the default."""
        found = (row for row in self.rows if row.tuned and row.detector == detector)
        return next(found, None)

    def facts_of(self, role: Role) -> SetFacts | None:
        """The ID set of a role, if there is one."""
        return next((each for each in self.sets if each.role == role), None)
