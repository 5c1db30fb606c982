"""Answers that are no results: errors, in one shape for programs, without internals."""

from __future__ import annotations

import math

from starlette.responses import JSONResponse

from neroli.serve.uploads import Refused

PROTOCOL = "/v2"
"""Below this path errors have the shape of the Open Inference Protocol."""


def refusal(path: str, refused: Refused, request: str) -> JSONResponse:
    """The answer to a request that is refused.

    Args:
        path: that was asked for.
        refused: status and message.
        request: id of the request.
    """
    error: dict[str, object] | str = {
        "status": refused.status,
        "message": str(refused),
        "request": request,
    }
    if path == PROTOCOL or path.startswith(f"{PROTOCOL}/"):
        error = f"{refused} (request {request})"
    headers = {}
    if refused.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(refused.retry_after))
    return JSONResponse({"error": error}, refused.status, headers)
