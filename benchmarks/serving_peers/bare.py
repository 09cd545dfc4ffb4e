"""The upper limit: an ASGI application that reads the body and sends a constant of the usual length."""

from typing import Any

BODY = (
    b'{"probability":0.13249875605106354,"decision":"approve",'
    b'"threshold":0.2791467383503914,"model_version":"1","schema_version":1}'
)
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers one request."""
    if scope["type"] != "http":  # nothing to do at start and end
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
