"""``neroli explain`` as a user runs it."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from neroli import Guard
from neroli.cli import app
from neroli.explain import explain
from networks import trained_colour_network


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_it_explains_what_python_does(saved_guard: Path, pictures: Path, tmp_path: Path) -> None:
    files = sorted((pictures / "new").iterdir())[:3]
    out = tmp_path / "report.html"
    result = run("explain", saved_guard, *files, "--out", out, "--json", "--top", 5)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    loaded = Guard.load(saved_guard, trained_colour_network())
    expected = explain(loaded, files, [path.name for path in files], top=5)
    assert [record["name"] for record in facts["explanations"]] == [p.name for p in files]
    for record, explanation in zip(facts["explanations"], expected, strict=True):
        assert record["predicted_name"] == explanation.predicted_name
        assert record["score"] == pytest.approx(explanation.score, rel=1e-5)
        assert record["p_value"] == explanation.p_value
        assert len(record["neurons"]["top"]) == 5
    page = out.read_text()
    assert all(path.name in page for path in files)
    assert "training image " in page and facts["left_out"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_people_read_the_summary(saved_guard: Path, pictures: Path, tmp_path: Path) -> None:
    image = sorted((pictures / "new").iterdir())[0]
    result = run("explain", saved_guard, image, "--out", tmp_path / "r.html")
    assert "1 image explained" in result.stdout
    assert f"{image.name}: " in result.stdout and "with probability" in result.stdout
    assert "at most 5% of in-distribution images flagged" in result.stdout


def test_sources_of_many_kinds_and_figures(
    saved_guard: Path, pictures: Path, tmp_path: Path
) -> None:
    files = sorted((pictures / "new").iterdir())
    (tmp_path / "some").mkdir()
    shutil.copy(files[0], tmp_path / "some")
    shutil.copy(files[0], tmp_path / files[0].name)
    (tmp_path / "t.csv").write_text(f"path\n{files[1]}\n")
    sources = [tmp_path / "some", files[2], tmp_path / "t.csv", files[0], tmp_path / files[0].name]
    figures = ["--figure-dir", tmp_path / "figures"]
    result = run("explain", saved_guard, *sources, "--out", tmp_path / "r.html", *figures, "--json")
    assert result.exit_code == 0, result.stderr
    names = [record["name"] for record in json.loads(result.stdout)["explanations"]]
    assert names[:2] == [files[0].name, files[2].name] and len(names) == 5
    assert len(set(names[3:])) == 2  # files of one name are told apart
    assert sorted(p.name for p in (tmp_path / "figures").glob("*.png")) == [
        f"{number:04}.png" for number in range(1, 6)
    ]
    assert (
        run("explain", saved_guard, files[0], "--out", tmp_path / "r.html", *figures).exit_code == 0
    )
    assert [p.name for p in (tmp_path / "figures").glob("*.png")] == ["0001.png"]


def test_figures_do_not_replace_files_of_others(
    saved_guard: Path, pictures: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    shutil.copy(sorted((pictures / "new").iterdir())[0], theirs / "0001.png")
    before = (theirs / "0001.png").read_bytes()
    result = run(
        "explain", saved_guard, theirs, "--out", tmp_path / "r.html", "--figure-dir", theirs
    )
    assert result.exit_code == 1 and "holds other files" in result.stderr
    assert (theirs / "0001.png").read_bytes() == before and not (tmp_path / "r.html").exists()


def test_of_many_the_most_unusual(saved_guard: Path, pictures: Path, tmp_path: Path) -> None:
    scores = tmp_path / "s.jsonl"
    assert run("score", saved_guard, pictures / "new", "--out", scores).exit_code == 0
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    rows.sort(key=lambda row: (row["p_value"], -row["score"]))
    options = ["--limit", 4, "--batch-size", 7, "--json"]
    result = run("explain", saved_guard, pictures / "new", "--out", tmp_path / "r.html", *options)
    facts = json.loads(result.stdout)
    found = [record["name"] for record in facts["explanations"]]
    assert found == [row["name"] for row in rows[:4]] and facts["left_out"] == 36
    assert "36 less unusual left out" in (tmp_path / "r.html").read_text()
    text = run("explain", saved_guard, pictures / "new", "--out", tmp_path / "r.html", "--limit", 4)
    assert "--limit 40 explains all" in text.stdout


def test_unreadable_images_are_listed_and_the_exit_code_says_so(
    saved_guard: Path, pictures: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "broken.jpg").write_bytes(b"\xff\xd8\xff junk")
    (bad / "<b>empty.png").write_bytes(b"")
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + 2 * (60_000).to_bytes(4) + b"\x08\x02\0\0\0"
    (bad / "gigapixel.png").write_bytes(header + b"\0" * 40)
    Image.new("CMYK", (8, 8)).save(bad / "cmyk.tif")
    Image.new("I;16", (8, 8), 40_000).save(bad / "deep.png")
    result = run("explain", saved_guard, bad, "--out", tmp_path / "r.html", "--json")
    assert result.exit_code == 3
    facts = json.loads(result.stdout)
    assert [record["name"] for record in facts["explanations"]] == ["cmyk.tif", "deep.png"]
    unreadable = {failure["name"] for failure in facts["unreadable"]}
    assert unreadable == {"broken.jpg", "<b>empty.png", "gigapixel.png"}
    page = (tmp_path / "r.html").read_text()
    assert "gigapixel.png" in page and "&lt;b&gt;empty.png" in page and "<b>" not in page
    alone = run("explain", saved_guard, bad / "broken.jpg", "--out", tmp_path / "r.html")
    assert alone.exit_code == 3 and "0 images explained" in alone.stdout


@pytest.mark.parametrize(
    ("images", "out", "message"),
    [
        ("none.png", "r.html", "There is no file or folder"),
        ("empty", "r.html", "no image"),
        ("new", "r.pdf", "written to an .html file"),
        ("new", "folder.html", "is a folder"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    saved_guard: Path, pictures: Path, tmp_path: Path, images: str, out: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.html").mkdir()
    source = pictures / "new" if images == "new" else tmp_path / images
    result = run("explain", saved_guard, source, "--out", tmp_path / out)
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / out).is_file()


def test_a_guard_of_an_older_schema_or_without_threshold_is_refused(
    saved_guard: Path, pictures: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(saved_guard, old)
    manifest = json.loads((old / "manifest.json").read_text())
    (old / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1}))
    result = run("explain", old, pictures / "new", "--out", tmp_path / "r.html")
    assert result.exit_code == 1 and "schema 1 of an earlier neroli" in result.stderr
    (old / "manifest.json").write_text(json.dumps(manifest | {"calibration": None}))
    weights = ["--weights", pictures / "weights.safetensors"]
    result = run("explain", old, pictures / "new", "--out", tmp_path / "r.html", *weights)
    assert result.exit_code == 1 and "no threshold" in result.stderr


def test_inspect_says_whether_thumbnails_are_kept(saved_guard: Path, pictures: Path) -> None:
    assert "30 thumbnails of training images, which may be patient data" in run(
        "inspect", saved_guard
    ).stdout.replace("\n", " ")
    facts = json.loads(run("inspect", saved_guard, "--json").stdout)
    assert facts["examples"] == {"images": 30, "thumbnails": 30}
