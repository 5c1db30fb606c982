"""Distance and subspace detectors against the authors' programs, on CIFAR-10 DenseNet features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from golden import activations
from neroli import Activations, LinearHead
from neroli.detectors import (
    FDBD,
    KNN,
    NCDD,
    NECO,
    SHE,
    CoP,
    CoRP,
    Detector,
    Mahalanobis,
    NNGuide,
    RelativeMahalanobis,
    Residual,
    ViM,
)

pytestmark = pytest.mark.realdata

# Detector, relative and absolute tolerance.
VARIANTS: dict[str, tuple[Detector, float, float]] = {
    "Mahalanobis": (Mahalanobis(), 1e-6, 0),
    "RMDS": (RelativeMahalanobis(), 0, 5e-4),
    "SHE": (SHE(), 1e-12, 0),
    "fDBD": (FDBD(), 1e-12, 0),
    "KNN": (KNN(k=50), 2e-6, 0),
    "ViM": (ViM(dim=171), 1e-5, 0),
    "Residual": (Residual(dim=171), 1e-5, 0),
    "NECO": (NECO(100, max_logit=False), 1e-7, 0),
    "CoP": (CoP(0.85), 2e-6, 0),
    "NCDD": (NCDD(), 2e-6, 0),
}
DEPENDING_ON_LABELS = ["Mahalanobis", "RMDS", "SHE", "NCDD"]


@pytest.fixture(scope="module")
def training(golden: dict[str, np.ndarray], golden_head: LinearHead) -> Activations:
    return activations(golden, "train", golden_head, golden["train_labels"])


@pytest.fixture(scope="module")
def batches(golden: dict[str, np.ndarray], golden_head: LinearHead) -> dict[str, Activations]:
    return {
        part: Activations.from_features(
            torch.from_numpy(golden[f"{part}_features"]).double(), golden_head
        )
        for part in ("id", "ood")
    }


def check(
    detector: Detector,
    batches: dict[str, Activations],
    expected: dict[str, np.ndarray],
    name: str,
    rtol: float,
    atol: float = 0,
) -> None:
    for part, batch in batches.items():
        np.testing.assert_allclose(
            detector.score(batch), expected[f"{name}_{part}"], rtol=rtol, atol=atol
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_scores_equal_the_authors(
    name: str,
    training: Activations,
    golden_head: LinearHead,
    batches: dict[str, Activations],
    authors: dict[str, np.ndarray],
) -> None:
    detector, rtol, atol = VARIANTS[name]
    check(detector.fit(training, golden_head), batches, authors, name, rtol, atol)


@pytest.mark.parametrize("name", DEPENDING_ON_LABELS)
def test_labels_count_as_in_the_authors_programs(
    name: str,
    training: Activations,
    golden_head: LinearHead,
    batches: dict[str, Activations],
    shared: Path,
) -> None:
    """With every seventh label changed, true, predicted and correct classes differ."""
    with np.load(shared / "golden" / "authors_scores_altered_labels.npz") as file:
        altered = dict(file)
    relabelled = Activations.from_features(training.features, golden_head, altered["train_labels"])
    detector, rtol, atol = VARIANTS[name]
    check(detector.fit(relabelled, golden_head), batches, altered, name, rtol, atol)


def test_neco_with_the_largest_logit(
    training: Activations,
    golden_head: LinearHead,
    batches: dict[str, Activations],
    authors: dict[str, np.ndarray],
) -> None:
    """The authors' logits are float32 products, up to 5e-7 off: given those, the rest is exact."""
    detector = NECO(100).fit(training, golden_head)
    check(detector, batches, authors, "NECOMaxLogit", 1e-6)
    with_theirs = {}
    for part, batch in batches.items():
        largest = authors[f"NECOMaxLogit_{part}"] / authors[f"NECO_{part}"]
        np.testing.assert_allclose(largest, largest.astype(np.float32), rtol=1e-15)
        logits = torch.from_numpy(largest)[:, None].expand(-1, golden_head.num_classes)
        with_theirs[part] = Activations(batch.features, logits)
    check(detector, with_theirs, authors, "NECOMaxLogit", 1e-7)


@pytest.mark.parametrize(("name", "normalise"), [("NNGuide", False), ("NNGuide_openood", True)])
def test_nnguide_with_the_first_400_images_as_bank(
    name: str,
    normalise: bool,
    training: Activations,
    golden_head: LinearHead,
    batches: dict[str, Activations],
    authors: dict[str, np.ndarray],
) -> None:
    detector = NNGuide(k=10, bank_size=400, normalise=normalise).fit(training[:400], golden_head)
    check(detector, batches, authors, name, 2e-6)


def test_corp_with_the_authors_draw(
    training: Activations,
    golden_head: LinearHead,
    batches: dict[str, Activations],
    authors: dict[str, np.ndarray],
) -> None:
    class Repeated(CoRP):
        def draw(self, num_features: int) -> tuple[Tensor, Tensor]:
            assert num_features == authors["CoRP_aux_w"].shape[1]
            return tuple(torch.from_numpy(authors[f"CoRP_aux_{key}"]) for key in "wu")  # type: ignore[return-value]

    detector = Repeated(0.8, 2.0, 2048).fit(training, golden_head)
    assert detector.directions.shape == (2048, int(authors["CoRP_aux_q"][0]))
    check(detector, batches, authors, "CoRP", 2e-6)
