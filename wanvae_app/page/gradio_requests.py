"""What of Gradio is served: the routes that the page and the API need, for requests that name what exists.

Gradio 6 adds about 80 routes to an app. Those for recordings, editing, monitoring, proxying, sharing and its other
components are not needed here.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive

from wanvae_app.errors import describe

log = logging.getLogger(__name__)

MAX_BODY = 2**20  # bytes of a request that is not an upload
NOT_UNDERSTOOD = "The request could not be understood: gradio_api/info says what can be called, and how."
UPLOAD_IS_GONE = "The uploaded file is no longer on the server; upload it again."
FULL = "The server's disk is full: try again when there is room."
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)
LOGIN_PATHS = ("/login", "/login/")
UPLOAD = "/gradio_api/upload"
JOIN = "/gradio_api/queue/join"
SERVED = {
    "GET": re.compile(
        r"/|/config/?|/(favicon\.ico|manifest\.json|robots\.txt|theme\.css)|/(assets|static|svelte)/.+"
        r"|/gradio_api/(info/?|theme\.css|startup-events|app_id|login_check/?|heartbeat/[^/]+|queue/data|upload_progress)"
        r"|/gradio_api/(file=.+|call/(v2/)?run/[^/]+)"
    ),
    "POST": re.compile(rf"/login/?|{UPLOAD}|{JOIN}|/gradio_api/(call/(v2/)?run/?|cancel|reset/?)"),
}
SERVED["HEAD"] = SERVED["GET"]
# A stream of events: it says in an event of its own that it failed.
EVENTS = re.compile(r"/gradio_api/(queue/data|call/.*)")


def is_served(method: str, path: str) -> bool:
    """Whether a request for one of Gradio's routes is passed on to it."""
    served = SERVED.get(method)
    return served is not None and served.fullmatch(path) is not None


async def checked(request: Request, path: str, receive: Receive) -> Receive:
    """Read the body of a POST to one of Gradio's routes, and return a `receive` that gives it out again.

    An upload is left alone. Raises HTTPException for a body that is too large or no JSON object, and for one that asks
    for a function that the page does not have: Gradio would raise KeyError.
    """
    if request.method != "POST" or path == UPLOAD:
        return receive
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY:
            raise HTTPException(
                413, f"This request is too large: {MAX_BODY} bytes are allowed without a file."
            )
    body = b"".join(parts)
    if path not in LOGIN_PATHS:
        _check_call(request, path, body)
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _check_call(request: Request, path: str, body: bytes) -> None:
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise HTTPException(400, "The request's body must be a JSON object.")
    if path != JOIN:
        return
    index = content.get("fn_index")
    function = request.app.get_blocks().fns.get(index) if type(index) is int else None
    if function is None or function.fn is None:  # one without `fn` is a script of the page
        raise HTTPException(
            400, f"There is no function {str(index)[:40]!r}: gradio_api/info lists what can be called."
        )


async def refuse_content(request: Request, error: Exception) -> JSONResponse:
    """Answer a request whose parts are not of the types that a route needs. FastAPI would send all of it back."""
    return JSONResponse({"detail": NOT_UNDERSTOOD}, 422)


def tell_bad_inputs(page: gr.Blocks) -> None:
    """Let the page answer a call whose inputs it cannot take in one sentence.

    Gradio would print a traceback, and tell the client a path of this server when an upload is no longer there. The
    method is set on the object: Gradio calls it for every event. Texts at a call's end may be left out.
    """
    original = page.preprocess_data

    async def preprocess_data(function: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        try:
            left_out = function.inputs[len(inputs) :]
            if all(isinstance(component, gr.Textbox) for component in left_out):
                inputs = [*inputs, *(component.value for component in left_out)]
            processed: list[Any] = await original(function, inputs, *args, **kwargs)
            return processed
        except gr.Error as error:
            error.print_exception = False
            raise
        except InvalidPathError as error:
            raise gr.Error(UPLOAD_IS_GONE, print_exception=False) from error
        except Exception as error:
            log.warning("inputs were not understood: %s", describe(error))
            is_full = isinstance(error, OSError) and error.errno in DISK_IS_FULL
            raise gr.Error(FULL if is_full else NOT_UNDERSTOOD, print_exception=False) from error

    page.preprocess_data = preprocess_data  # type: ignore[assignment, method-assign]


def answer_to(error: Exception, method: str, path: str) -> tuple[int, str] | None:
    """Return a status and a sentence for an exception that Gradio let out; None if nobody waits for an answer.

    What came in by POST was made by the client, and Gradio raises whatever its parts raise when it is malformed.
    """
    if isinstance(error, ClientDisconnect):
        return None
    if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
        log.warning("%s %s: %s", method, path, error.strerror)
        return 507, FULL
    if method == "POST" and not isinstance(error, (OSError, MemoryError)):
        log.warning("%s %s was not understood: %s", method, path, describe(error))
        if path == UPLOAD:
            return (
                400,
                "The upload could not be read: send multipart/form-data, each file as a part named files.",
            )
        return 400, NOT_UNDERSTOOD
    log.error("%s %s failed", method, path, exc_info=error)
    return 500, "The server failed at this request; its log says more."
