"""What shrinking a covariance brings where there are few training images for its features.

    python benchmarks/few_images.py [--data DATA] [--folder FOLDER]

Of two suites as ``benchmarks/default.py`` measures them (FOLDER is its own): AUROC in %, the mean
over the OOD sets, of relative Mahalanobis with and without shrinkage and of the default, fitted on
so many training images for every feature, drawn at random.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from common import shared_data
from default_suites import benchmarked, stores_of

from neroli import fit
from neroli.detectors import DEFAULT, RelativeMahalanobis, create
from neroli.errors import NeroliWarning
from neroli.metrics import auroc

SUITES = ("cifar10-densenet", "medical-mnist")
IMAGES_A_FEATURE = (0.6, 1.05, 1.5, 2.0, 3.0, 3.9, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="of the suites, as of `neroli bench`")
    parser.add_argument("--folder", type=Path, default=Path("default-suites"))
    options = parser.parse_args()
    warnings.simplefilter("ignore", NeroliWarning)
    print("| suite | images a feature | images | not shrunk | as needed | the default |")
    print("|---|---|---|---|---|---|")
    for suite in SUITES:
        folder = benchmarked(suite, options.data or shared_data(), options.folder)
        stores = stores_of(folder)
        head, sets = stores["train"].head, {kind: store.load() for kind, store in stores.items()}
        train, inside = sets.pop("train"), sets.pop("test")
        for ratio in IMAGES_A_FEATURE:
            count = int(ratio * head.num_features)
            if count > len(train):
                continue
            drawn = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
            detectors = [RelativeMahalanobis(shrinkage=0), RelativeMahalanobis(), create(DEFAULT)]
            cells = []
            for detector in fit(detectors, train.select(drawn), head):
                known = detector.score(inside)
                found = [auroc(known, detector.score(outside)) for outside in sets.values()]
                cells.append(f"{100 * np.mean(found):.1f}")
            print(f"| {suite} | {ratio:g} | {count} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
