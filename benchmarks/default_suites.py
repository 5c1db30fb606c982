"""The suites that the default detector was chosen by, those it is judged by, and scores there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neroli import ActivationStore, fit
from neroli.benchmark import suites
from neroli.benchmark.stores import OOD, file_name
from neroli.detectors import Detector
from neroli.errors import NeroliError

Array = NDArray[np.float64]

CHOOSING = ("cifar10-resnet20", "cifar100-densenet", "medical-mnist")
REPORTING = ("cifar10-densenet", "digits", "medical-abdomen-chest", "medical-cxr-head")
"""Divided before any was looked at; networks, data sets and OOD modalities are others."""
HELD_BACK_CLASSES = {
    "medical-abdomen-chest": ("AbdomenCT", "ChestCT"),
    "medical-cxr-head": ("CXR", "HeadCT"),
}
NEEDING_MOST = ("cadref", "multi_layer_mahalanobis")
"""Detectors for which all is extracted that the others need."""
BATCH = 1024


def views_of(suite: str) -> tuple[str, ...]:
    """Views that leave the classes of a suite as they are: a mirrored digit is none."""
    return ("left:1", "right:1") if suite == "digits" else ("mirror",)


def benchmarked(suite: str, data: Path, folder: Path) -> Path:
    """The results of ``neroli bench`` for a suite, with views of its images; made if missing."""
    out, file = folder / suite, folder / f"{suite}.toml"
    if not (out / "results.json").is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_text(suite))
        command = [sys.executable, "-m", "neroli", "bench", file, "--data", data, "--out", out]
        more = ["--gallery", 1, "--resamples", 10]
        subprocess.run(list(map(str, [*command, *more])), check=True, stdout=subprocess.DEVNULL)
    return out


def _text(suite: str) -> str:
    """A built-in suite, or one with other classes held back, and a row in views."""
    classes = HELD_BACK_CLASSES.get(suite)
    built_in = "medical-mnist" if classes else suite
    text = (files(suites) / f"{built_in}.toml").read_text()
    if classes:
        dataset = f'dataset = "{built_in}"'
        text = text.replace(dataset, f"{dataset}\nood_classes = {json.dumps(classes)}")
        text = text.replace(f'name = "{built_in}"', f'name = "{suite}"', 1)
    text = re.sub(r"^detectors = .*\n", "", text, count=1, flags=re.MULTILINE)
    row = f'name = "views"\nsettings = {{ views = {json.dumps(views_of(suite))} }}'
    return f"detectors = {json.dumps(NEEDING_MOST)}\n{text}\n[[detector]]\n{row}\n"


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of detectors on one suite.

    Args:
        suite: its name.
        scores: by detector and set ("train", "test" and OOD sets), higher = more OOD. Training
            images are not scored in views.
        predictions: by set, the predicted classes.
        failures: detectors without scores, and why.
    """

    suite: str
    scores: dict[str, dict[str, Array]]
    predictions: dict[str, NDArray[np.int64]]
    failures: dict[str, str]

    @cached_property
    def ood(self) -> list[str]:
        return sorted(self.predictions.keys() - {"train", "test"})


def scored(folder: Path, detectors: Mapping[str, Detector]) -> Scores:
    """Detectors fitted on a suite's training images, and their scores of all its images."""
    stores = stores_of(folder)
    train, failures = stores["train"], {}
    first = {kind: next(iter(store.batches(1))) for kind, store in stores.items()}
    scores: dict[str, dict[str, Array]] = {}
    for name, detector in detectors.items():
        try:
            detector = fit([detector], train, train.head)[0]
            detector.score(first["test"])  # which may lack what it needs
        except NeroliError as error:
            failures[name] = str(error)
            continue
        scores[name] = {
            kind: np.concatenate([detector.score(b).double().numpy() for b in store.batches(BATCH)])
            for kind, store in stores.items()
            if kind != "train" or not detector.requires.probes
        }
    predictions = {
        kind: np.concatenate([batch.predictions.numpy() for batch in store.batches(BATCH)])
        for kind, store in stores.items()
    }
    return Scores(folder.name, scores, predictions, failures)


def layers_of(folder: Path) -> tuple[str, ...]:
    """The layers that a suite's activations are tapped at."""
    first = next(iter(stores_of(folder)["test"].batches(1)))
    return tuple(sorted({tap.partition(":")[0] for tap in first.taps}))


def stores_of(folder: Path) -> dict[str, ActivationStore]:
    """The activations of a suite's training, test and OOD images."""
    sets = json.loads((folder / "results.json").read_text())["sets"]
    roles = {each["name"]: each["role"] for each in sets}
    stores: dict[str, ActivationStore] = {}
    (kept,) = (folder / "activations").glob("*/kept.json")
    for name, role in roles.items():
        kind = OOD + name if role == "ood" else name
        if role in ("train", "test", "ood"):
            stores[kind] = ActivationStore(kept.parent / file_name(kind))
    return stores
