"""Records: what is put in is found again, filtered, decided, dropped and exported."""

from __future__ import annotations

import io
import math
import random
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neroli.errors import InvalidInput, UnknownRecord
from neroli.serve.filters import Filters
from neroli.serve.records import Records
from recorded import GUARD, opened, scored


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return opened(tmp_path)


def test_a_record_says_all_that_was_scored(records: Records) -> None:
    first = scored(predicted_name=None, score=-math.pi, p_value=1 / 3, is_ood=False)
    second = scored()
    records.add([first, second])
    found = records.get(first.id)
    assert {name: getattr(found, name) for name in asdict(first)} == asdict(first)
    assert (found.row, found.decision, found.note, found.decided_at) == (1, None, "", None)
    assert found.is_ood is False and records.get(second.id).row == 2
    with pytest.raises(UnknownRecord, match="no record 'abc'"):
        records.get("abc")


def test_an_id_is_recorded_once_and_a_refused_add_leaves_nothing(records: Records) -> None:
    first, other = scored(), scored()
    records.add([first])
    with pytest.raises(InvalidInput, match=f"{first.id}.*UNIQUE"):
        records.add([other, first])
    with pytest.raises(InvalidInput, match="NOT NULL"):
        records.add([scored(score=float("nan"))])
    with pytest.raises(UnknownRecord):
        records.get(other.id)
    assert records.decisions().images == 1


def test_order_is_that_of_arrival_whatever_the_clock_says(records: Records) -> None:
    some = [scored(at=at, p_value=p) for at, p in ((5.0, 0.5), (3.0, 0.1), (4.0, 0.9))]
    records.add(some[:2])
    records.add(some[2:])
    assert list(records.p_values()) == [(1, 0.5, True), (2, 0.1, True), (3, 0.9, True)]
    assert list(records.p_values(after=2)) == [(3, 0.9, True)]
    assert list(records.p_values(guard="f" * 16)) == []


def test_an_image_that_comes_again_is_recorded_but_has_one_p_value_a_guard(
    records: Records,
) -> None:
    first = scored()
    again, by_another = scored(content=first.content), scored(content=first.content, guard="f" * 16)
    records.add([first, again, by_another, scored()])
    assert [row for row, _, _ in records.p_values()] == [1, 3, 4]
    assert records.get(again.id).row == 2


def naive(pool: list, order: str) -> list[str]:
    keys = {
        "p_value": lambda pair: (pair[1].p_value, -pair[1].score, pair[0]),
        "newest": lambda pair: (-pair[1].at, -pair[0]),
        "oldest": lambda pair: (pair[1].at, pair[0]),
        "random": lambda pair: pair[1].id,
    }
    return [one.id for _, one in sorted(enumerate(pool), key=keys[order])]


@pytest.mark.parametrize("order", ["p_value", "newest", "oldest", "random"])
def test_pages_hold_every_record_once_in_order_also_among_ties(
    records: Records, order: str
) -> None:
    draw = random.Random(0)
    pool = [
        scored(
            at=draw.randrange(5),
            p_value=draw.choice([0.1, 1 / 3]),
            score=draw.choice([1 / 3, 2.0, 12.0]),
        )
        for _ in range(50)
    ]
    records.add(pool)
    found, after = [], None
    while True:
        page = records.queue(Filters(order=order), size=7, after=after)  # type: ignore[arg-type]
        found += [record.id for record in page.records]
        if (after := page.next) is None:
            break
        records.add([scored(is_ood=False)])  # what comes meanwhile disturbs nothing
    assert found == naive(pool, order)


