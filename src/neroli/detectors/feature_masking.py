"""Feature masking informed by the head, with logits smoothed by the class prototype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from neroli.activations import Activations
from neroli.assumptions import Assumption
from neroli.detectors.about import Paper, parameter
from neroli.detectors.base import Detector, learned
from neroli.fitting import Learning
from neroli.head import LinearHead
from neroli.moments import ClassMoments, Labelling
from neroli.statistics import Extrema, Quantiles

_CLIP_QUANTILE = 0.95


@dataclass(eq=False)
class FeatureMasking(Detector):
    """Feature masking and prototype logit smoothing (HIMPLoS): energy of masked, scaled logits.

    ``S = -log sum_k exp(cos(a, mu_c) o_k)`` with ``o = W min(a * m_c, clip) + b``: c is the class
    the plain head predicts, ``mu_c`` its mean training features, and ``m_c`` keeps the neurons
    whose weight for c reaches a percentile of the class's weights. The mask comes before the clip;
    the cosine is of the features as they are.

    Args:
        percentile: share of neurons masked for each class, in %.
        clip: activations are cut off here. The authors' 1.6 belongs to their DenseNet and does not
            carry over to another network; None takes the 95 % quantile of all training activations.
        labels: class means over the "true" or over the "predicted" class; the paper's are true.

    Published settings (percentile, clip): CIFAR-10 and CIFAR-100 (60, 1.6) on DenseNet-101,
    ImageNet (30, 0.8) on ResNet-50. Where the features or a class mean are all zero the cosine is
    zero, and the score ``-log C``. For a class without any training image the mean of all stands
    in.

    Source: Sun et al., arXiv 2310.18104, and the authors' program.
    """

    name: ClassVar[str] = "feature_masking"
    paper: ClassVar[Paper | None] = Paper(
        "Sun et al.",
        2023,
        "",
        "2310.18104",
        "Classifier-head Informed Feature Masking and Prototype-based Logit Smoothing for "
        "Out-of-Distribution Detection",
    )
    measures: ClassVar[str] = "energy of the logits from masked features, times a cosine"
    assumes: ClassVar[tuple[Assumption, ...]] = (
        "non-negative features",
        "positive logits",
        "images of every class",
    )

    percentile: float = parameter(60.0, "% of neurons masked", within=(0, 100))
    clip: float | None = parameter(
        1.6, "where activations are clipped; None: their 95 % quantile", above=0
    )
    labels: Labelling = parameter("true", "class means over the true or the predicted class")

    prototypes: Tensor = learned()
    """Class means of the features, ``[C, D]``."""
    kept: Tensor = learned()
    """Which neurons are kept for each predicted class, ``[C, D]``, boolean."""
    threshold: Tensor = learned()
    """Where activations are clipped, a scalar."""

    def learn(self, head: LinearHead) -> Learning:
        means = ClassMoments("features", self.labels, allow_empty=True)
        if self.clip is None:
            classes, extremes = yield means, Extrema("features")
            self.threshold = (yield Quantiles("features", extremes, (_CLIP_QUANTILE,)))[0]
        else:
            classes = yield means
            self.threshold = torch.tensor(self.clip, dtype=torch.float64)
        self.prototypes = classes.filled().mean
        weight = head.weight.double().cpu().numpy()
        cut = np.percentile(weight, self.percentile, axis=1, keepdims=True)
        self.kept = torch.from_numpy(weight >= cut)

    def compute(self, batch: Activations) -> Tensor:
        assert self.head is not None
        predicted = batch.predictions
        similarity = cosine_similarity(batch.features, self.prototypes[predicted])
        masked = batch.features * self.kept[predicted]
        logits = self.head(masked.clamp(max=float(self.threshold)))
        return -(similarity[:, None] * logits).logsumexp(dim=1)
