"""Images with the same content in sets that should share none, or twice in one set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from torch import Tensor

from neroli.benchmark.results import Duplicates
from neroli.overlap import digest_keys


def duplicates(digests: Mapping[str, Tensor], pairs: Iterable[tuple[str, str]]) -> list[Duplicates]:
    """How many images of the second set of each pair are also in the first.

    Args:
        digests: hashes of the images' contents by set, ``[N, 16]`` uint8 each.
        pairs: names of the sets to compare.

    Returns:
        of the pairs that share images, in the order given.
    """
    found = [
        Duplicates(
            first=first,
            second=second,
            images=int(np.isin(digest_keys(digests[second]), digest_keys(digests[first])).sum()),
        )
        for first, second in pairs
    ]
    return [each for each in found if each.images]


def copies(digests: Mapping[str, Tensor]) -> dict[str, int]:
    """How many images of each set are copies of another of it, by set that has any.

    Args:
        digests: hashes of the images' contents by set, ``[N, 16]`` uint8 each.
    """
    counts = {name: len(each) - len(np.unique(digest_keys(each))) for name, each in digests.items()}
    return {name: count for name, count in counts.items() if count}
