"""The command line as a user runs it."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from batteries import create
from conftest import COLOUR_PREPROCESSING, write_pictures
from neroli import Guard
from neroli import __version__ as neroli_version
from neroli.cli import app
from networks import trained_colour_network

TESTS = Path(__file__).parents[1]
NORMALISE = ["--mean", "0.5,0.5,0.5", "--std", "0.25 0.25 0.25"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fit_arguments(pictures: Path, out: Path, *more: object) -> list[object]:
    model = ["--model", "networks:colour_network", "--weights", pictures / "weights.safetensors"]
    data = ["--train", pictures / "train", "--calibration", pictures / "calibration"]
    return ["fit", *model, *data, *NORMALISE, "--out", out, *more]


@pytest.fixture(scope="module")
def guard(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("guards") / "guard"
    result = run(*fit_arguments(pictures, out))
    assert result.exit_code == 0, result.stderr
    return out


def test_fit_says_what_it_did(pictures: Path, tmp_path: Path) -> None:
    result = run(*fit_arguments(pictures, tmp_path / "g"))
    assert result.exit_code == 0
    assert "Training accuracy 100.00%" in result.stdout
    assert "Calibrated on 60 images (0 dropped" in result.stdout
    assert "at most 5% of in-distribution images flagged, with 90% confidence" in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g"]  # no working files stay


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_score_gives_the_numbers_of_the_python_api(
    guard: Path, pictures: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"scores.{suffix}"
    result = run("score", guard, pictures / "new", "--out", out, "--batch-size", 7, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["images"] == 40
    rows = read_rows(out)
    verdicts = Guard.load(guard, trained_colour_network())(sorted((pictures / "new").iterdir()))
    assert [row["name"] for row in rows] == sorted(p.name for p in (pictures / "new").iterdir())
    torch.testing.assert_close(
        torch.tensor([float(row["score"]) for row in rows]), verdicts.score, rtol=1e-5, atol=1e-6
    )
    p_values = torch.tensor([float(row["p_value"]) for row in rows], dtype=torch.float64)
    assert torch.equal(p_values, verdicts.p_value)
    assert [int(row["predicted_class"]) for row in rows] == verdicts.predicted_class.tolist()
    assert [str(row["is_ood"]).lower() == "true" for row in rows] == verdicts.is_ood.tolist()
    assert {row["predicted_name"] for row in rows} <= {"blue", "green", "red"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name]


def read_rows(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    lines = path.read_text().splitlines()
    return list(csv.DictReader(lines)) if path.suffix == ".csv" else [json.loads(x) for x in lines]


def test_every_unreadable_file_is_a_row_with_its_reason_and_the_exit_code_says_so(
    guard: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures / "new", tmp_path / "new")
    (tmp_path / "new" / "broken.jpg").write_bytes(b"\xff\xd8\xff junk")
    (tmp_path / "new" / "empty.png").write_bytes(b"")
    Image.new("CMYK", (8, 8)).save(tmp_path / "new" / "cmyk.tif")
    Image.new("I;16", (8, 8), 40_000).save(tmp_path / "new" / "deep.png")
    out = tmp_path / "scores.parquet"
    result = run("score", guard, tmp_path / "new", "--out", out)
    assert result.exit_code == 3
    assert "unreadable image 'empty.png' is empty" in result.stderr
    rows = {str(row["name"]): row for row in read_rows(out)}
    assert len(rows) == 44
    assert rows["empty.png"]["score"] is None
    assert "0 bytes" in str(rows["empty.png"]["error"])
    assert rows["cmyk.tif"]["error"] is None
    assert isinstance(rows["deep.png"]["score"], float)


def test_scores_are_calibrated_verdicts(guard: Path, pictures: Path, tmp_path: Path) -> None:
    result = run("score", guard, pictures / "train", "--out", tmp_path / "s.csv", "--json")
    facts = json.loads(result.stdout)
    assert facts["flagged"] <= 0.15 * facts["images"]
    for index in range(20):
        Image.new("RGB", (8, 8), (255, 255, 10 * index)).save(tmp_path / f"far{index}.png")
    result = run("score", guard, tmp_path, "--out", tmp_path / "far.csv", "--json")
    assert json.loads(result.stdout)["flagged"] >= 10


def test_inspect_says_what_a_guard_is(guard: Path) -> None:
    text = run("inspect", guard).stdout
    for part in ("nero", "16 features", "blue, green, red", "120 images", "accuracy 100.00%"):
        assert part in text
    facts = json.loads(run("inspect", guard, "--json").stdout)
    assert facts["calibration"]["images"] == 60
    assert facts["model_source"]["model"] == "networks:colour_network"


def test_hyperparameters_and_promises_reach_the_guard(pictures: Path, tmp_path: Path) -> None:
    options = ["--detector", "line", "--set", "weight_percentile=80", "--set", "labels=predicted"]
    promise = ["--false-alarm-rate", "0.1", "--guarantee", "average", "--per-class"]
    result = run(*fit_arguments(pictures, tmp_path / "g", *options, *promise))
    assert result.exit_code == 0, result.stderr
    facts = json.loads(run("inspect", tmp_path / "g", "--json").stdout)
    assert facts["detector"]["hyperparameters"]["weight_percentile"] == 80
    assert facts["detector"]["hyperparameters"]["labels"] == "predicted"
    assert facts["calibration"]["promise"] == {
        "false_alarm_rate": 0.1,
        "guarantee": "average",
        "confidence": 0.9,
        "per_class": True,
    }


def test_a_wrong_class_order_is_refused(pictures: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"blue": 1, "green": 2, "red": 0}))
    arguments = fit_arguments(pictures, tmp_path / "g", "--class-map", path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "no better than chance" in result.stderr
    assert "--class-map" in result.stderr
    assert not (tmp_path / "g").exists()
    assert run(*arguments, "--allow-low-agreement").exit_code == 0
    assert json.loads(run("inspect", tmp_path / "g", "--json").stdout)["training"]["doubt"]
    path.write_text(json.dumps({"blue": 1, "green": 0, "red": 2}))
    swapped = run(*arguments)
    assert swapped.exit_code == 1
    assert "most images labelled 'green' are predicted as 'blue'" in swapped.stderr
    path.write_text(json.dumps({"blue": 0, "green": 1, "red": 2}))
    result = run(*arguments)
    assert result.exit_code == 0
    assert "Replaced the guard" in result.stdout


REFUSED = {
    "model": (["--model", "resnet18"], "names no model"),
    "detector": (["--detector", "neroo"], "did you mean 'nero'"),
    "hyper-parameter": (["--set", "k=3"], "no hyper-parameter 'k'"),
    "setting": (["--set", "eps"], "NAME=VALUE"),
    "setting's type": (["--set", "eps=much"], "eps"),
    "setting's value": (["--set", "labels=yes"], "labels"),
    "rate": (["--false-alarm-rate", "5"], "false_alarm_rate must lie between 0 and 1, got 5"),
    "guarantee": (["--guarantee", "sure"], "'sure'"),
    "mean": (["--mean", "x"], "--mean takes numbers"),
    "resize": (["--resize", "big"], "--resize takes pixels"),
    "head": (["--head", "fc"], "no module 'fc'"),
    "weights": (["--weights", "gone.pt"], "no weights file"),
    "train": (["--train", "gone"], "There is no file or folder 'gone'"),
    "calibration": (["--calibration", "gone"], "There is no file or folder 'gone'"),
    "device": (["--device", "abacus"], "Cannot run on device 'abacus'"),
    "too few for the rate": (["--false-alarm-rate", "0.01"], "needs at least 230"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_options_get_one_clear_line(
    options: list[str], message: str, pictures: Path, tmp_path: Path
) -> None:
    result = run(*fit_arguments(pictures, tmp_path / "g", *options))
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "g").exists()


def test_bad_guards_and_tables_get_one_clear_line(
    guard: Path, pictures: Path, tmp_path: Path
) -> None:
    new = pictures / "new"
    for arguments, message in [
        (("score", tmp_path, new, "--out", tmp_path / "s.csv"), "There is no guard in"),
        (("score", guard, new, "--out", tmp_path / "s.xlsx"), ".parquet, .csv, .jsonl"),
        (("score", guard, tmp_path, "--out", tmp_path / "s.csv"), "no image file in"),
        (("score", guard, new, "--out", "/proc/s.csv"), "Cannot write"),
        (("inspect", tmp_path), "There is no guard in"),
    ]:
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (1, True), result.stderr
    failed = run("inspect", tmp_path, "--json")
    assert json.loads(failed.stdout)["error"] == "ArtefactError"


def test_a_model_that_does_not_state_its_preprocessing_needs_it(
    pictures: Path, tmp_path: Path
) -> None:
    arguments = [a for a in fit_arguments(pictures, tmp_path / "g") if a not in NORMALISE]
    result = run(*arguments)
    assert result.exit_code == 1
    assert "--mean 0.485" in result.stderr


def neroli(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "neroli", *map(str, arguments)]
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=-1, stderr=-1, start_new_session=True
    )


def test_a_scoring_run_killed_half_way_goes_on_and_has_every_row_once(
    guard: Path, pictures: Path, tmp_path: Path
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    sources = sorted((pictures / "new").iterdir())
    for index in range(6000):
        os.link(sources[index % 40], many / f"{index:05d}.png")
    out = tmp_path / "scores.parquet"
    arguments = ["score", guard, many, "--out", out, "--batch-size", "16"]
    process = neroli(*arguments, cwd=tmp_path)
    partial = tmp_path / "scores.parquet.partial"
    deadline = time.monotonic() + 60
    while not list(partial.glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    done = len(list(partial.glob("part-*")))
    assert done >= 1
    process = neroli(*arguments, cwd=tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    rows = read_rows(out)
    assert [row["name"] for row in rows] == [f"{i:05d}.png" for i in range(6000)]
    verdicts = Guard.load(guard, trained_colour_network())(sources)
    scores = torch.tensor([row["score"] for row in rows]).view(-1, 40)
    torch.testing.assert_close(scores, verdicts.score.expand(150, 40), rtol=1e-4, atol=1e-5)


def test_a_lost_part_of_an_interrupted_run_is_scored_again(
    guard: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neroli.scores.PART_ROWS", 8)
    out = tmp_path / "s.csv"
    arguments = ("score", guard, pictures / "new", "--out", out, "--batch-size", 8)
    with monkeypatch.context() as patch:
        patch.setattr("neroli.scores.ScoreTable.finish", lambda self: 1 / 0)
        assert run(*arguments).exit_code == 1
    partial = tmp_path / "s.csv.partial"
    (partial / "part-000001.parquet").unlink()
    (partial / "part-000003.parquet").write_bytes(b"damaged")
    assert run(*arguments).exit_code == 0
    assert len({row["name"] for row in read_rows(out)}) == len(read_rows(out)) == 40


def test_other_peoples_files_are_left_alone(guard: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("s.csv.partial", "g.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    result = run("score", guard, pictures / "new", "--out", tmp_path / "s.csv")
    assert (result.exit_code, "holds other files" in result.stderr) == (1, True)
    assert run(*fit_arguments(pictures, tmp_path / "g")).exit_code == 0
    for name in ("s.csv.partial", "g.partial"):
        assert (tmp_path / name / "notes.txt").read_text() == "mine"


def test_a_table_can_be_traced_to_its_guard(guard: Path, pictures: Path, tmp_path: Path) -> None:
    run("score", guard, pictures / "new", "--out", tmp_path / "s.parquet")
    metadata = pyarrow.parquet.read_schema(tmp_path / "s.parquet").metadata
    facts = json.loads(run("inspect", guard, "--json").stdout)
    assert json.loads(metadata[b"neroli_guard"])["state_hash"] == facts["state_hash"]


def test_version() -> None:
    assert run("--version").stdout.strip() == neroli_version


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys, neroli.cli\n"
        "try:\n    neroli.cli.app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'pyarrow', 'sklearn', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_guards_remember_the_preprocessing(guard: Path) -> None:
    loaded = Guard.load(guard, trained_colour_network())
    assert loaded.classifier.preprocessing == COLOUR_PREPROCESSING


def test_settings_are_taken_as_they_are_shown() -> None:
    """Every hyper-parameter of every detector, as `neroli detectors NAME` prints it."""
    from neroli.cli.detectors import _shown
    from neroli.cli.hyperparameters import hyperparameters
    from neroli.detectors import names
    from neroli.errors import InvalidInput

    for name in names():
        for key, value in create(name).hyperparameters().items():
            default = ("vim", "knn") if key == "members" else value
            found = hyperparameters(name, [f"{key}={_shown(default)}"])
            assert create(name, **found).hyperparameters()[key] == (
                create(name, members=["vim", "knn"]).hyperparameters()[key]
                if key == "members"
                else value
            )
    described = {"name": "knn", "hyperparameters": {"k": 5}}
    assert hyperparameters("views", [f"detector={json.dumps(described)}", "views=mirror"]) == {
        "detector": described,
        "views": ["mirror"],
    }
    assert hyperparameters("gram", ["layers=a.b,c"]) == {"layers": ["a.b", "c"]}
    assert hyperparameters("gram", ['layers=["a"]']) == {"layers": ["a"]}
    with pytest.raises(InvalidInput, match="gives k twice"):
        hyperparameters("knn", ["k=5", "k=7"])


def test_views_are_named_fitted_scored_and_explained(pictures: Path, tmp_path: Path) -> None:
    knn = '{"name": "knn", "hyperparameters": {"k": 5}}'
    views = ["--detector", "views", "--set", f"detector={knn}"]
    refused = run(*fit_arguments(pictures, tmp_path / "g", *views))
    assert refused.exit_code == 1
    assert "No view is named" in refused.stderr and "--set views=mirror" in refused.stderr
    fitted = run(*fit_arguments(pictures, tmp_path / "g", *views, "--set", "views=mirror,left:2"))
    assert fitted.exit_code == 0, fitted.stderr
    result = run("score", tmp_path / "g", pictures / "new", "--out", tmp_path / "s.csv")
    assert result.exit_code == 0, result.stderr
    new = sorted((pictures / "new").iterdir())
    guard = Guard.load(tmp_path / "g", trained_colour_network())
    images = guard.classifier.prepare(new)
    changed = [images, images.flip(3), torch.cat([images[..., 2:], *2 * [images[..., -1:]]], 3)]
    knn_alone = guard.detector.members[0]
    scores = torch.stack([knn_alone.score(guard.classifier(each)) for each in changed]).mean(0)
    found = torch.tensor([float(row["score"]) for row in read_rows(tmp_path / "s.csv")])
    torch.testing.assert_close(found, scores, rtol=1e-4, atol=1e-5)
    result = run("explain", tmp_path / "g", new[0], "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.stderr
    about = run("detectors", "views").stdout
    assert "1 + V times" in about and "needs: the network run again for every view" in about


def test_what_a_detector_takes_for_granted_is_said(pictures: Path, tmp_path: Path) -> None:
    few = write_pictures(tmp_path / "few", 24, seed=5)
    options = ["--detector", "cadref", "--train", few]
    result = run(*fit_arguments(pictures, tmp_path / "g", *options))
    assert result.exit_code == 0
    assert "warning: CADRef learns from" in result.stderr and "fewer than 10" in result.stderr
