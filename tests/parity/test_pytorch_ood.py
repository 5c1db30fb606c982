"""Every method that pytorch-ood 0.4.0 has too, against it, with the known differences undone.

Both are given the same features, labels and head in float64. pytorch-ood takes float32 in places;
there it is made to take float64, so that what is compared is the method.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import random_activations
from golden import activations
from neroli import Activations, Classifier, LinearHead, Preprocessing, fit
from neroli.detectors import (
    ODIN,
    Detector,
    Gram,
    MultiLayerMahalanobis,
    RankFeat,
    ReAct,
    TemperatureScaledMSP,
    catalogue,
    create,
)
from neroli.detectors.nac import bin_edges
from networks import colour_tensors, trained_colour_network, untrained_resnet20
from peers import PEERS, Peer, linear, theirs

NOT_THERE = {
    *("nero", "line", "relevance_deviation", "relevance_deficit", "ensemble", "feature_norm"),
    *("feature_masking", "itp", "ddcs", "cadref", "caref", "ncdd", "residual", "neco", "cop"),
    *("corp", "regularised_pca", "conjnorm", "weiper_kld", "i_odin", "nap", "nac_ue", "views"),
}
"""Methods of ours that pytorch-ood does not have."""
OF_NETWORKS = {
    "odin": "ODIN",
    "rank_feat": "RankFeat",
    "multi_layer_mahalanobis": "MultiMahalanobis",
    "gram": "Gram",
}
NOT_HERE = {
    *("GMM", "GradUncertainty", "LTS", "MCD", "MCM", "MahalanobisODIN", "NCI", "PNML"),
    *("VRA", "WeightedEBO", "odin_preprocessing"),
}
"""Methods of theirs that neroli does not have: docs/detectors.md says which and why."""


@contextmanager
def double_precision() -> Iterator[None]:
    """Their conversions to float32 are to float64."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(Tensor, "float", Tensor.double):
            yield
    finally:
        torch.set_default_dtype(usual)


def translated_by_one() -> AbstractContextManager[object]:
    """OpenMax's tails moved to 1, as libmr does, rather than to 10,000: their fit loses digits."""
    from pytorch_ood.detector.openmax.libnotmr import LibNotMR

    usual = LibNotMR.__init__

    def started(self: LibNotMR, tailsize: int = 20) -> None:
        usual(self, tailsize)
        self.translation = 1

    return patch.object(LibNotMR, "__init__", started)


def authors_bins() -> AbstractContextManager[object]:
    """NAC's bins of its authors, rather than geometric ones."""

    def bins(states: Tensor, m: int) -> Tensor:
        return torch.bucketize(states, bin_edges(m).to(states), right=True) - 1

    return patch("pytorch_ood.detector.nac._bin_indices_geometric", bins)


@dataclass(frozen=True)
class Agreement:
    """How well the scores agree, and what has to be undone for it.

    Args:
        rtol, atol: of the scores.
        temper: both get a head of smaller weights, whose probabilities stay above the smallest that
            pytorch-ood tells from zero (1e-7; in NAC 1e-12).
        enlarge: both get larger features, beside which pytorch-ood's ridge of 1e-6 is nothing; the
            method does not depend on their unit.
        relabel: every training image counts as correctly classified, as pytorch-ood takes them.
        undone: what else is replaced in pytorch-ood.
    """

    rtol: float = 1e-12
    atol: float = 0.0
    temper: float = 1.0
    enlarge: float = 1.0
    relabel: bool = False
    undone: Callable[[], AbstractContextManager[object]] = nullcontext


