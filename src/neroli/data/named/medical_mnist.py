"""Medical MNIST: small grey images of six kinds of examination."""

from __future__ import annotations

from neroli.data.named.class_folders import ClassFolders

_FULL = {
    "AbdomenCT": 10_000,
    "BreastMRI": 8_954,
    "CXR": 10_000,
    "ChestCT": 10_000,
    "Hand": 10_000,
    "HeadCT": 10_000,
}

MEDICAL_MNIST = ClassFolders(
    name="medical-mnist",
    about=(
        "Medical MNIST: grey 64x64 images of six kinds of examination, collected from public "
        "sources (no paper)."
    ),
    id_classes=("AbdomenCT", "CXR", "ChestCT", "HeadCT"),
    ood_classes=("BreastMRI", "Hand"),
    total=sum(_FULL.values()),
    counts=_FULL,
    choice="ood_classes",
    our_choice=(
        "Holding out BreastMRI and Hand as OOD is neroli's choice; give others with ood_classes."
    ),
    archive="medical_mnist.tar",
    sample=1_000,
)

BENCHMARKS = (MEDICAL_MNIST.benchmark(),)
