"""The API: images in, verdicts and explanations out."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from PIL import Image
from pydantic import BaseModel, Field

from neroli.explain.explanation import Explanation
from neroli.explain.facts import panels
from neroli.serve.metrics import CONTENT_TYPE
from neroli.serve.scored import Scored
from neroli.serve.state import State
from neroli.serve.uploads import Refused, contents_of


class Error(BaseModel):
    """Why a request, or an image, is not answered."""

    status: int
    message: str
    request: str


class Failed(BaseModel):
    """The body of every answer that is no result."""

    error: Error


class GuardFacts(BaseModel):
    """Which guard speaks, and what its threshold promises."""

    name: str
    version: str
    detector: str
    false_alarm_rate: float
    guarantee: str = Field(description="What the threshold promises, in words.")


class Verdict(BaseModel):
    """What the guard says of one image."""

    position: int = Field(description="Of the image in the request, from 0.")
    id: str = Field(description="Of the record.")
    content: str = Field(description="Hash of the image's content.")
    predicted_class: int
    predicted_name: str | None
    score: float = Field(description="Higher is more out of distribution.")
    p_value: float = Field(description="Conformal; small is out of distribution.")
    is_ood: bool
    threshold: float = Field(description="Of the predicted class.")


class Unreadable(BaseModel):
    """An image of which nothing is said."""

    position: int
    error: Error


class Verdicts(BaseModel):
    """The answer about images, in their order."""

    request: str
    guard: GuardFacts
    results: list[Verdict | Unreadable]


class Maps(BaseModel):
    """Pictures as base64 of PNG files."""

    picture: str = Field(description="What the network was given.")
    prediction: str | None = Field(
        description="Where the predicted class was seen: red for, blue against. None of a network "
        "in an ONNX file."
    )
    deviation: str | None = Field(
        description="Where evidence is not as usual: red more, blue less; likewise."
    )


class Explained(BaseModel):
    """Why an image is flagged, or is not; it is not recorded."""

    request: str
    guard: GuardFacts
    content: str
    explanation: dict[str, Any] = Field(description="Verdict, summary, neurons and examples.")
    maps: Maps


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "additionalProperties": False,
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "contentEncoding": "base64"},
                        }
                    },
                }
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                    "additionalProperties": {"type": "string", "format": "binary"},
                }
            },
        },
    }
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Failed} for status in (400, 401, 403, 408, 413, 415, 421, 422, 429, 500, 503)
}


def api(state: State) -> APIRouter:
    """The routes of the API.

    Args:
        state: that they work with.
    """
    router = APIRouter()

    @router.post("/v1/score", response_model=Verdicts, responses=REFUSALS, openapi_extra=_BODY)
    async def score(request: Request) -> Verdicts:
        """Verdicts on one or many images; one that cannot be read does not stop the others."""
        identity = request.state.request
        contents = await _contents(request, state)
        async with state.received(contents) as uploads:
            results = await state.score(uploads, identity)
        return Verdicts(
            request=identity,
            guard=facts_of(state),
            results=[_result(one, at, identity) for at, one in enumerate(results)],
        )

    @router.post("/v1/explain", response_model=Explained, responses=REFUSALS, openapi_extra=_BODY)
    async def explain(request: Request) -> Explained:
        """Why one image is flagged, or is not: neurons, heat maps and examples."""
        contents = await _contents(request, state)
        if len(contents) != 1:
            raise Refused(422, f"Send one image to explain, not {len(contents)}.")
        async with state.received(contents) as (upload,):
            if isinstance(upload, Refused):
                raise upload
            explanation = await state.engine.explain(upload)
            maps = await state.engine.aside(_maps, explanation)
        told = explanation.to_dict()
        del told["name"]  # no name is asked for
        return Explained(
            request=request.state.request,
            guard=facts_of(state),
            content=upload.content,
            explanation=told,
            maps=maps,
        )

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counts and gauges for Prometheus."""
        return Response(state.metrics.text(), media_type=CONTENT_TYPE)

    return router


def facts_of(state: State) -> GuardFacts:
    """Which guard speaks."""
    promise = state.engine.calibration.promise
    return GuardFacts(
        name=state.settings.name,
        version=state.engine.guard_version,
        detector=state.guard.detector.name,
        false_alarm_rate=promise.false_alarm_rate,
        guarantee=str(promise),
    )


async def _contents(request: Request, state: State) -> list[bytes]:
    """The encoded images of a request, taken apart beside the event loop."""
    body, kind = await request.body(), request.headers.get("content-type", "")
    contents = await state.briefly(contents_of, body, kind, state.settings.limits)
    request.state.images = len(contents)
    return contents


def _result(one: Scored | Refused, position: int, request: str) -> Verdict | Unreadable:
    if isinstance(one, Refused):
        error = Error(status=one.status, message=str(one), request=request)
        return Unreadable(position=position, error=error)
    known = {name: value for name, value in asdict(one).items() if name in Verdict.model_fields}
    return Verdict(position=position, **known)


def _maps(explanation: Explanation) -> Maps:
    picture, *maps = (_png(panel.picture) for panel in panels(explanation))
    prediction, deviation = maps or (None, None)
    return Maps(picture=picture, prediction=prediction, deviation=deviation)


def _png(pixels: np.ndarray[Any, Any]) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()
