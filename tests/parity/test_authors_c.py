"""CADRef to NAC against the authors' own programs, on features of the CIFAR-10 DenseNet."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from golden import activations
from neroli import Activations, LinearHead
from neroli.detectors import (
    DDCS,
    ITP,
    NAC,
    CADRef,
    CARef,
    ConjNorm,
    Detector,
    FeatureMasking,
    WeiPerKLD,
)
from neroli.detectors.conjnorm import ClassExponents
from neroli.fitting import gather
from neroli.moments import LogSumExp

pytestmark = pytest.mark.realdata

Golden = dict[str, np.ndarray]


def assert_reproduces(
    detector: Detector, golden: Golden, expected: Golden, variant: str, rtol: float
) -> None:
    assert detector.head is not None
    for part in ("id", "ood"):
        scores = detector.score(activations(golden, part, detector.head))
        np.testing.assert_allclose(scores, expected[f"{variant}_{part}"], rtol=rtol)


SETTINGS: dict[str, tuple[Callable[[], Detector], float]] = {
    "CADRef": (CADRef, 2e-6),
    "CADRefMaxLogit": (lambda: CADRef("max_logit"), 2e-6),
    "CADRefMSP": (lambda: CADRef("msp"), 2e-6),
    "CADRefGEN": (lambda: CADRef("gen"), 1e-5),
    "CARef": (CARef, 2e-6),
    "ITP": (lambda: ITP(10, 2.2), 2e-6),
    "ConjNorm": (lambda: ConjNorm(2.2, 0.05), 2e-6),
    "HIMPLoS": (lambda: FeatureMasking(60, 1.6), 2e-6),
    "NAC": (lambda: NAC(images=None), 1e-6),
}


@pytest.mark.parametrize("variant", SETTINGS)
def test_scores_are_the_authors(
    variant: str, golden: Golden, authors: Golden, golden_head: LinearHead
) -> None:
    create, rtol = SETTINGS[variant]
    training = activations(golden, "train", golden_head, golden["train_labels"])
    detector = create().fit(training, golden_head)
    assert_reproduces(detector, golden, authors, variant, rtol)


@pytest.mark.parametrize("variant", ["CADRef", "ITP", "ConjNorm", "HIMPLoS"])
def test_classes_are_those_of_the_authors_where_labels_are_wrong(
    variant: str, golden: Golden, altered: Golden, golden_head: LinearHead
) -> None:
    create, rtol = SETTINGS[variant]
    training = activations(golden, "train", golden_head, altered["train_labels"])
    detector = create().fit(training, golden_head)
    assert_reproduces(detector, golden, altered, variant, rtol)


@pytest.mark.parametrize("labels", ["true", "altered"])
def test_ddcs_keeps_the_authors_channels(
    labels: str, golden: Golden, authors: Golden, altered: Golden, golden_head: LinearHead
) -> None:
    expected = authors if labels == "true" else altered
    given = golden["train_labels"] if labels == "true" else altered["train_labels"]
    high, low = expected["DDCS_aux_hl"].astype(float)
    training = activations(golden, "train", golden_head, given)
    ddcs = DDCS(channels=281, low=low, high=high).fit(training, golden_head)
    channels = np.sort(expected["DDCS_aux_channels"].astype(int))
    np.testing.assert_array_equal(ddcs.kept.nonzero()[:, 0], channels)
    assert_reproduces(ddcs, golden, expected, "DDCS", 2e-6)
    learned = DDCS(channels=281).fit(training, golden_head)
    np.testing.assert_allclose(learned.bounds, [low, high], atol=7 / 2**18)


def test_conjnorm_with_the_authors_bootstrap_of_the_partition(
    golden: Golden, authors: Golden, golden_head: LinearHead
) -> None:
    training = activations(golden, "train", golden_head, golden["train_labels"])
    conjnorm = ConjNorm().fit(training, golden_head)
    rows = torch.from_numpy(authors["ConjNormBoot_aux_index"]).long()
    drawn = Activations.from_features(training.features[rows], golden_head)
    exponents = ClassExponents(conjnorm.duals, conjnorm.p, conjnorm.t)
    (conjnorm.log_partition,) = gather([LogSumExp(exponents)], drawn)
    assert_reproduces(conjnorm, golden, authors, "ConjNormBoot", 2e-6)


@pytest.mark.parametrize("images", [None, 1000])
def test_nac_of_the_authors_thousand_images(
    images: int | None, golden: Golden, authors: Golden, golden_head: LinearHead
) -> None:
    features = activations(golden, "train", golden_head).features
    rows = torch.from_numpy(authors["NAC1000_rows"])
    training = Activations.from_features(features[rows], golden_head)
    nac = NAC(images=images).fit(training, golden_head)
    assert_reproduces(nac, golden, authors, "NAC1000", 1e-6)


def test_weiper_with_the_authors_perturbations(
    golden: Golden, authors: Golden, golden_head: LinearHead
) -> None:
    weiper = WeiPerKLD(r=20).use_perturbed(torch.from_numpy(authors["WeiPerKLD_aux_W_tilde"]))
    weiper.fit(activations(golden, "train", golden_head), golden_head)
    assert_reproduces(weiper, golden, authors, "WeiPerKLD", 1e-5)
    extremes = authors["WeiPerKLD_aux_minmax"].reshape(2, 2)
    np.testing.assert_allclose(weiper.ranges, extremes, rtol=2e-6)
    names = ("WeiPerKLD_aux_train_hist", "WeiPerKLD_aux_train_hist_W")
    np.testing.assert_allclose(weiper.usual, np.stack([authors[n] for n in names]), atol=2e-6)