def test_filters_narrow_the_queue(records: Records) -> None:
    draw = random.Random(1)
    pool = [
        scored(
            at=draw.randrange(9),
            p_value=draw.random(),
            is_ood=draw.random() < 0.5,
            predicted_class=draw.randrange(3),
            guard=draw.choice([GUARD, "f" * 16]),
        )
        for _ in range(200)
    ]
    records.add(pool)
    decided = {one.id for one in pool if draw.random() < 0.3}
    for identity in decided:
        records.decide(identity, "fine")
    cases = [
        (Filters(), lambda s: s.is_ood),
        (Filters(flagged=False), lambda s: True),
        (Filters(undecided=True), lambda s: s.is_ood and s.id not in decided),
        (Filters(guard=GUARD, predicted_class=2), lambda s: s.is_ood and s.guard == GUARD),
        (Filters(flagged=False, since=2, until=5, order="oldest"), lambda s: 2 <= s.at < 5),
    ]
    for filters, wanted in cases:
        kept = [
            s for s in pool if wanted(s) and filters.predicted_class in (None, s.predicted_class)
        ]
        page = records.queue(filters, size=500)
        assert [r.id for r in page.records] == naive_of(pool, kept, filters.order)
        assert page.next is None


def naive_of(pool: list, kept: list, order: str) -> list[str]:
    ids = {one.id for one in kept}
    return [identity for identity in naive(pool, order) if identity in ids]


def test_impossible_questions_are_refused(records: Records) -> None:
    for make in (
        lambda: Filters(order="score"),  # type: ignore[arg-type]
        lambda: records.queue(size=0),
        lambda: records.queue(after="x:y"),
        lambda: records.queue(after="12"),
        lambda: records.queue(Filters(predicted_class=10**30)),
        lambda: records.get("\ud800"),
        lambda: records.picture("x", "note"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInput):
            make()


def test_decisions_are_kept_counted_and_taken_back(records: Records, tmp_path: Path) -> None:
    pool = [scored(is_ood=i < 6) for i in range(10)]
    records.add(pool)
    for one, decision in zip(pool, ["fine", "fine", "ood", "fine"], strict=False):
        records.decide(one.id, decision)  # type: ignore[arg-type]
    record = records.decide(pool[3].id, "ood", "a stent")
    assert (record.decision, record.note) == ("ood", "a stent")
    assert record.decided_at is not None and record == records.get(pool[3].id)
    records.decide(pool[1].id, None)
    records.decide(pool[7].id, "ood")
    records.close()
    found = opened(tmp_path).decisions()
    assert (found.images, found.flagged) == (10, 6)
    assert (found.flagged_fine, found.flagged_ood) == (1, 2)
    assert (found.passed_fine, found.passed_ood) == (0, 1)


def test_a_decision_holds_for_a_content_and_counts_once(records: Records) -> None:
    first, other = scored(), scored()
    again, later = scored(content=first.content), scored(content=first.content)
    by_another = scored(content=first.content, guard="f" * 16)
    records.add([by_another, first, again, other])
    records.decide(again.id, "fine", "a stent")
    records.decide(first.id, "fine", "a stent")
    records.add([later])
    for one in (first, again, later):
        assert (records.get(one.id).decision, records.get(one.id).note) == ("fine", "a stent")
    assert records.get(by_another.id).decision is None
    found = records.decisions(first.guard)
    assert (found.images, found.flagged, found.flagged_fine) == (2, 2, 1)
    records.decide(later.id, "ood")
    found = records.decisions(first.guard)
    assert (found.flagged_fine, found.flagged_ood) == (0, 1)
    records.decide(first.id, None)
    assert records.get(later.id).decision is None
    assert records.decisions(first.guard).decided == 0


def test_the_first_record_of_a_content_is_found(records: Records) -> None:
    first = scored()
    records.add([scored(), first, scored(content=first.content)])
    found = records.of_content(first.content, first.guard)
    assert found is not None and found.id == first.id
    assert records.of_content(first.content, "f" * 16) is None


def test_a_decision_is_one_of_two_words_on_a_record_that_exists(records: Records) -> None:
    one = scored()
    records.add([one])
    with pytest.raises(InvalidInput, match="'maybe'"):
        records.decide(one.id, "maybe")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="2000 characters"):
        records.decide(one.id, "ood", "x" * 2001)
    with pytest.raises(InvalidInput, match="cannot be recorded"):
        records.decide(one.id, "ood", "broken \ud800")
    with pytest.raises(UnknownRecord):
        records.decide("0" * 32, "ood")
    assert records.get(one.id).decision is None and records.decisions().decided == 0


