"""The methods of neroli that pytorch-ood 0.4.0 has too, set alike: for the tests and benchmarks.

Its detectors are fitted on the features, labels and head that ours are. ``docs/detectors.md`` lists
the differences that are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neroli import Activations, LinearHead
from neroli.detectors import (
    ASHB,
    ASHP,
    ASHS,
    DICE,
    FDBD,
    GEN,
    KNN,
    MSP,
    NAC,
    SCALE,
    SHE,
    Detector,
    Energy,
    Entropy,
    GradNorm,
    KLMatching,
    Mahalanobis,
    MaxLogit,
    NNGuide,
    OpenMax,
    ReAct,
    RelativeMahalanobis,
    TemperatureScaledMSP,
    ViM,
)
from neroli.models.torchvision import import_torchvision

import_torchvision()  # pytorch-ood imports it, which fails beside a CPU build of torch otherwise

from pytorch_ood import detector as theirs  # noqa: E402

Score = Callable[[Activations], Tensor]
Rescale = Callable[[Tensor, int, int], Tensor]


def same(score: Tensor, images: int, classes: int) -> Tensor:
    """Their score as it is; others put it on our scale, N training images and C classes given."""
    return score


@dataclass(frozen=True)
class Peer:
    """A detector of ours and how theirs is fitted.

    Args:
        ours: ours with the hyper-parameters of theirs, for so many features and classes.
        fit: fits theirs on training activations and a head, and returns what scores a batch.
        rescale: brings their score to our scale: exactly the constant or monotone map between them.
        from_features: whether theirs works out the plain logits of what it scores itself.
        fits_from_features: whether it does so of the training images too.
    """

    ours: Callable[[int], Detector]
    fit: Callable[[Activations, LinearHead], Score]
    rescale: Rescale = same
    from_features: bool = False
    fits_from_features: bool = False


def linear(head: LinearHead) -> nn.Linear:
    """The head as the module that their detectors call."""
    layer = nn.Linear(head.num_features, head.num_classes, dtype=head.weight.dtype)
    layer.weight.data, layer.bias.data = head.weight.clone(), head.bias.clone()
    return layer.requires_grad_(False)


def principal_dimension(features: int) -> int:
    """Ours of ViM, which theirs has to be told."""
    return 1000 if features >= 2048 else 512 if features >= 768 else features // 2


def of_logits(create: Callable[[], Any]) -> Callable[[Activations, LinearHead], Score]:
    def fit(training: Activations, head: LinearHead) -> Score:
        detector = create()
        detector.fit_logits(training.logits, training.labels)
        return lambda batch: detector.predict_logits(batch.logits)

    return fit


def of_features(create: Callable[[LinearHead], Any]) -> Callable[[Activations, LinearHead], Score]:
    def fit(training: Activations, head: LinearHead) -> Score:
        detector = create(head)
        with torch.no_grad():
            detector.fit_features(training.features, training.labels)
        return lambda batch: detector.predict_features(batch.features)

    return fit


def of_maps(
    create: Callable[[Callable[[Tensor], Tensor]], Any],
) -> Callable[[Activations, LinearHead], Score]:
    """Pooled features as maps of one place."""

    def fit(training: Activations, head: LinearHead) -> Score:
        detector = create(nn.Sequential(nn.Flatten(), linear(head)))
        detector.fit_feature_maps(training.features[:, :, None, None], training.labels)
        return lambda batch: detector.predict_feature_maps(batch.features[:, :, None, None])

    return fit


def grad_norm(training: Activations, head: LinearHead) -> Score:
    detector = theirs.GradNorm(linear(head), param_filter=lambda name: name == "weight")
    return lambda batch: detector.predict(batch.features)


def nac(training: Activations, head: LinearHead) -> Score:
    layer = nn.Identity()
    detector = theirs.NACUE(nn.Sequential(layer, linear(head)), [layer])
    detector.fit(
        [batch.features.clone().requires_grad_() for batch in training.batches()]  # type: ignore[arg-type]
    )
    return lambda batch: detector.predict(batch.features.clone().requires_grad_())


PEERS: dict[str, Peer] = {
    "msp": Peer(lambda d: MSP(), of_logits(lambda: theirs.MaxSoftmax(None))),
    "temperature_scaled_msp": Peer(
        lambda d: TemperatureScaledMSP(), of_logits(lambda: theirs.TemperatureScaling(None))
    ),
    "max_logit": Peer(lambda d: MaxLogit(), of_logits(lambda: theirs.MaxLogit(None))),
    "energy": Peer(lambda d: Energy(), of_logits(lambda: theirs.EnergyBased(None))),
    "entropy": Peer(lambda d: Entropy(), of_logits(lambda: theirs.Entropy(None))),
    "gen": Peer(
        lambda d: GEN(top=100),
        of_logits(lambda: theirs.GEN(None, gamma=0.1, M=100)),
        lambda score, n, c: score * min(100, c),  # their mean over classes, our sum
    ),
    "kl_matching": Peer(lambda d: KLMatching(), of_logits(lambda: theirs.KLMatching(None))),
    "openmax": Peer(
        lambda d: OpenMax(), of_logits(lambda: theirs.OpenMax(None, tailsize=20, alpha=3))
    ),
    "react": Peer(
        lambda d: ReAct(),
        of_maps(lambda head: theirs.ReAct(None, head, percentile=0.9)),
    ),
    "dice": Peer(
        lambda d: DICE(),
        of_features(lambda head: theirs.DICE(None, head.weight, head.bias, p=0.9)),
    ),
    "ash_p": Peer(
        lambda d: ASHP(),
        of_maps(lambda head: theirs.ASH(None, head, "ash-p", 0.9)),
    ),
    "ash_b": Peer(
        lambda d: ASHB(),
        of_maps(lambda head: theirs.ASH(None, head, "ash-b", 0.9)),
    ),
    "ash_s": Peer(
        lambda d: ASHS(),
        of_maps(lambda head: theirs.ASH(None, head, "ash-s", 0.9)),
    ),
    "scale": Peer(
        lambda d: SCALE(),
        of_maps(lambda head: theirs.SCALE(None, head, 0.85)),
    ),
    "grad_norm": Peer(
        lambda d: GradNorm(),
        grad_norm,
        lambda score, n, c: score * c,  # their loss is the mean over classes, ours the sum
        from_features=True,
    ),
    "mahalanobis": Peer(
        lambda d: Mahalanobis(),
        of_features(lambda head: theirs.Mahalanobis(None)),
        lambda score, n, c: score * 2 * n,  # theirs: half the distance, by the sum over images
    ),
    "relative_mahalanobis": Peer(
        lambda d: RelativeMahalanobis(),
        of_features(lambda head: theirs.RMD(None)),
        lambda score, n, c: score * n,  # theirs: covariances are sums over images
    ),
    "knn": Peer(
        lambda d: KNN(k=50),
        of_features(lambda head: theirs.KNN(None, k=50)),
        lambda score, n, c: score.square(),  # ours is the squared distance
    ),
    "nnguide": Peer(
        lambda d: NNGuide(k=10, bank_size=50_000, normalise=True),
        of_features(lambda head: theirs.NNGuide(None, linear(head), k=10)),
        from_features=True,
        fits_from_features=True,
    ),
    "she": Peer(
        lambda d: SHE(),
        of_features(lambda head: theirs.SHE(None, linear(head))),
        from_features=True,
        fits_from_features=True,
    ),
    "fdbd": Peer(
        lambda d: FDBD(),
        of_features(lambda head: theirs.fDBD(None, linear(head))),
        lambda score, n, c: score * (c - 1),  # their mean over the other classes, our sum
        from_features=True,
    ),
    "vim": Peer(
        lambda d: ViM(principal_dimension(d)),
        of_features(
            lambda head: theirs.ViM(
                None, principal_dimension(head.num_features), head.weight, head.bias
            )
        ),
        from_features=True,
        fits_from_features=True,
    ),
    "nac": Peer(lambda d: NAC(images=None), nac, from_features=True, fits_from_features=True),
}
