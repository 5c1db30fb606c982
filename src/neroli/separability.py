"""Whether detectors tell the images they were fitted on from held-out ones, which should be alike.

Where nothing was learned by heart and both come from one distribution, a score is the same on both:
the AUROC between them is a half. A detector is told of if it surely exceeds 55 %. On training and
test images of one data set most detectors stay below that, unless the network itself fits its
training images far better than others; and for normal scores an AUROC of 55 % makes of a
false-alarm rate of 5 % some 7 %. If it is so of more than half of the detectors, it is the images
or the network; a single one is to blame where its AUROC exceeds that of the median one as far.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from neroli.activations import ActivationSource, Rows
from neroli.benchmark.evidence import Measured
from neroli.benchmark.wording import listed, percent
from neroli.statistics import keyed_hashes

MOST_SCORED = 5_000
"""Training images that are scored."""

EXCESS = 0.05
"""How far above a half, or above the median detector, an AUROC must surely lie to be told of."""


def training_sample(
    train: ActivationSource, seed: int, most: int = MOST_SCORED
) -> ActivationSource:
    """At most so many training images, drawn by a hash of their ids, whatever their order."""
    if len(train) <= most:
        return train
    keys = [keyed_hashes(batch, "features", seed) for batch in train.batches()]
    drawn = np.argsort(np.concatenate(keys), kind="stable")[:most]
    mask = torch.zeros(len(train), dtype=torch.bool)
    mask[torch.from_numpy(drawn)] = True
    return Rows(train, mask)


def separability_warnings(
    aurocs: Mapping[str, Measured], accuracies: tuple[float | None, float | None] = (None, None)
) -> list[str]:
    """What detectors that tell training from held-out images say of the images or of themselves.

    Args:
        aurocs: by detector its AUROC between training images and held-out ones.
        accuracies: of the classifier on both, as fractions, if there are labels.
    """
    if not aurocs:
        return []
    low = {name: each.interval().low for name, each in aurocs.items()}
    median = max(0.5, float(np.median([each.value for each in aurocs.values()])))
    separating = [name for name in low if low[name] > 0.5 + EXCESS]
    own = [name for name in low if low[name] > median + EXCESS]
    warnings = []
    if 2 * len(separating) > len(low) > 1:
        warnings.append(
            f"{len(separating)} of {len(low)} detectors tell training from held-out images (median "
            f"AUROC {percent(median)}%): either the held-out images differ from the training "
            "images (another hospital, another preprocessing), or the network knows its training "
            f"images far better than any others{_accuracies(*accuracies)}. If they differ, this "
            "comparison and any threshold hold for images like the held-out ones alone."
        )
    if own:
        own.sort(key=lambda name: -aurocs[name].value)
        named = [f"{name} ({percent(aurocs[name].value)}%)" for name in own]
        one = len(own) == 1
        beside = " more than the other detectors do" if median > 0.5 + EXCESS else ""
        warnings.append(
            f"{listed(named)} {'tells' if one else 'tell'} training from held-out images{beside} "
            f"(AUROC; 50% would be none): {'it scores' if one else 'they score'} what "
            f"{'it was' if one else 'they were'} fitted on too low. A threshold is right only "
            "because it is set on held-out images, never on training images."
        )
    return warnings


def _accuracies(training: float | None, held_out: float | None) -> str:
    if training is None or held_out is None:
        return ""
    return f" (its accuracy is {percent(training)}% and {percent(held_out)}%)"
