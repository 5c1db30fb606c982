"""Detectors by principal subspaces against naive versions with full singular value matrices."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler, normalize

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.detectors import NECO, CoP, CoRP, RegularisedPCA, Residual, ViM, vim
from neroli.errors import InvalidInput, NotEnoughImages


def naive_residual(
    training: Activations, head: LinearHead, rows: torch.Tensor, dim: int
) -> np.ndarray:
    origin = -np.linalg.pinv(head.weight.numpy()) @ head.bias.numpy()
    centred = training.features.numpy() - origin
    principal = np.linalg.svd(centred)[2][:dim]
    offset = rows.numpy() - origin
    return np.linalg.norm(offset - offset @ principal.T @ principal, axis=1)


@pytest.mark.parametrize("dim", [0, 5, 12, 23])
def test_residual_and_vim_equal_the_definition(
    training: Activations, new: Activations, head: LinearHead, dim: int
) -> None:
    residual = naive_residual(training, head, new.features, dim)
    actual = Residual(dim).fit(training, head).score(new)
    np.testing.assert_allclose(actual, residual, rtol=1e-9)
    scale = training.logits.numpy().max(1).mean()
    alpha = scale / naive_residual(training, head, training.features, dim).mean()
    expected = alpha * residual - logsumexp(new.logits.numpy(), axis=1)
    np.testing.assert_allclose(ViM(dim).fit(training, head).score(new), expected, rtol=1e-9)


def test_complement_is_orthonormal_and_origin_has_no_logits(
    training: Activations, head: LinearHead
) -> None:
    detector = Residual().fit(training, head)
    identity = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(detector.complement.T @ detector.complement, identity)
    torch.testing.assert_close(head(detector.origin[None])[0], torch.zeros(5).double())


def test_dimension_by_size_of_the_features() -> None:
    sizes = [(4096, 1000), (2048, 1000), (1024, 512), (768, 512), (512, 256), (64, 32), (1, 0)]
    assert [vim._usual_dim(torch.ones(size)) for size, _ in sizes] == [dim for _, dim in sizes]
    with pytest.raises(InvalidInput, match="dim is 24, but this model has only 24"):
        ViM(dim=24).fit(random_activations(head := LinearHead(torch.eye(3, 24)), 9), head)


def test_vim_raises_the_score_outside_even_if_all_logits_are_negative(
    training: Activations, head: LinearHead
) -> None:
    lower = LinearHead(head.weight, head.bias - 100)
    data = Activations.from_features(training.features, lower, training.labels)
    assert ViM().fit(data, lower).alpha > 0


def test_vim_without_anything_outside_says_so(head: LinearHead) -> None:
    with pytest.raises(NotEnoughImages, match="ViM keeps 12 .* none of the 10 "):
        ViM(dim=12).fit(random_activations(head, 10), head)


@pytest.mark.filterwarnings("ignore:ViM learns a covariance of 24 features from 10 images")
def test_features_of_a_small_rank_leave_half_of_it_outside(head: LinearHead) -> None:
    few = random_activations(head, 10)
    fitted = ViM().fit(few, head)
    assert fitted.complement.shape == (24, 24 - 5)
    assert fitted.alpha < 1e3
    dead = few.features.repeat(9, 1) + torch.rand(
        90, 24, generator=torch.Generator().manual_seed(1)
    )
    dead[:, 11:] = 0  # all the rest varies, beside the direction to where the logits vanish
    again = ViM().fit(Activations.from_features(dead, head), head)
    assert again.complement.shape == (24, 24 - 6)


@pytest.mark.parametrize("components", [1, 6, 24])
def test_neco_equals_scikit_learn(
    training: Activations, new: Activations, head: LinearHead, components: int
) -> None:
    scaler = StandardScaler().fit(training.features.numpy())
    pca = PCA(components, svd_solver="full").fit(scaler.transform(training.features.numpy()))
    standard = scaler.transform(new.features.numpy())
    share = np.linalg.norm(pca.transform(standard), axis=1) / np.linalg.norm(standard, axis=1)
    plain = NECO(components, max_logit=False).fit(training, head).score(new)
    np.testing.assert_allclose(plain, -share, rtol=1e-10)
    with_logit = NECO(components).fit(training, head).score(new)
    np.testing.assert_allclose(with_logit, -share * new.logits.numpy().max(1), rtol=1e-10)


def test_neco_with_a_constant_feature_and_at_the_mean(
    training: Activations, head: LinearHead
) -> None:
    features = training.features.clone()
    features[:, 3] = 0.1
    data = Activations.from_features(features, head)
    neco = NECO(max_logit=False).fit(data, head)
    assert neco.scale[3] == 1
    mean = Activations.from_features(neco.centre[None], head)
    assert neco.score(mean).tolist() == [-1.0]


@pytest.mark.parametrize("explained", [0.3, 0.85, 1.0])
def test_cop_equals_scikit_learn(
    training: Activations, new: Activations, head: LinearHead, explained: float
) -> None:
    rows, unit = normalize(training.features.numpy()), normalize(new.features.numpy())
    pca = PCA(explained if explained < 1 else 24, svd_solver="full").fit(rows)
    missed = unit - pca.inverse_transform(pca.transform(unit))
    actual = CoP(explained).fit(training, head).score(new)
    np.testing.assert_allclose(actual, np.linalg.norm(missed, axis=1), rtol=1e-9, atol=1e-12)


def test_corp_equals_scikit_learn_on_its_random_features(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    corp = CoRP(explained_variance=0.6, random_features=40).fit(training, head)
    frequencies, phases = corp.frequencies.double().numpy(), corp.phases.double().numpy()

    def mapped(batch: Activations) -> np.ndarray:
        return np.sqrt(2 / 40) * np.cos(normalize(batch.features.numpy()) @ frequencies.T + phases)

    pca = PCA(0.6, svd_solver="full").fit(mapped(training))
    missed = mapped(new) - pca.inverse_transform(pca.transform(mapped(new)))
    np.testing.assert_allclose(corp.score(new), np.linalg.norm(missed, axis=1), rtol=1e-9)


def test_random_features_stand_for_the_gaussian_kernel(new: Activations) -> None:
    frequencies, phases = CoRP(gamma=0.7, random_features=40_000).draw(24)
    unit = torch.nn.functional.normalize(new.features[:8], dim=1)
    mapped = (2 / 40_000) ** 0.5 * torch.cos(unit @ frequencies.double().T + phases)
    kernel = torch.exp(-0.7 * torch.cdist(unit, unit).square())
    torch.testing.assert_close(mapped @ mapped.T, kernel, rtol=0, atol=0.03)


def test_corp_draws_by_seed_and_as_many_as_the_paper() -> None:
    assert [len(CoRP().draw(size)[1]) for size in (24, 512, 2048)] == [96, 2048, 4096]
    first, again, other = (CoRP(seed=seed).draw(9)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_regularised_pca_equals_the_definition(
    training: Activations, new: Activations, head: LinearHead
) -> None:
    pca = PCA(7, svd_solver="full").fit(training.features.numpy())
    features = new.features.numpy()
    missed = features - pca.inverse_transform(pca.transform(features))
    error = np.linalg.norm(missed, axis=1) / np.linalg.norm(features, axis=1)
    energy = logsumexp(head(new.features.clamp(max=1.2)).numpy(), axis=1)
    actual = RegularisedPCA(7, 1.2).fit(training, head).score(new)
    np.testing.assert_allclose(actual, -energy * (1 - error), rtol=1e-10)


def test_regularised_pca_learns_the_clip_and_scores_no_features_high(
    training: Activations, head: LinearHead
) -> None:
    detector = RegularisedPCA().fit(training, head)
    expected = np.quantile(training.features.numpy(), 0.9)
    assert detector.threshold.item() == pytest.approx(expected, rel=1e-3)
    assert detector.directions.shape == (24, 12)
    positive = LinearHead(head.weight, head.bias.abs())
    nothing = Activations.from_features(torch.zeros(1, 24).double(), positive)
    detector = RegularisedPCA().fit(training, positive)
    assert detector.score(nothing) > detector.score(training).max()


@pytest.mark.parametrize("detector", [NECO, RegularisedPCA])
def test_more_components_than_features_are_refused(
    detector: type[NECO], training: Activations, head: LinearHead
) -> None:
    with pytest.raises(InvalidInput, match="components is 25, but this model has only 24"):
        detector(components=25).fit(training, head)
