"""What a recommendation rests on, in sentences."""

import torch

from conftest import random_activations
from neroli import Activations, LinearHead
from neroli.choosing import choose


def test_few_held_out_images_are_said_to_be_few(head: LinearHead, training: Activations) -> None:
    held_out = random_activations(head, 120, seed=5)
    spoiled = random_activations(head, 80, seed=6, shift=1.0)

    def remarks(images: int) -> list[str]:
        few = held_out.select(torch.arange(images))
        return choose(head, training, few, spoiled, ["msp"], default="energy").remarks

    assert remarks(60)[-1].startswith("Only 60 held-out images: ")
    assert not any("held-out images: " in each for each in remarks(120))