AGREEMENTS = {
    "msp": Agreement(),
    "max_logit": Agreement(),
    "energy": Agreement(),
    "entropy": Agreement(atol=1e-14, temper=0.2),
    "gen": Agreement(temper=0.2),
    "kl_matching": Agreement(rtol=1e-11, atol=1e-14),
    "openmax": Agreement(rtol=1e-3, atol=1e-4, relabel=True, undone=translated_by_one),
    "dice": Agreement(),
    "ash_p": Agreement(),
    "ash_b": Agreement(),
    "ash_s": Agreement(),
    "scale": Agreement(),
    "grad_norm": Agreement(),
    "mahalanobis": Agreement(rtol=1e-6, enlarge=1e4),
    "relative_mahalanobis": Agreement(rtol=1e-6, atol=2e-4, enlarge=1e4),
    "knn": Agreement(),
    "nnguide": Agreement(),
    "she": Agreement(),
    "fdbd": Agreement(),
    "vim": Agreement(rtol=1e-8, atol=1e-8),
    "nac": Agreement(rtol=1e-6, temper=0.2, undone=authors_bins),
}


@dataclass(frozen=True)
class Data:
    """What both are fitted on and score."""

    head: LinearHead
    training: Tensor
    labels: Tensor
    new: Tensor

    def scores(self, agreement: Agreement, peer: Peer) -> tuple[Tensor, Tensor]:
        """Theirs, on our scale, and ours."""
        weight = self.head.weight * agreement.temper / agreement.enlarge
        head = LinearHead(weight, self.head.bias * agreement.temper)
        size = agreement.enlarge
        training = Activations.from_features(self.training * size, head, self.labels)
        if agreement.relabel:
            training = replace(training, labels=training.predictions)
        new = Activations.from_features(self.new * size, head)
        with double_precision(), agreement.undone():
            found = peer.fit(training, head)(new)
        expected = peer.rescale(found, len(training), head.num_classes)
        return expected, peer.ours(head.num_features).fit(training, head).score(new)


@pytest.fixture(params=["random", pytest.param("real", marks=pytest.mark.realdata)])
def data(request: pytest.FixtureRequest, head: LinearHead) -> Data:
    """Random activations, and those of the CIFAR-10 DenseNet."""
    if request.param == "random":
        training = random_activations(head, 400)
        assert training.labels is not None
        new = random_activations(head, 90, seed=7, shift=0.3).features
        return Data(head, training.features, training.labels, new)
    golden, head = (request.getfixturevalue(name) for name in ("golden", "golden_head"))
    training, inside, outside = (activations(golden, p, head) for p in ("train", "id", "ood"))
    labels = torch.from_numpy(golden["train_labels"]).long()
    return Data(head, training.features, labels, torch.cat([inside.features, outside.features]))


@pytest.mark.parametrize("name", AGREEMENTS)
def test_scores_are_those_of_pytorch_ood(name: str, data: Data) -> None:
    agreement = AGREEMENTS[name]
    expected, scores = data.scores(agreement, PEERS[name])
    assert scores.std() > 1e3 * agreement.atol
    torch.testing.assert_close(
        scores, expected.to(scores), rtol=agreement.rtol, atol=agreement.atol
    )


def test_at_the_values_that_theirs_learns(data: Data) -> None:
    """Its search for a temperature does not converge; its percentile is no histogram's."""
    training = Activations.from_features(data.training, data.head, data.labels)
    new = Activations.from_features(data.new, data.head)
    scaling = theirs.TemperatureScaling(None).fit_logits(training.logits, training.labels)
    clipping = theirs.ReAct(None, nn.Sequential(nn.Flatten(), linear(data.head)), percentile=0.9)
    clipping.fit_feature_maps(training.features[:, :, None, None], training.labels)
    react, msp = ReAct(clip=clipping.threshold), TemperatureScaledMSP(scaling.t.item())
    fit([react, msp], training, data.head)
    expected = scaling.predict_logits(new.logits).detach()
    torch.testing.assert_close(msp.score(new), expected, rtol=1e-12, atol=0)
    expected = clipping.predict_feature_maps(new.features[:, :, None, None])
    torch.testing.assert_close(react.score(new), expected, rtol=1e-12, atol=0)


