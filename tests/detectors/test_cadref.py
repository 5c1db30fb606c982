"""CADRef and CARef against loops over images, and where their denominators vanish."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from conftest import random_activations
from neroli import Activations, LinearHead, fit
from neroli.detectors import CADRef, CARef
from neroli.detectors.cadref import LogitScore

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


def logit_score(kind: LogitScore, logits: np.ndarray) -> float:
    probabilities = np.sort(softmax(logits))[::-1][: max(10, len(logits) // 10)]
    return {
        "energy": logsumexp(logits),
        "max_logit": logits.max(),
        "msp": probabilities[0],
        "gen": 1 / np.sum(probabilities**0.1 * (1 - probabilities) ** 0.1),
    }[kind]


@pytest.mark.parametrize("kind", ["energy", "max_logit", "msp", "gen"])
@pytest.mark.parametrize("classes", [5, 130])
def test_equals_the_definition(kind: LogitScore, classes: int) -> None:
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(classes, 24, generator=draw, dtype=torch.float64)
    head = LinearHead(weight, torch.full((classes,), 9.0, dtype=torch.float64))
    training, new = random_activations(head, 3 * classes), random_activations(head, 40, seed=4)
    predicted = training.logits.argmax(1)
    overall = training.features.mean(0)
    means = [
        training.features[predicted == c].mean(0) if (predicted == c).any() else overall
        for c in range(classes)
    ]
    mean_score = np.mean([logit_score(kind, z) for z in training.logits.numpy()])
    cadref, caref = fit([CADRef(kind), CARef()], training, head)
    relative, decoupled = [], []
    for a, z in zip(new.features.numpy(), new.logits.numpy(), strict=True):
        c = z.argmax()
        deviation = a - means[c].numpy()
        signed = deviation * np.sign(weight[c].numpy())
        raising = signed[signed > 0].sum() / np.abs(a).sum()
        lowering = -signed[signed < 0].sum() / np.abs(a).sum()
        relative.append(np.abs(deviation).sum() / np.abs(a).sum())
        decoupled.append(raising / logit_score(kind, z) + lowering / mean_score)
    np.testing.assert_allclose(caref.score(new), relative, rtol=1e-12)
    # 1 - p loses digits in the definition as it stands, which a power of 0.1 magnifies
    tolerance = 1e-6 if kind == "gen" else 1e-12
    np.testing.assert_allclose(cadref.score(new), decoupled, rtol=tolerance)


def test_tiny_case_by_hand() -> None:
    """Both classes' means are (1, 1); L is the largest logit, 4 of the image, 1 in training."""
    head = LinearHead(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    training = Activations(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    detectors = fit([CADRef("max_logit"), CARef()], training, head)
    image = Activations(torch.tensor([[2.0, 4.0], [3.0, 1.0]]), torch.tensor([[0.0, 4.0]] * 2))
    scores = [detector.score(image).tolist() for detector in detectors]
    # Deviations (1, 3), (2, 0) of signs (0, -1): the second neuron of the first image lowers z_2.
    assert scores == [[0.5, 0.0], [pytest.approx(4 / 6), 0.5]]


@pytest.mark.parametrize("kind", ["energy", "max_logit"])
@pytest.mark.filterwarnings("ignore:.*by the energy of the logits")
def test_a_logit_score_below_zero_does_not_flip_the_sign(
    kind: LogitScore, head: LinearHead, training: Activations
) -> None:
    """As it would by the bare formula; at its floor L is the same everywhere."""
    low = LinearHead(head.weight, head.bias - 100)
    data = Activations.from_features(training.features, low)
    cadref, caref = fit([CADRef(kind), CARef()], data, low)
    torch.testing.assert_close(cadref.score(data), 1000 * caref.score(data))


def test_confident_and_empty_images_have_finite_scores(
    head: LinearHead, training: Activations
) -> None:
    certain = LinearHead(1e4 * head.weight, head.bias)
    data = Activations.from_features(training.features.float(), certain)
    for kind in ("energy", "max_logit", "msp", "gen"):
        cadref = CADRef(kind).fit(data, certain)
        assert (cadref.score(data) >= 0).all()
        nothing = Activations.from_features(torch.zeros(1, 24), certain)
        assert cadref.score(nothing).item() > 1e3 * cadref.score(data).max().item()
