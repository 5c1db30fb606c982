"""Endoscopy of the gastrointestinal tract: Kvasir v2 and GastroVision."""

from __future__ import annotations

from neroli.data.named.class_folders import ClassFolders

_KVASIR_ID = ("normal-cecum", "normal-pylorus", "normal-z-line")
_KVASIR_OOD = (
    "esophagitis",
    "polyps",
    "ulcerative-colitis",
    "dyed-lifted-polyps",
    "dyed-resection-margins",
)

KVASIR = ClassFolders(
    name="kvasir-v2",
    about=(
        "Kvasir, version 2: endoscopic images of the gastrointestinal tract (Pogorelov et al., "
        '"KVASIR: a multi-class image dataset for computer aided gastrointestinal disease '
        'detection", 2017).'
    ),
    id_classes=_KVASIR_ID,
    ood_classes=_KVASIR_OOD,
    total=8_000,
    counts=dict.fromkeys(_KVASIR_ID + _KVASIR_OOD, 1_000),
)

GASTROVISION = ClassFolders(
    name="gastrovision",
    about=(
        "GastroVision: endoscopic images of two hospitals (Jha et al., "
        '"GastroVision: A Multi-class Endoscopy Image Dataset for Computer Aided '
        'Gastrointestinal Disease Detection", 2023).'
    ),
    # Ten are the anatomical landmarks and normal findings. For the eleventh every class left is of
    # disease, bleeding, or a treated site, but "Accessory tools": an instrument is in sight, which
    # is part of any examination.
    id_classes=(
        "Accessory tools",
        "Cecum",
        "Duodenal bulb",
        "Gastroesophageal_junction_normal z-line",
        "Ileocecal valve",
        "Normal esophagus",
        "Normal mucosa and vascular pattern in the large bowel",
        "Normal stomach",
        "Pylorus",
        "Retroflex rectum",
        "Small bowel_terminal ileum",
    ),
    ood_classes=(
        "Angiectasia",
        "Barrett's esophagus",
        "Blood in lumen",
        "Colon diverticula",
        "Colon polyps",
        "Colorectal cancer",
        "Dyed-lifted-polyps",
        "Dyed-resection-margins",
        "Erythema",
        "Esophageal varices",
        "Esophagitis",
        "Gastric polyps",
        "Mucosal inflammation large bowel",
        "Resected polyps",
        "Resection margins",
        "Ulcer",
    ),
    total=8_000,
    choice="id_classes",
    our_choice=(
        "NERO's paper takes 11 classes of GastroVision as in-distribution without listing them: "
        "the 11 here are neroli's choice (anatomical landmarks, normal findings and 'Accessory "
        "tools'); give others with id_classes."
    ),
)

BENCHMARKS = (KVASIR.benchmark(), GASTROVISION.benchmark())
