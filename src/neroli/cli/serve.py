"""``neroli serve``: a saved guard behind HTTP, with records and pages to review them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neroli.cli.common import (
    BatchSize,
    ChannelsLast,
    Compile,
    Device,
    Precision,
    execution_with,
    reported,
)

if TYPE_CHECKING:
    from neroli.serve.state import State

_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    guard: Annotated[Path, typer.Argument(help="Folder of a saved guard.")],
    records: Annotated[
        Path, typer.Option(help="SQLite file of what was said of every image; made if missing.")
    ],
    model: Annotated[
        str | None, typer.Option(help="The model, if the guard does not say or it has moved.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's weights, likewise.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that clients must send.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="Name under which a proxy offers the server to browsers; repeatable."),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the guard, in the inference protocol.")] = "guard",
    keep_thumbnails: Annotated[
        bool, typer.Option("--keep-thumbnails", help="Record a small picture: patient data.")
    ] = False,
    keep_images: Annotated[
        bool, typer.Option("--keep-images", help="Record whole images: patient data.")
    ] = False,
    keep_records: Annotated[
        int | None, typer.Option(min=1, help="Keep the newest so many; all by default.")
    ] = None,
    batch_size: BatchSize = 32,
    latency: Annotated[
        float, typer.Option(min=0, help="Seconds an image may wait for others to share a batch.")
    ] = 0.01,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Of one address; not limited by default.")
    ] = None,
    drift_false_alarm_rate: Annotated[
        float, typer.Option(help="Of the drift alarm, see docs/drift.md.")
    ] = 0.01,
    drift_apart: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds between images that count for drift: longer than a procedure."
        ),
    ] = 0.0,
    device: Device = "cpu",
    precision: Precision = None,
    channels_last: ChannelsLast = None,
    compile: Compile = None,
) -> None:
    """Serve a guard over HTTP: an API, the Open Inference Protocol, metrics and review pages.

    Ctrl-C or SIGTERM stops it, once what was accepted is answered.
    """
    with reported(as_json=False, goes_on=False):
        from neroli.errors import InvalidInput

        if absent := [package for package in _NEEDED if find_spec(package) is None]:
            raise InvalidInput(
                f"Serving needs {absent[0]}: install neroli with its [serve] extra "
                "(pip install 'neroli[serve]')."
            )
        from neroli.artefact import read_manifest
        from neroli.serve.listening import serve as serve_it
        from neroli.serve.records import Records
        from neroli.serve.settings import Limits, Settings

        settings = Settings(
            host=host,
            port=port,
            token=None if token_file is None else _token(token_file),
            hosts=tuple(allowed_host or ()),
            name=name,
            batch_size=batch_size,
            latency=latency,
            keep_thumbnails=keep_thumbnails,
            keep_images=keep_images,
            keep_records=keep_records,
            limits=Limits(requests_per_minute=requests_per_minute),
        )
        manifest = read_manifest(guard)
        opened = Records(records, settings)
        opened.claim()

        def load(state: State) -> None:
            from neroli.guard import Guard
            from neroli.models import load_saved_model, to
            from neroli.serve.drift import Drift

            network = to(device, load_saved_model(manifest.model_source, guard, model, weights))
            execution = execution_with(
                manifest.classifier.execution, precision, channels_last, compile
            )
            loaded = Guard.load(guard, network, execution=execution)
            calibration = loaded.check_calibrated()
            drift = Drift.of(calibration, drift_false_alarm_rate, apart=drift_apart)
            for doubt in drift.doubts():
                typer.echo(f"neroli: warning: {doubt}", err=True)
            state.open(loaded, opened, drift)
            version = state.engine.guard_version
            typer.echo(f"Ready: {manifest.detector.name}, guard version {version}.")
            known = opened.decisions(version).images
            typer.echo(f"Records: {str(records)!r}, {known:,} images of this guard so far.")

        serve_it(settings, load, lambda at: typer.echo(f"Listening on {at} (Ctrl-C stops it)."))


def _token(path: Path) -> str:
    """The token in a file.

    Raises:
        InvalidInput: if there is none that is hard to guess, or that headers can hold.
    """
    from neroli.errors import InvalidInput

    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        raise InvalidInput(f"Cannot read the token {str(path)!r}: {reason}.") from None
    if len(token) < 16 or not token.isprintable() or " " in token:
        raise InvalidInput(
            f"The token in {str(path)!r} must be one word of 16 characters or more: make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe())'."
        )
    return token
