"""A built-in suite on the real network and images, against reference results of other programs."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from neroli.benchmark.results import Results
from neroli.cli import app

pytestmark = pytest.mark.realdata

# AUROC / FPR95 in % on CIFAR-100 and MNIST, from float64 reference implementations.
REFERENCE = {
    "msp": (86.1, 72.8, 91.5, 59.8),
    "max_logit": (88.2, 57.5, 97.6, 13.7),
    "energy": (88.2, 57.8, 97.8, 12.8),
    "grad_norm": (79.0, 69.5, 99.8, 0.1),
    "dice": (81.2, 72.6, 99.2, 4.1),
    "knn": (87.2, 58.1, 97.1, 16.3),
    "vim": (85.9, 65.4, 91.9, 59.5),
    "relative_mahalanobis": (86.2, 64.3, 90.4, 63.1),
    "fdbd": (87.6, 55.7, 98.8, 6.1),
    "cadref": (86.6, 62.6, 99.9, 0.1),
    "nero": (86.2, 65.6, 87.9, 62.8),
}


def test_the_resnet20_suite_gives_the_reference_results(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["bench", "cifar10-resnet20", "--data", shared, "--out", out, "--gallery", 0]
    arguments += ["--detectors", ",".join(REFERENCE), "--resamples", 20]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    results = Results.model_validate_json((out / "results.json").read_text())
    assert {row.label for row in results.rows} == set(REFERENCE)
    for row in results.rows:
        found = [
            100 * estimate.value
            for name in ("cifar100", "mnist")
            for estimate in (row.sets[name].auroc, row.sets[name].fpr95)
        ]
        assert found == pytest.approx(REFERENCE[row.label], abs=0.2), row.label
    assert not results.duplicates
    assert results.facts_of("test").accuracy == pytest.approx(0.9173, abs=1e-4)
