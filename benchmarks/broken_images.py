"""A folder of 10,000 images of which one in a hundred is broken, scored by the command line.

    python benchmarks/broken_images.py [--images 10000]

Says what became of every kind of broken file, and whether the others got the scores they get in a
folder without broken files; ends with exit code 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet
from common import ROOT
from PIL import Image
from safetensors.torch import save_file

from networks import colour_images, trained_colour_network


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims to be large and holds nothing."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + data
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", len(data))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e"
    )


def truncated_jpeg(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    return path.read_bytes()[:1500]


def write_folders(root: Path, count: int) -> dict[str, str]:
    """Folders ``whole`` and ``mixed`` of the same pictures; which are broken in the latter."""
    pictures, _ = colour_images(count, seed=3)
    kinds = {
        "truncated JPEG": truncated_jpeg(root / "t.jpg"),
        "zero bytes": b"",
        "text renamed .png": b"This is no image.\n" * 20,
        "60,000 x 60,000 header": png_header(60_000, 60_000),
    }
    broken = {}
    for folder in ("whole", "mixed"):
        (root / folder).mkdir()
    for number, picture in enumerate(pictures):
        name = f"{number:05d}.png"
        Image.fromarray(picture).save(root / "whole" / name)
        if number % 100 == 37:
            broken[name] = list(kinds)[number // 100 % 4]
            (root / "mixed" / name).write_bytes(kinds[broken[name]])
        else:
            (root / "mixed" / name).hardlink_to(root / "whole" / name)
    return broken


def neroli(root: Path, *arguments: object) -> tuple[int, dict[str, object], float]:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "neroli", *map(str, arguments), "--json"],
        cwd=ROOT / "tests",  # where the model's module lies
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 3):
        sys.exit(done.stderr)
    return done.returncode, json.loads(done.stdout), seconds


def scores(path: Path) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in pyarrow.parquet.read_table(path).to_pylist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        broken = write_folders(root, count)
        save_file(trained_colour_network().state_dict(), root / "w.safetensors")
        for side, seed in (("train", 1), ("held", 2)):
            images, labels = colour_images(300, seed)
            np.savez(root / f"{side}.npz", images=images, labels=labels)
        model = ["--model", "networks:colour_network", "--weights", root / "w.safetensors"]
        data = ["--train", root / "train.npz", "--calibration", root / "held.npz"]
        normalise = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]
        neroli(root, "fit", *model, *data, *normalise, "--out", root / "guard")
        results = {}
        for folder in ("whole", "mixed"):
            out = root / f"{folder}.parquet"
            code, facts, seconds = neroli(
                root, "score", root / "guard", root / folder, "--out", out
            )
            results[folder] = (code, facts, scores(out))
            print(f"{folder}: {count / seconds:.0f} images/s, exit code {code}")
        code, facts, rows = results["mixed"]
        whole = results["whole"][2]
        failures = {entry["name"]: entry["reason"] for entry in facts["unreadable"]}  # type: ignore[attr-defined]
        for kind, number in Counter(broken.values()).items():
            reasons = {failures.get(name) for name, k in broken.items() if k == kind}
            print(f"{number:>4} {kind}: {' / '.join(map(str, reasons))}")
        good = [name for name in whole if name not in broken]
        error = max(abs(rows[n]["score"] - whole[n]["score"]) for n in good)  # type: ignore[operator]
        print(f"{len(rows):,} rows; largest difference of the others' scores: {error:.1e}")
        whole_story = failures.keys() == broken.keys() and len(rows) == count
        if not whole_story or code != 3 or results["whole"][0] != 0 or error > 1e-4:
            sys.exit("not as it should be")


if __name__ == "__main__":
    main()
