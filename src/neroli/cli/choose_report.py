"""What ``neroli choose`` says it has found, on the terminal and in files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from neroli.benchmark.wording import NONE, counted, listed, percent, signed, with_limits
from neroli.choice import Choice, OnStandIns, Ranked
from neroli.errors import InvalidInput
from neroli.explain.facts import plain
from neroli.files import atomic_path

SHOWN = 10
"""Rows on the terminal; the files have all."""

SUFFIXES = (".json", ".md")

_TITLES = ("#", "detector", "left out", "corrupted", "objective", "gain")

_LEGEND = (
    "AUROC / FPR95 in %: held-out images against those of classes left out in turn, and against "
    "corrupted ones; no out-of-distribution image was seen. Objective: mean of both AUROCs, with "
    "its 95% interval; gain: over the default's, with its standard error."
)


def check_file(path: Path) -> None:
    """Raise InvalidInput, before the work, if nothing can be written to a file of that name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"--out takes a .json or .md file, got {str(path)!r}.")
    if path.is_dir():
        raise InvalidInput(f"--out takes a file, and {str(path)!r} is a folder.")
    folder = next(each for each in path.absolute().parents if each.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(f"Cannot write {str(path)!r}: {error.strerror or error}.") from None


def facts_of(choice: Choice) -> dict[str, Any]:
    """All that was found, for programs."""
    return {**choice.model_dump(mode="json"), "fit": ["--detector", choice.recommended]}


def write(path: Path, choice: Choice) -> None:
    """Write what was found, as JSON or Markdown by the name of the file, atomically.

    Raises:
        ArtefactError: if it cannot be written.
    """
    is_json = path.suffix.lower() == ".json"
    text = json.dumps(facts_of(choice), indent=2) + "\n" if is_json else _markdown(choice)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def text_of(choice: Choice) -> str:
    """What was found, for people: the first rows, the verdict, and what is doubtful."""
    rows = [_TITLES, *(_cells(each, choice.default) for each in _shown(choice))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    lines = [_LEGEND, ""]
    lines += [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if more := len(choice.ranked) - len(rows) + 1:
        lines.append(f"and {more} more.")
    lines += ["", *_sentences(choice)]
    return "\n".join(map(plain, lines))


def _shown(choice: Choice) -> list[Ranked]:
    """The first rows, and those of the default and of what is recommended."""
    named = (choice.default, choice.recommended)
    return [each for each in choice.ranked if each.rank <= SHOWN or each.detector in named]


def _markdown(choice: Choice) -> str:
    cells = (_cells(each, choice.default) for each in choice.ranked)
    rows = [_TITLES, ("---",) * len(_TITLES), *cells]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    sentences = "\n\n".join(map(plain, _sentences(choice)))
    return f"# Detectors compared without OOD images\n\n{_LEGEND}\n\n{table}\n\n{sentences}\n"


def _cells(each: Ranked, default: str) -> tuple[str, ...]:
    gain = "default" if each.detector == default else NONE
    if each.gain is not None:
        gain = signed(each.gain.value)
        if each.gain.error is not None:
            gain += f" \N{PLUS-MINUS SIGN} {percent(each.gain.error)}"
    return (
        str(each.rank),
        each.detector,
        _rates(each.left_out),
        _rates(each.corrupted),
        with_limits(each.objective),
        gain,
    )


def _rates(found: OnStandIns | None) -> str:
    return NONE if found is None else f"{percent(found.auroc.value)} / {percent(found.fpr95)}"


def _sentences(choice: Choice) -> list[str]:
    said = [choice.reason, *_alike(choice)]
    said += [f"Warning: {warning}" for warning in choice.warnings]
    said += [f"Note: {remark}" for remark in choice.remarks]
    if choice.dropped:
        said.append(
            f"Note: {counted(choice.dropped, 'held-out image')} dropped as copies or training "
            "images."
        )
    said += [f"Not compared: {each.label}: {each.reason}" for each in choice.failures]
    said.append(
        f"From {counted(choice.training_images, 'training image')}, "
        f"{counted(choice.held_out_images, 'held-out image')} and "
        f"{counted(choice.corrupted_images, 'corrupted one')}, with "
        f"{counted(choice.folds, 'group')} of classes left out in turn. Real OOD images may be "
        "unlike both stand-ins: the order is a hint, the figures are no promise."
    )
    said.append(f"Go on with the same options: neroli fit ... --detector {choice.recommended}")
    return said


def _alike(choice: Choice) -> list[str]:
    """Which detectors cannot be told from the best."""
    best = choice.ranked[0].detector
    others = [name for name in choice.alike if name != best]
    if len(choice.ranked) == 1:
        return []
    if not others:
        return [f"The objective of {best}, the highest, is told apart from every other."]
    return [
        f"Not told apart by objective from {best}, the highest: {listed(others)} (at 5%, corrected "
        "for the number compared)."
    ]