def test_every_method_is_compared_or_said_not_to_be() -> None:
    compared = {*AGREEMENTS, "react", "temperature_scaled_msp", *OF_NETWORKS}
    assert compared | NOT_THERE == set(catalogue.own_names())
    assert compared >= PEERS.keys()
    covered = {"ASH", "EnergyBased", "MaxSoftmax", "NACUE", "RMD", "TemperatureScaling"}
    names = {type(create(name)).__name__.lower() for name in compared}
    same_name = {name for name in theirs.__all__ if name.lower() in names}
    assert covered | same_name | set(OF_NETWORKS.values()) | NOT_HERE == set(theirs.__all__)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return untrained_resnet20().requires_grad_(False)


STD = (0.2, 0.25, 0.3)


def ours_of(network: nn.Module, detector: Detector, images: Tensor) -> Tensor:
    classifier = Classifier(network, preprocessing=Preprocessing((0.5,) * 3, STD))
    return detector.score(classifier(images, requires=detector.requires))


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_odin(network: nn.Module, temperature: float) -> None:
    """With its std given, the step is of the same size; the confidence there is float32."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    peer = theirs.ODIN(network, eps=0.01, temperature=temperature, norm_std=list(STD))
    scores = ours_of(network, ODIN(temperature, 0.01), images)
    torch.testing.assert_close(scores, peer.predict(images), rtol=1e-5, atol=1e-6)
    still = theirs.ODIN(network, eps=0.0, temperature=temperature)
    assert (peer.predict(images) - still.predict(images)).abs().max() > 1e-6


@pytest.mark.parametrize("layer", ["layer3", "layer2"])
def test_rank_feat_of_one_layer(network: nn.Module, layer: str) -> None:
    """Theirs takes one layer; the authors average the logits of two, which ours does by default."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    maps: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, i, out: maps.append(out))
    network(images)
    handle.remove()

    def rest(changed: Tensor) -> Tensor:
        handle = network.get_submodule(layer).register_forward_hook(lambda m, i, out: changed)
        logits = network(images)
        handle.remove()
        return logits

    expected = theirs.RankFeat(None, rest).predict_feature_maps(maps[0])
    scores = ours_of(network, RankFeat(layers=(layer,)), images)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_multi_layer_mahalanobis() -> None:
    """Theirs is a sum over layers of half the distances, by scatter matrices in place of means."""
    classifier = Classifier(trained_colour_network())
    images, labels = colour_tensors(300, 1)
    detector = MultiLayerMahalanobis(layers=("0", "1"))
    training = classifier(images, labels, requires=detector.requires)
    detector.fit(training, classifier.head)
    new = classifier(colour_tensors(60, 2)[0], requires=detector.requires)
    peer = theirs.MultiMahalanobis([nn.Identity(), nn.Identity()])
    with double_precision():  # enlarged, so that its ridge is nothing
        peer.fit_structured([1e4 * training.taps[tap].double() for tap in training.taps], labels)
        expected = peer.predict_structured([1e4 * new.taps[tap].double() for tap in new.taps])
    scores = detector.score(new)
    np.testing.assert_allclose(scores, expected * len(images) / 2, rtol=2e-4)


def test_gram() -> None:
    """Theirs draws the images it holds out anew, so ours is given its bounds and means."""
    model = trained_colour_network()
    detector = Gram(layers=("0", "1"), powers=3, labels="true")
    images, labels = colour_tensors(300, 1)
    classifier = Classifier(model)
    detector.fit(classifier(images, labels, requires=detector.requires), classifier.head)
    peer = theirs.Gram(model[2:], [model[0], model[1]], 3, num_poles_list=[1, 2, 3])
    peer.fit([(images, labels)])
    for found, bounds in ((detector.low, peer.feature_min), (detector.high, peer.feature_max)):
        expected = torch.cat([power for layer in bounds for power in layer], dim=1)
        usual = (found.float() - expected).abs().median() / expected.abs().median()
        assert usual < 0.1  # of other 90 % of the images
        found.copy_(expected)
    detector.usual.copy_(peer.layer_norm)
    new = classifier(colour_tensors(60, 2)[0], requires=detector.requires)
    expected = peer.predict(colour_tensors(60, 2)[0])
    assert expected.gt(0).any()
    torch.testing.assert_close(detector.score(new), expected, rtol=1e-3, atol=1e-4)
