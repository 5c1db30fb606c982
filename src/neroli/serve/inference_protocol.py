"""The Open Inference Protocol, version 2, by which KServe's and Triton's clients ask.

https://github.com/kserve/open-inference-protocol. The guard is a model with the input ``images``,
of encoded files (BYTES, as base64 text) or pixels (UINT8), and an output for each thing it says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, FailFast, Field
from python_multipart.multipart import parse_options_header

from neroli import __version__
from neroli.serve.settings import Limits
from neroli.serve.state import State
from neroli.serve.uploads import Refused, Upload, from_base64, of_array

OUTPUTS = {"score": "FP64", "p_value": "FP64", "is_ood": "BOOL", "predicted_class": "INT64"}
INPUTS: list[dict[str, Any]] = [{"name": "images", "datatype": "BYTES", "shape": [-1]}]
"""As clients are told; they may send UINT8 pixels too, but the protocol names one type an input."""


MOST_LISTS = 250_000
"""And objects in a request, of which Python makes a million in three seconds."""


class ProtocolError(BaseModel):
    """How the protocol words errors."""

    error: str


class InputTensor(BaseModel):
    """The images."""

    name: Literal["images"]
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], FailFast()] = Field(max_length=4)
    datatype: Literal["BYTES", "UINT8"]
    parameters: dict[str, Any] = {}
    data: list[Any]


class OutputName(BaseModel):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class Inference(BaseModel):
    """A request."""

    id: str | None = Field(default=None, max_length=200)
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[InputTensor], FailFast()] = Field(min_length=1, max_length=1)
    outputs: Annotated[list[OutputName], FailFast()] = Field(default=[], max_length=len(OUTPUTS))


class OutputTensor(BaseModel):
    """One thing that the guard says of N images."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float | bool | int]


class Inferred(BaseModel):
    """An answer."""

    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProtocolError}
    for status in (400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503)
}


