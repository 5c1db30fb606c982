"""The main job on real networks and images, against reference results computed independently."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest
from typer.testing import CliRunner

from cifar import NETWORKS, extract_sets, load_classifier, load_images
from neroli import ActivationStore, Guard, fit, metrics
from neroli.agreement import label_agreement
from neroli.calibration import Calibration, Promise
from neroli.cli import app
from neroli.detectors import MSP, NERO, Detector, Energy, Entropy, LINe, MaxLogit

pytestmark = pytest.mark.realdata

# AUROC / FPR95 in %, CIFAR-10 against CIFAR-100 and MNIST, from float64 reference implementations.
REFERENCE = {
    "resnet20": {
        "msp": (86.1, 72.8, 91.5, 59.8),
        "max_logit": (88.2, 57.5, 97.6, 13.7),
        "energy": (88.2, 57.8, 97.8, 12.8),
        "line": (77.2, 69.7, 98.5, 7.6),
        "nero": (86.2, 65.6, 87.9, 62.8),
    },
    "densenet100": {
        "msp": (88.5, 65.7, 94.0, 48.0),
        "max_logit": (89.8, 50.9, 98.9, 4.2),
        "energy": (89.8, 50.6, 99.0, 3.6),
        "line": (87.1, 55.3, 99.9, 0.2),
        "nero": (85.1, 59.9, 95.3, 27.3),
    },
}
ACCURACY = {"resnet20": 0.9173, "densenet100": 0.9454}


@pytest.fixture(
    scope="module", params=["resnet20", pytest.param("densenet100", marks=pytest.mark.slow)]
)
def network(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def stores(
    network: str, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ActivationStore]:
    return extract_sets(shared, network, tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def detectors(stores: dict[str, ActivationStore]) -> list[Detector]:
    line = LINe.published("cifar10")
    six = [NERO(), line, MSP(), MaxLogit(), Energy(), Entropy()]
    return fit(six, stores["train"], stores["train"].head)


def scores(detector: Detector, store: ActivationStore) -> torch.Tensor:
    return torch.cat([detector.score(batch) for batch in store.batches()])


def test_accuracy_is_that_of_the_trained_weights(
    network: str, stores: dict[str, ActivationStore]
) -> None:
    agreement = label_agreement(stores["test"])
    assert agreement is not None
    assert agreement.accuracy == pytest.approx(ACCURACY[network], abs=0.001)


def test_auroc_and_fpr95_are_those_of_the_reference(
    network: str, stores: dict[str, ActivationStore], detectors: list[Detector]
) -> None:
    by_name = {detector.name: detector for detector in detectors}
    for name, expected in REFERENCE[network].items():
        inside = scores(by_name[name], stores["test"])
        measured = []
        for ood in ("cifar100", "mnist"):
            outside = scores(by_name[name], stores[ood])
            measured += [100 * metrics.auroc(inside, outside), 100 * metrics.fpr95(inside, outside)]
        np.testing.assert_allclose(measured, expected, atol=0.25, err_msg=name)


@pytest.mark.parametrize("guarantee", ["average", "confidence"])
def test_the_promised_false_alarm_rate_holds_on_the_other_half(
    stores: dict[str, ActivationStore], detectors: list[Detector], guarantee: str
) -> None:
    test = stores["test"].load()
    half = len(test) // 2
    for detector in detectors:
        values = detector.score(test)
        calibration = Calibration(
            values[:half],
            test.predictions[:half],
            10,
            Promise(0.05, guarantee),  # type: ignore[arg-type]
        )
        flagged = int(calibration.is_ood(values[half:], test.predictions[half:]).sum())
        interval = binomtest(flagged, half).proportion_ci(0.99)
        assert interval.low <= 0.05, (detector.name, flagged / half)
        assert flagged / half >= 0.03, "a threshold that flags nearly nothing keeps no promise"


def test_the_command_line_gives_the_numbers_of_the_python_api_on_png_folders(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = shared / "models" / "cifar10_resnet20.safetensors"
    train = write_pngs(shared, "train", 1000, tmp_path / "train", by_class=True)
    write_pngs(shared, "test", 400, tmp_path / "calibration", by_class=False)
    new = write_pngs(shared, "cifar100", 200, tmp_path / "new", by_class=False)
    preprocessing = NETWORKS["resnet20"][2]
    options = {
        "--model": "neroli.models.cifar:resnet20",
        "--weights": str(weights),
        "--mean": ",".join(map(str, preprocessing.mean)),
        "--std": ",".join(map(str, preprocessing.std)),
        "--resize": "32x32",
        "--train": str(tmp_path / "train"),
        "--calibration": str(tmp_path / "calibration"),
        "--out": str(tmp_path / "guard"),
    }
    arguments = [part for option in options.items() for part in option]
    fitted = CliRunner().invoke(app, ["fit", *arguments, "--json"])
    assert fitted.exit_code == 0, fitted.stderr
    assert json.loads(fitted.stdout)["training_accuracy"] > 0.9
    out = tmp_path / "scores.parquet"
    result = CliRunner().invoke(app, ["score", str(tmp_path / "guard"), str(tmp_path / "new"),
                                      "--out", str(out)])  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows = pyarrow.parquet.read_table(out).to_pydict()

    guard = Guard(load_classifier(shared, "resnet20"))
    calibration = load_images(shared, "test")[0][:400]
    guard.fit([train]).calibrate([calibration])
    verdicts = guard(new[0])
    np.testing.assert_allclose(rows["score"], verdicts.score, rtol=1e-4)
    np.testing.assert_allclose(rows["p_value"], verdicts.p_value, atol=0.006)  # two ranks
    assert rows["predicted_class"] == verdicts.predicted_class.tolist()
    assert np.mean(np.array(rows["is_ood"]) == verdicts.is_ood.numpy()) >= 0.99


def write_pngs(
    shared: Path, name: str, count: int, folder: Path, *, by_class: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Some images of a set as PNG files, evenly taken, and the same as arrays."""
    images, labels = load_images(shared, name)
    if by_class:
        rows = np.concatenate([np.flatnonzero(labels == c)[: count // 10] for c in range(10)])
        images, labels = images[rows], labels[rows]
    images, labels = images[:count], labels[:count]
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label) if by_class else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:05d}.png")
    return images, labels