def test_the_oldest_beyond_the_limit_go_with_their_pictures_but_stay_counted(
    tmp_path: Path,
) -> None:
    records = opened(tmp_path, keep_records=20, keep_images=True)
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    pool = [scored(p_value=(i + 1) / 100) for i in range(60)]
    for number, one in enumerate(pool):
        records.add([one], [Image.fromarray(noise)])
        if number == 10:
            records.decide(pool[0].id, "fine")
    assert [row for row, _, _ in records.p_values()] == list(range(41, 61))
    assert records.picture(pool[39].id, "image") is None
    assert records.picture(pool[40].id, "image") is not None
    found = records.decisions()
    assert (found.images, found.flagged, found.flagged_fine) == (60, 60, 1)


def test_a_lower_limit_is_reached_in_small_steps_and_space_is_given_back(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    records = opened(tmp_path, keep_images=True)
    records.add([scored() for _ in range(400)], [Image.fromarray(noise)] * 400)
    records.close()
    path = tmp_path / "records.sqlite"
    full = path.stat().st_size
    records = opened(tmp_path, keep_records=10)
    counts = []
    for _ in range(12):
        records.add([scored()])
        counts.append(sum(1 for _ in records.p_values()))
    assert counts[:3] == [336, 272, 208] and counts[-1] == 10
    records.close()
    assert path.stat().st_size < full / 2


def test_pictures_are_kept_only_if_asked_for_and_without_what_else_their_files_say(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 600, 3), np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    Image.fromarray(noise).save(file, "PNG", exif=exif)
    picture = Image.open(file)
    for kept in ({}, {"keep_thumbnails": True}, {"keep_images": True}):
        records = opened(tmp_path / "-".join(["kept", *kept]), **kept)
        one = scored()
        records.add([one], [picture])
        thumbnail, image = (records.picture(one.id, kind) for kind in ("thumbnail", "image"))
        assert (thumbnail is not None, image is not None) == (
            "keep_thumbnails" in kept,
            "keep_images" in kept,
        )
        if thumbnail is not None:
            assert Image.open(io.BytesIO(thumbnail)).size == (256, 128)
        if image is not None:
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(image))), noise)
        assert b"Jane" not in (thumbnail or b"") + (image or b"")
    assert dict(picture.getexif()) == dict(exif)  # the caller's is as it was
    with pytest.raises(InvalidInput, match="2 pictures"):
        records.add([scored()], [picture, picture])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_pictures_of_every_mode_are_kept(tmp_path: Path, mode: str) -> None:
    records = opened(tmp_path, keep_images=True, keep_thumbnails=True)
    one = scored()
    records.add([one], [Image.new(mode, (8, 8))])
    assert records.picture(one.id, "thumbnail") and records.picture(one.id, "image")


def test_four_threads_add_decide_and_read_at_once(records: Records) -> None:
    added: list[list[str]] = [[] for _ in range(4)]
    errors: list[Exception] = []

    def work(mine: list[str]) -> None:
        try:
            for _ in range(30):
                pair = [scored(), scored(is_ood=False)]
                records.add(pair)
                assert records.get(pair[0].id).row + 1 == records.get(pair[1].id).row
                records.decide(pair[0].id, "fine")
                mine += [one.id for one in pair]
                records.queue(size=5)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in added]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    rows = [row for row, _, _ in records.p_values()]
    assert rows == list(range(1, 241))
    everything = records.queue(Filters(flagged=False), size=1000).records
    assert {one.id for one in everything} == {i for mine in added for i in mine}
    found = records.decisions()
    assert (found.images, found.flagged, found.flagged_fine) == (240, 120, 120)


def test_states_are_kept_by_key(records: Records, tmp_path: Path) -> None:
    assert records.load_state("drift") is None
    records.save_state("drift", {"a": 0.1 + 0.2})
    records.save_state("drift", {"a": [1, None, 0.1 + 0.2]})
    records.close()
    assert opened(tmp_path).load_state("drift") == {"a": [1, None, 0.1 + 0.2]}
