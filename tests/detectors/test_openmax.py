"""OpenMax written out with SciPy's Weibull distribution, and classes with little to learn from."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import weibull_min

from neroli import Activations, LinearHead
from neroli.detectors import OpenMax
from neroli.detectors.openmax import weibull
from neroli.errors import LabelsRequired, NotEnoughImages

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


def naive(training: Activations, batch: Activations, tail: int, alpha: int) -> np.ndarray:
    """The score with one fit a class and loops over images and ranks."""
    z = training.logits.numpy()
    assert training.labels is not None
    y, classes = training.labels.numpy(), z.shape[1]
    models = []
    for c in range(classes):
        rows = z[(y == c) & (z.argmax(1) == c)]
        distances = np.sort(np.linalg.norm(rows - rows.mean(0), axis=1))[-tail:]
        shape, _, scale = weibull_min.fit(distances + 1 - distances.min(), floc=0)
        models.append((rows.mean(0), 1 - distances.min(), shape, scale))
    scores = []
    for row in batch.logits.numpy():
        revised, unknown = row.copy(), 0.0
        for rank, c in enumerate(np.argsort(-row)[:alpha]):
            mean, shift, shape, scale = models[c]
            w = weibull_min.cdf(np.linalg.norm(row - mean) + shift, shape, scale=scale)
            w *= (alpha - rank) / alpha
            revised[c] = row[c] * (1 - w)
            unknown += row[c] * w
        scores.append(softmax([*revised, unknown])[-1])
    return np.array(scores)


@pytest.mark.parametrize(("tail", "alpha"), [(20, 3), (10, 5), (200, 1)])
def test_equals_the_loops(
    training: Activations, new: Activations, head: LinearHead, tail: int, alpha: int
) -> None:
    scores = OpenMax(tail, alpha).fit(training, head).score(new)
    np.testing.assert_allclose(scores, naive(training, new, tail, alpha), rtol=1e-3, atol=1e-6)


def test_weibull_is_the_likeliest() -> None:
    """SciPy's simplex search stops within 1e-4 of it; nothing it finds is likelier."""
    draw = np.random.default_rng(0)
    rows = 1 + 3 * draw.weibull([[0.8], [2.0], [9.0]], size=(3, 50))
    shapes, log_scales = weibull(torch.from_numpy(rows))
    for row, shape, log_scale in zip(rows, shapes.tolist(), log_scales.tolist(), strict=True):
        expected, _, scale = weibull_min.fit(row, floc=0)
        assert shape == pytest.approx(expected, rel=1e-4)
        assert np.exp(log_scale) == pytest.approx(scale, rel=1e-4)
        found = weibull_min.logpdf(row, shape, scale=np.exp(log_scale)).sum()
        assert found >= weibull_min.logpdf(row, expected, scale=scale).sum() - 1e-12
        padded = torch.cat([torch.from_numpy(row), torch.full((5,), -torch.inf)])[None]
        assert weibull(padded)[0].item() == pytest.approx(shape, rel=1e-12)


def test_a_class_without_correct_images_keeps_its_logit(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    assert training.labels is not None
    labels = training.labels.where(training.labels != 2, 3)
    without = Activations(training.features, training.logits, labels)
    scores = OpenMax(alpha=1).fit(without, head).score(new)
    predicted = new.predictions == 2
    expected = 1 / (1 + new.logits[predicted].exp().sum(dim=1))
    assert predicted.any()
    torch.testing.assert_close(scores[predicted], expected)


def test_one_image_or_identical_images_of_a_class_are_enough(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    for copies in (1, 30):
        first = [int((training.predictions == c).nonzero()[0]) for c in range(5)]
        rows = torch.tensor(first).repeat(copies)
        few = Activations(
            training.features[rows], training.logits[rows], torch.arange(5).repeat(copies)
        )
        detector = OpenMax().fit(few, head)
        assert torch.isfinite(detector.score(new)).all()
        assert detector.score(few).max() < detector.score(new).max()


def test_two_classes_and_an_alpha_that_is_too_large(training: Activations) -> None:
    draw = torch.Generator().manual_seed(0)
    head = LinearHead(torch.randn(2, 24, generator=draw, dtype=torch.float64))
    logits = head(training.features)
    images = Activations(training.features, logits, logits.argmax(dim=1))
    two, three = (OpenMax(alpha=a).fit(images, head).score(images) for a in (2, 3))
    assert torch.equal(two, three)


def test_needs_labels_and_correct_images(training: Activations, head: LinearHead) -> None:
    with pytest.raises(LabelsRequired):
        OpenMax().fit(Activations(training.features, training.logits), head)
    wrong = Activations(training.features, training.logits, (training.predictions + 1) % 5)
    with pytest.raises(NotEnoughImages, match="correctly classified"):
        OpenMax().fit(wrong, head)
