"""What stands for a class without training images, or that nothing does."""

import pytest
import torch

from neroli import Activations, LinearHead
from neroli.detectors import NERO, create
from neroli.errors import NotEnoughImages
from neroli.relevance import HeadRelevance

pytestmark = pytest.mark.filterwarnings("ignore:.*have fewer than 10")


@pytest.fixture
def without_3(training: Activations) -> Activations:
    assert training.labels is not None
    return training.select(training.labels != 3)


@pytest.mark.parametrize("name", ["line", "feature_masking", "itp"])
def test_the_mean_of_all_images_stands_in(
    name: str, without_3: Activations, new: Activations, head: LinearHead
) -> None:
    """As if every image were there once more, as one of class 3."""
    as_3 = torch.full((len(without_3),), 3)
    again = Activations(without_3.features, without_3.logits, as_3, without_3.ids)
    both = Activations.concatenate([without_3, again])
    one, other = (create(name).fit(data, head).score(new) for data in (without_3, both))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("partition", ["all", "class"])
@pytest.mark.parametrize("prototype_norm", ["class", "channel"])
def test_conjnorm_leaves_it_out(
    partition: str, prototype_norm: str, without_3: Activations, new: Activations, head: LinearHead
) -> None:
    settings = {"partition": partition, "prototype_norm": prototype_norm}
    found = create("conjnorm", **settings).fit(without_3, head).score(new)
    fewer, known = _of_four_classes(without_3, head)
    expected = create("conjnorm", **settings).fit(known, fewer)
    new = Activations.from_features(new.features, fewer)
    torch.testing.assert_close(found, expected.score(new), rtol=1e-12, atol=1e-12)


def test_ddcs_leaves_it_out_of_the_comparison(without_3: Activations, head: LinearHead) -> None:
    fewer, known = _of_four_classes(without_3, head)
    found, expected = (
        create("ddcs", channels=9).fit(*both).state()["kept"]
        for both in ((without_3, head), (known, fewer))
    )
    assert torch.equal(found, expected)
    assert without_3.labels is not None
    alone = without_3.select(without_3.labels == 2)
    with pytest.raises(NotEnoughImages, match="all training images are of class 2: give"):
        create("ddcs").fit(alone, head)


def test_nero_leaves_its_centroid_out(without_3: Activations, head: LinearHead) -> None:
    nero = NERO().fit(without_3, head)
    assert without_3.labels is not None
    relevance = HeadRelevance(head)(without_3)[:, :-1]
    means = [relevance[without_3.labels == c].mean(0) for c in (0, 1, 2, 4)]
    expected = (torch.stack(means) - relevance.mean(0)) @ nero.directions.T
    torch.testing.assert_close(nero.centroids, expected, rtol=1e-9, atol=1e-9)


def _of_four_classes(without_3: Activations, head: LinearHead) -> tuple[LinearHead, Activations]:
    """The same images of a network that does not know class 3 at all."""
    kept = [0, 1, 2, 4]
    fewer = LinearHead(head.weight[kept], head.bias[kept])
    assert without_3.labels is not None
    labels = torch.tensor([0, 1, 2, -1, 3])[without_3.labels]
    return fewer, Activations.from_features(without_3.features, fewer, labels, without_3.ids)
