"""A benchmark's numbers and findings in words, as its tables and its page say them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neroli.benchmark.results import Estimate, Mean, OnSet, Results, Row
from neroli.explain.facts import plain

NONE = "\N{EN DASH}"
"""In the place of a number that there is not."""
FEW_SETS = 3
"""Below this a mean over sets says little about another set."""
FEW_IMAGES = 100
FEW_RESAMPLES = 200
"""Below this the threshold that accepts 95 % rests on fewer than five images."""
_NAMED = 5
"""How many of a list are named."""


def percent(fraction: float | None) -> str:
    """A fraction in %, with one decimal and without the sign; a dash if it is not known."""
    if fraction is None:
        return NONE
    return f"{100 * fraction:z.1f}".replace("-", "\N{MINUS SIGN}")


def signed(difference: float) -> str:
    """A difference of fractions in points of %, ``+0.7``, with one decimal."""
    return f"{100 * difference:+z.1f}".replace("-", "\N{MINUS SIGN}")


def limits(estimate: Estimate) -> str:
    """The ends of an interval in %."""
    between = " to " if estimate.low < 0 else "\N{EN DASH}"
    return f"{percent(estimate.low)}{between}{percent(estimate.high)}"


def with_limits(estimate: Estimate | None) -> str:
    """A number in % with its interval, ``88.5 (87.9-89.1)`` with an en dash."""
    return NONE if estimate is None else f"{percent(estimate.value)} ({limits(estimate)})"


def auroc_fpr95(found: OnSet | Mean | None) -> str:
    """AUROC with its interval, and FPR95, both in %."""
    if found is None:
        return NONE
    return f"{with_limits(found.auroc)} / {percent(found.fpr95.value)}"


def settings(values: Mapping[str, Any]) -> str:
    """Hyper-parameters and their values."""
    return ", ".join(f"{name}={value}" for name, value in values.items())


def short(name: str, most: int = 80) -> str:
    """A name as text that can be shown, cut if it has more characters."""
    text = plain(name)
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def size(count: int) -> str:
    """Bytes as people read them."""
    if count >= 1e6:
        return f"{count / 1e6:,.1f} MB"
    return f"{count / 1e3:,.1f} kB" if count else "none"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things: ``1 image``, ``1,200 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def of_a_hundred(fraction: float) -> str:
    """How many of 100 images, without calling few none or nearly all everything."""
    if 0 < fraction < 0.005:
        return "fewer than 1"
    if 0.995 <= fraction < 1:
        return "more than 99"
    return f"about {100 * fraction:.0f}" if 0 < fraction < 1 else f"{100 * fraction:.0f}"


def listed(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    return " and ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])


def answer(results: Results) -> list[str]:
    """Which detector to take, in sentences: the best, those as good, and what it lets through."""
    if not results.rows:
        return ["No detector gave a result: the reasons are listed below."]
    best, sets = results.rows[0], results.ood_sets
    where = f"over {len(sets)} OOD sets" if len(sets) > 1 else f"on {short(sets[0].name)}"
    kind = "mean AUROC" if len(sets) > 1 else "AUROC"
    said = [
        f"{short(best.label)} has the highest {kind} {where}: {percent(best.mean.auroc.value)}% "
        f"(95% interval {limits(best.mean.auroc)}%)."
    ]
    said += _beside(best, results.rows[1:])
    said += _let_through(best)
    if best.memorises:
        said.append(
            "It tells images the classifier was trained on from test images (AUROC "
            f"{percent(best.train_test.value)}%): part of what it measures is whether an image "
            "was seen before."
        )
    return said


def problems(results: Results) -> list[str]:
    """What makes the numbers doubtful, a sentence or two each; empty if nothing does."""
    return [
        *_duplicates(results),
        *_memorising(results.rows),
        *_failed(results),
        *_unreadable(results),
        *_few(results),
    ]


def _beside(best: Row, others: Sequence[Row]) -> list[str]:
    if not others:
        return ["It is the only one that was run: there is nothing to compare it with."]
    as_good = [row for row in others if row.as_good_as_best]
    alike = [short(row.label) for row in as_good]
    by = "by the paired 95% interval of the difference"
    if not alike:
        among = "the other one" if len(others) == 1 else f"each of the other {len(others)}"
        return [f"It is told apart from {among} {by}."]
    if len(others) == 1:
        return [f"The other one, {alike[0]}, is not told apart from it {by}."]
    some = "one is" if len(alike) == 1 else f"{len(alike)} are"
    cheapest = min([best, *as_good], key=lambda row: row.cost.score_seconds)
    return [
        f"Of the other {len(others)}, {some} not told apart from it {by}: {listed(alike)}.",
        f"Of all these, {short(cheapest.label)} takes the least time to score.",
    ]


def _let_through(best: Row) -> list[str]:
    through = best.mean.fpr95.value
    said = (
        "With the threshold at which 95 of 100 in-distribution images are accepted, it would also "
        f"accept {of_a_hundred(through)} of 100 OOD images"
    )
    if len(best.sets) > 1:
        name, worst = max(best.sets.items(), key=lambda item: item[1].fpr95.value)
        said += f" (mean over the sets; most on {short(name)}, {of_a_hundred(worst.fpr95.value)})"
    if through > 0.5:
        return [f"{said}: more than half, so do not rely on it alone."]
    return [f"{said}."]


def _duplicates(results: Results) -> Iterable[str]:
    for each in results.duplicates:
        yield (
            f"{counted(each.images, 'image')} {'is' if each.images == 1 else 'are'} in both "
            f"{short(each.first)} and {short(each.second)}, which should share none: take them out "
            "of one and run again."
        )


def _memorising(rows: Sequence[Row]) -> Iterable[str]:
    names = [
        f"{short(row.label)} ({percent(row.train_test.value)}%)" for row in rows if row.memorises
    ]
    if names:
        yield (
            f"{counted(len(names), 'detector')} {'tells' if len(names) == 1 else 'tell'} training "
            f"from test images (AUROC far from 50%): {listed(names)}. What was learned from the "
            "training images may not hold for new ones."
        )


def _failed(results: Results) -> Iterable[str]:
    if results.failures:
        names = [short(failed.label) for failed in results.failures]
        yield f"{counted(len(names), 'detector')} gave no result: {listed(names)}."


def _unreadable(results: Results) -> Iterable[str]:
    broken = [each for each in results.sets if each.unreadable]
    if broken:
        names = [f"{short(each.name)} ({each.unreadable:,})" for each in broken]
        total = sum(each.unreadable for each in broken)
        yield f"{counted(total, 'image')} could not be read and left out: {listed(names)}."


def _few(results: Results) -> Iterable[str]:
    sets = results.ood_sets
    if len(sets) < FEW_SETS:
        yield (
            f"There {'is' if len(sets) == 1 else 'are'} only {counted(len(sets), 'OOD set')}: "
            "which detector is best on other sets is not known."
        )
    small = [
        f"{short(each.name)} ({each.images:,})"
        for each in results.sets
        if each.role in ("test", "ood") and each.images < FEW_IMAGES
    ]
    if results.resamples < FEW_RESAMPLES:
        yield (
            f"Intervals are of {counted(results.resamples, 'resample')} only, which is rough: "
            f"take {FEW_RESAMPLES} or more."
        )
    if small:
        verb = "has" if len(small) == 1 else "have"
        yield f"{listed(small)} {verb} fewer than {FEW_IMAGES} images: look at the intervals."