def inference_protocol(state: State) -> APIRouter:
    """The routes of the protocol.

    Args:
        state: that they work with.
    """
    router = APIRouter(prefix="/v2", responses=REFUSALS)

    def check_named(name: str, version: str | None) -> None:
        if name != state.settings.name or version not in (None, state.engine.guard_version):
            raise Refused(404, f"There is only the model {state.settings.name!r} here.")

    @router.get("")
    async def server() -> dict[str, Any]:
        """What kind of server this is."""
        return {"name": "neroli", "version": __version__, "extensions": []}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """The server runs."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> JSONResponse:
        """The guard is loaded, is that of the model it was fitted on, and is recorded."""
        await state.check_ready()
        return JSONResponse({"ready": True})

    async def metadata(name: str, version: str | None = None) -> dict[str, Any]:
        """What goes in and comes out."""
        check_named(name, version)
        return {
            "name": name,
            "versions": [state.engine.guard_version],
            "platform": "neroli",
            "inputs": INPUTS,
            "outputs": [
                {"name": output, "datatype": kind, "shape": [-1]}
                for output, kind in OUTPUTS.items()
            ],
        }

    async def model_ready(name: str, version: str | None = None) -> dict[str, Any]:
        """The same of the guard by its name."""
        check_named(name, version)
        await state.check_ready()
        return {"name": name, "ready": True}

    async def infer(request: Request, name: str, version: str | None = None) -> Inferred:
        """Verdicts on images: on all, or on none if one cannot be scored."""
        check_named(name, version)
        if "inference-header-content-length" in request.headers:
            raise Refused(415, "Binary tensors are not taken: send the tensors' data as JSON.")
        kind, _ = parse_options_header(request.headers.get("content-type"))
        if kind not in (b"application/json", b""):  # Triton's client states none
            raise Refused(415, "Send the inference request as application/json.")
        asked, images = await state.briefly(_read, await request.body(), state.settings.limits)
        request.state.images = len(images)
        async with state.received(images) as uploads:
            results = await state.score(uploads, request.state.request, whole=True)
        outputs = [output.name for output in asked.outputs] or list(OUTPUTS)
        return Inferred(
            model_name=name,
            model_version=state.engine.guard_version,
            id=asked.id or request.state.request,
            outputs=[_tensor(output, results) for output in outputs],
        )

    body = {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _schema()}},
        }
    }
    for path in ("/models/{name}", "/models/{name}/versions/{version}"):
        router.add_api_route(path, metadata, methods=["GET"])
        router.add_api_route(f"{path}/ready", model_ready, methods=["GET"])
        router.add_api_route(f"{path}/infer", infer, methods=["POST"], openapi_extra=body)
    return router


def _schema() -> Any:
    """The schema of a request in one piece: clients find no definitions inside of a description."""
    whole = Inference.model_json_schema()
    definitions = whole.pop("$defs")

    def inlined(part: Any) -> Any:
        if isinstance(part, list):
            return [inlined(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return inlined(definitions[part["$ref"].rpartition("/")[2]])
        return {name: inlined(one) for name, one in part.items()}

    return inlined(whole)


def _read(body: bytes, limits: Limits) -> tuple[Inference, list[bytes | Upload]]:
    """What is asked for, and the images.

    Raises:
        Refused: 400 if the request is not as the protocol says, 413 if it holds too much.
    """
    if body.count(b"[") + body.count(b"{") > MOST_LISTS:
        raise Refused(
            413,
            f"The request has more than {MOST_LISTS:,} lists: send pixels flat, or encoded images.",
        )
    try:
        asked = Inference.model_validate_json(body)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise Refused(400, f"This is no inference request ({where}: {first['msg']}).") from None
    if unknown := {output.name for output in asked.outputs} - OUTPUTS.keys():
        raise Refused(400, f"There is no output {min(unknown)[:40]!r}, only {', '.join(OUTPUTS)}.")
    if len({output.name for output in asked.outputs}) < len(asked.outputs):
        raise Refused(400, "An output is asked for more than once.")
    tensor = asked.inputs[0]
    if tensor.datatype == "UINT8":
        return asked, [of_array(image) for image in _pixels(tensor, limits)]
    if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]) or not tensor.data:
        raise Refused(
            400, f"{len(tensor.data)} images were sent with the shape {tensor.shape}, not [N]."
        )
    if tensor.shape[0] > limits.images:
        raise Refused(413, f"A request may hold {limits.images:,} images.")
    texts = _values(tensor, "images")
    if not all(isinstance(text, str) for text in texts):
        raise Refused(400, "BYTES must be base64 text of encoded images.")
    return asked, [from_base64(text, position) for position, text in enumerate(texts)]


def _pixels(tensor: InputTensor, limits: Limits) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels ``[N, H, W, 3]``, which JSON may hold nested or flat."""
    shape = tensor.shape
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise Refused(400, f"UINT8 images have the shape [N, height, width, 3], not {shape}.")
    if shape[0] > limits.images or shape[1] * shape[2] > limits.pixels:
        raise Refused(
            413, f"A request may hold {limits.images:,} images of {limits.pixels:,} pixels."
        )
    values = _values(tensor, "values")
    if not all(type(value) is int and 0 <= value <= 255 for value in values):
        raise Refused(400, "UINT8 values must be whole numbers from 0 to 255.")
    return np.array(values, np.uint8).reshape(shape)


def _values(tensor: InputTensor, noun: str) -> list[Any]:
    """The data of a tensor, flat or nested as its shape is; no more is looked at than fits it.

    Raises:
        Refused: 400 if they are not as many as the shape says, or nested otherwise.
    """
    values, shape = tensor.data, tensor.shape
    nested = bool(values) and isinstance(values[0], list)
    if len(values) != (shape[0] if nested else math.prod(shape)):
        raise Refused(400, f"{len(values)} {noun} were sent with the shape {shape}.")
    for length in shape[1:] if nested else []:
        if not all(isinstance(part, list) and len(part) == length for part in values):
            raise Refused(400, f"The {noun} are nested otherwise than their shape {shape}.")
        values = [value for part in values for value in part]
    return values


def _tensor(output: str, results: Sequence[Any]) -> OutputTensor:
    data = [getattr(scored, output) for scored in results]
    return OutputTensor(name=output, shape=[len(data)], datatype=OUTPUTS[output], data=data)
