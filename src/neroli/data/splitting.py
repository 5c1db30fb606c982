"""Splitting images into training and calibration, so that no patient or procedure is in both."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from neroli.data.pictures import Pictures
from neroli.errors import InvalidInput, NotEnoughImages

_FOLDS = 20
"""Parts of equal class shares that groups are dealt into; some of them become calibration."""


def split(pictures: Pictures, share: float = 0.2, seed: int = 0) -> tuple[Pictures, Pictures]:
    """Images for training and for calibration, with the classes in equal shares.

    All images of a group come on one side. Images without groups are split one by one.

    Args:
        pictures: images with labels, groups, both or neither.
        share: of the images that go to calibration, in 0..1; met as well as the groups allow.
        seed: another seed, another split; the same seed, the same.

    Returns:
        (training, calibration), each in the original order.

    Raises:
        InvalidInput: if ``share`` is out of range.
        NotEnoughImages: if there are too few groups, or images of a class, for two sides.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"share must lie between 0 and 1, got {share}.")
    rows = np.arange(len(pictures))
    classes = np.array(pictures.labels or pictures.stated_labels or [0] * len(rows))
    if pictures.groups is None:
        try:
            _, held_out = train_test_split(
                rows, test_size=share, random_state=seed, stratify=classes
            )
        except ValueError as error:
            raise NotEnoughImages(f"These {len(rows)} images cannot be split: {error}") from None
    else:
        groups = np.array(pictures.groups)
        folds = min(_FOLDS, len(np.unique(groups)))
        if folds < 2:
            raise NotEnoughImages(
                f"All {len(rows)} images are of one group: there must be two groups to split them."
            )
        # a class may have fewer images than there are folds; scikit-learn warns of nothing else
        kept = min(folds - 1, max(1, round(share * folds)))
        dealt = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        parts = [part for _, part in dealt.split(rows, classes, groups)]
        held_out = np.concatenate(parts[:kept])
    training = np.setdiff1d(rows, held_out)
    return pictures.subset(training.tolist()), pictures.subset(np.sort(held_out).tolist())
