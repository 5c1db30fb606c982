"""Run by torchrun on two processes: fits on activations that are spread over them."""

from __future__ import annotations

import warnings

import pytest
import torch

from conftest import random_activations
from neroli import Activations, LinearHead, fit
from neroli.detectors import create
from neroli.errors import FailedElsewhere, InvalidInput, NeroliWarning, NotEnoughImages
from neroli.scale.distributed import DistributedActivations, Workers

NAMES = ("nero", "line", "knn", "cadref", "mahalanobis", "openmax", "conjnorm", "ensemble")


def check_detectors(workers: Workers, head: LinearHead, training: Activations) -> None:
    """They learn on every process what one learns alone, however the images are spread."""
    alone = fit([create(name) for name in NAMES], training, head)
    for cut in (130, len(training)):
        part = [training[:cut], training[cut:]][workers.rank]
        spread = DistributedActivations(part, workers)
        for one, other in zip(
            fit([create(name) for name in NAMES], spread, head), alone, strict=True
        ):
            state = one.state()
            for name, value in other.state().items():
                torch.testing.assert_close(state[name], value, rtol=1e-8, atol=1e-9, msg=name)


def check_failures(workers: Workers, head: LinearHead, training: Activations) -> None:
    """One process says why; the other fails too, and both can go on."""
    broken = training.features.clone()
    broken[300, 4] = torch.nan
    whole = Activations(broken, training.logits, training.labels, training.ids)
    part = DistributedActivations([whole[:200], whole[200:]][workers.rank], workers)
    expected = (InvalidInput, "image-0-300") if workers.rank else (FailedElsewhere, "Process 1")
    with pytest.raises(expected[0], match=expected[1]):
        fit([create("nero")], part, head)
    with pytest.raises(NotEnoughImages, match="no images"):
        fit([create("nero")], DistributedActivations(training[:0], workers), head)
    with pytest.raises((InvalidInput, FailedElsewhere)) as caught, workers.agreed():
        raise InvalidInput("All options are wrong.")
    assert isinstance(caught.value, FailedElsewhere if workers.rank else InvalidInput)


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NeroliWarning)
    draw = torch.Generator().manual_seed(0)
    head = LinearHead(
        torch.randn(5, 24, generator=draw, dtype=torch.float64),
        torch.randn(5, generator=draw, dtype=torch.float64),
    )
    training = random_activations(head, 400)
    with Workers.started() as workers:
        check_detectors(workers, head, training)
        check_failures(workers, head, training)
    print("as it should be")


if __name__ == "__main__":
    main()
