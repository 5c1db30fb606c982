"""What the commands share: exit codes, reporting, and options of the same meaning."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from neroli.data.preprocessing import Preprocessing
    from neroli.data.sources import Failure, ImageSource
    from neroli.data.tables import Columns
    from neroli.execution import Execution
    from neroli.store import ActivationStore

ERROR = 1
SOME_UNREADABLE = 3
EXIT_CODES = "Exit code 0: done; 1: not done, with the reason; 3: done, but some images unreadable."

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images through the network at a time.")]
Device = Annotated[str, typer.Option(help="Where the network runs: cpu, cuda, cuda:1, mps.")]
Engine = Annotated[
    str,
    typer.Option(
        help="What runs the network: local (this process), ray (see docs/ray.md), or torchrun, "
        "which starts this command (see docs/scale.md)."
    ),
]
PathColumn = Annotated[str | None, typer.Option(help="Of a table: files. [default: path]")]
LabelColumn = Annotated[str | None, typer.Option(help="Of a table: classes. [default: label]")]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Of a table: patients or procedures, if known. [default: group]"),
]
Every = Annotated[int, typer.Option(min=1, help="Of a video: take every n-th frame.")]
StoreDtype = Annotated[
    str | None,
    typer.Option(
        help="float16 halves the space that activations take on disk. [default: as computed]"
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(help="Of the network: float32, bfloat16 or float16; see docs/performance.md."),
]
ChannelsLast = Annotated[
    bool | None, typer.Option(help="Lay images out with channels last in memory.")
]
Compile = Annotated[
    bool | None, typer.Option(help="Compile the network with torch.compile: waits once.")
]
Model = Annotated[
    str,
    typer.Option(
        help="timm:NAME, torchvision:NAME, hf:FOLDER, export:FILE, onnx:FILE or "
        "package.module:factory."
    ),
]
Training = Annotated[
    Path,
    typer.Option(
        help="Training images: a folder with one subfolder a class, a table, a tar, or an "
        "activation store of this model."
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="The model's weights: .safetensors, .pt or .pth.")
]
Head = Annotated[
    str | None, typer.Option(help="Path of the last linear layer; found when left out.")
]
ClassMap = Annotated[
    Path | None, typer.Option(help="JSON file: folder or label to class index or name.")
]
Resize = Annotated[str | None, typer.Option(help="Pixels of the shorter side, or HEIGHTxWIDTH.")]
Crop = Annotated[str | None, typer.Option(help="Pixels cut from the centre.")]
PerChannel = Annotated[str | None, typer.Option(help="Per channel, of values in 0..1.")]
Interpolation = Annotated[
    str | None, typer.Option(help="Of resizing: nearest, bilinear, bicubic or lanczos.")
]
LowAgreement = Annotated[
    bool,
    typer.Option(
        "--allow-low-agreement", help="Go on though predictions hardly agree with the folders."
    ),
]


@contextmanager
def reported(as_json: bool, *, goes_on: bool = True) -> Iterator[None]:
    """Turn neroli's errors into one sentence and exit code 1, and its warnings into plain lines.

    Args:
        as_json: whether errors are printed as JSON too.
        goes_on: whether the command, run again, takes up what an interruption left.
    """
    from neroli.errors import FailedElsewhere, NeroliError, NeroliWarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        note = message if issubclass(category, NeroliWarning) else f"{category.__name__}: {message}"
        print(f"neroli: warning: {note}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("always", NeroliWarning)
        try:
            yield
        except FailedElsewhere:
            raise typer.Exit(ERROR) from None
        except NeroliError as error:
            if as_json:
                print(json.dumps({"error": type(error).__name__, "message": str(error)}))
            print(f"neroli: {error}", file=sys.stderr)
            raise typer.Exit(ERROR) from None
        except KeyboardInterrupt:
            advice = "; run the same command to go on" if goes_on else ""
            print(f"neroli: interrupted{advice}.", file=sys.stderr)
            raise typer.Exit(130) from None


def images_or_store(path: Path, columns: Columns, every: int) -> ImageSource | ActivationStore:
    """The images at a path, or their activations if it is a store of these."""
    from neroli.data.opening import open_images
    from neroli.store import ActivationStore
    from neroli.store_files import is_store

    if is_store(path):
        return ActivationStore(path)
    return open_images(path, columns=columns, every=every)


def emit(as_json: bool, facts: dict[str, Any], text: Callable[[], str]) -> None:
    """Print the result of a command, for programs or for people."""
    print(json.dumps(facts, indent=2) if as_json else text())


def list_unreadable(failures: Sequence[Failure], what: str = "image") -> None:
    """List unreadable images on standard error; the first twenty, and how many there were."""
    for failure in failures[:20]:
        print(f"neroli: unreadable {what} {failure.name!r} {failure.reason}", file=sys.stderr)
    if len(failures) > 20:
        print(f"neroli: ... and {len(failures) - 20} more unreadable {what}s", file=sys.stderr)


def columns_named(
    path: str | None = None, label: str | None = None, group: str | None = None
) -> Columns:
    """The columns of a table, those not named by their default names."""
    from neroli.data.tables import Columns

    given = {"path": path, "label": label, "group": group}
    return Columns(**{kind: name for kind, name in given.items() if name is not None})


def execution_with(
    stated: Execution, precision: str | None, channels_last: bool | None, compile: bool | None
) -> Execution:
    """How a network is run, with what the user asked for instead.

    Raises:
        InvalidInput: if the precision is unknown.
    """
    from dataclasses import replace

    from neroli.errors import InvalidInput

    asked = {"precision": precision, "channels_last": channels_last, "compile": compile}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    try:
        return replace(stated, **changes)
    except InvalidInput:
        raise InvalidInput(
            f"--precision takes float32, bfloat16 or float16, got {precision!r}."
        ) from None


def preprocessing_with(
    stated: Preprocessing | None,
    resize: str | None,
    crop: str | None,
    mean: str | None,
    std: str | None,
    interpolation: str | None,
) -> Preprocessing:
    """The model's own preprocessing with what the user asked for instead.

    Raises:
        ModelError: if the model states none and the user gave no mean and std.
        InvalidInput: if an option is not a number or out of range.
    """
    from dataclasses import replace

    from neroli.data.preprocessing import Preprocessing
    from neroli.errors import InvalidInput, ModelError

    changes: dict[str, Any] = {}
    if resize is not None:
        changes["resize"] = pixels("--resize", resize)
        if crop is None and stated is not None:
            changes["crop"] = None
    if crop is not None:
        changes["crop"] = pixels("--crop", crop)
    if mean is not None:
        changes["mean"] = numbers("--mean", mean)
    if std is not None:
        changes["std"] = numbers("--std", std)
    if interpolation is not None:
        changes["interpolation"] = interpolation
    if stated is not None:
        return replace(stated, **changes)
    if (mean is None) != (std is None):
        raise InvalidInput(f"--{'std' if std is None else 'mean'} is missing: give both.")
    if mean is None:
        raise ModelError(
            "The model does not state its preprocessing: give what it was trained with, for "
            "example --resize 256 --crop 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225."
        )
    return Preprocessing(**changes)


def pixels(option: str, text: str) -> int | tuple[int, int]:
    """The size in pixels that the user gave for an option, one number or HEIGHTxWIDTH.

    Raises:
        InvalidInput: if it is neither.
    """
    from neroli.errors import InvalidInput

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isascii() and p.isdigit() and len(p) < 6 for p in parts):
        raise InvalidInput(f"{option} takes pixels, 256 or HEIGHTxWIDTH, got {text!r}.")
    sizes = [int(part) for part in parts]
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers that the user gave for an option, between commas or blanks.

    Raises:
        InvalidInput: if they are none.
    """
    from neroli.errors import InvalidInput

    try:
        return tuple(float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError:
        raise InvalidInput(f"{option} takes numbers, 0.485,0.456,0.406, got {text!r}.") from None
