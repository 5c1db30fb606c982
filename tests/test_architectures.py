"""The head of real architectures: a quick few of those in benchmarks/architectures.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from neroli import Classifier
from neroli.models import import_torchvision

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from architectures import BOUND, ENOUGH, PAGE, examine, images_of, logits_of, randomise
from networks_surveyed import ARCHITECTURES, Architecture

import_torchvision()  # before any of the three libraries is imported
BY_NAME = {str(architecture): architecture for architecture in ARCHITECTURES}

WORKING = {
    "timm:mobilenetv3_small_100": "classifier",
    "timm:convnext_atto": "head.fc",
    "timm:deit_tiny_distilled_patch16_224": "head|head_dist",
    "timm:crossvit_tiny_240": "head.0|head.1",
    "timm:levit_128s": "head+head_dist",
    "timm:shvit_s1": "head.l",
    "torchvision:shufflenet_v2_x0_5": "fc",
    "torchvision:mobilenet_v3_small": "classifier.3",
    "transformers:SwinForImageClassification": "classifier",
    "transformers:ResNetForImageClassification": "classifier.1",
    "transformers:DeiTForImageClassificationWithTeacher": (
        "cls_classifier|distillation_classifier"
    ),
    "transformers:PerceiverForImageClassificationLearned": (
        "perceiver.decoder.decoder.final_layer"
    ),
}
REFUSED = {
    "timm:volo_d1_224": "HeadNotFound",
    "timm:efficientvim_m1": "HeadNotFound",
    "torchvision:squeezenet1_1": "HeadNotFound",
    "transformers:PPLCNetForImageClassification": "InvalidInput",
}


def named(name: str) -> Architecture:
    """The architecture, if its library is installed."""
    pytest.importorskip(BY_NAME[name].source)
    return BY_NAME[name]


@pytest.mark.parametrize("name", WORKING)
def test_the_head_found_yields_the_logits(name: str) -> None:
    result = examine(named(name))
    assert result.head == WORKING[name]
    assert result.error <= BOUND
    assert not result.wrong


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_is_refused_with_a_reason_and_a_remedy(name: str) -> None:
    architecture = named(name)
    kind, _, reason = examine(architecture).refusal.partition(": ")
    assert kind == REFUSED[name]
    assert reason
    assert architecture.advice


def test_volo_works_without_its_second_head_as_the_page_says() -> None:
    volo = named("timm:volo_d1_224").make()
    volo.aux_head = None
    randomise(volo, 224)
    images = images_of(224, 5)
    classifier = Classifier(volo)
    activations = classifier(images)
    assert classifier.head_name == "head"
    with torch.no_grad():
        expected = logits_of(volo(images))
    torch.testing.assert_close(classifier.head(activations.features), expected)


def test_the_page_lists_every_architecture() -> None:
    source, listed = "", {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            source = line[3:].partition(":")[0]
        elif line.startswith("| `"):
            cells = line.split(" | ")
            listed[f"{source}:{cells[0][3:-1]}"] = cells[4].startswith("`")
    assert list(listed) == list(BY_NAME)
    assert sum(listed.values()) >= ENOUGH
    assert {name for name, works in listed.items() if not works} == {
        name for name, architecture in BY_NAME.items() if architecture.advice
    }
