"""What `python -m app` has `streamlit run` serve: app/main.py, on pages that begin with what they need.

That is where their server is, how to keep the browser's history, and the style sheet. `streamlit run
app/main.py` works without: it looks for its server, fills the history, and takes on its style when the first
script has run, at which everything moves.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# A page's files lie beside it, by links relative to its address, and so does its server. Streamlit's front
# end does not conclude that: opened at /prune, it looks for a server at /prune/_stcore first, and the
# console of the browser fills with answers that there is none.
#
# Whatever a page writes into its address, the front end makes another entry of the browser's history. The
# back button would then lead to the same page, which writes its address again, and never to the one before.
TOLD = b"""<script>
window.__streamlit = {BACKEND_BASE_URL: new URL(".", location.href).href}
const push = history.pushState
history.pushState = function (state, title, address) {
  const same = new URL(address, location.href).pathname === location.pathname
  return (same ? history.replaceState : push).call(this, state, title, address)
}
</script>"""
STYLE = (Path(__file__).resolve().parent.parent / "assets" / "style.css").read_bytes()
_AS_IT_IS = (b"accept-encoding", b"if-modified-since", b"if-none-match", b"range")  # else not the whole text


class Equips:
    """Writes into every HTML page where its server is, and the style sheet."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what asks for no page is passed on as it is."""
        page = scope["type"] == "http" and scope["method"] == "GET"
        if not page or "text/html" not in Headers(scope=scope).get("accept", ""):
            await self.app(scope, receive, send)
            return
        asked = [pair for pair in scope["headers"] if pair[0] not in _AS_IT_IS]
        await self.app({**scope, "headers": asked}, receive, _Rewriting(send))


class _Rewriting:
    """Sends an answer; one in HTML is held back until it is whole, and sent with the script in its head."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.start: Message | None = None  # of a page in HTML
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_page(message):
            self.start = message
        elif self.start is None:
            await self.send(message)
        else:
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole(self.start)

    async def _send_whole(self, start: Message) -> None:
        body = self.body.replace(b"<head>", b"<head>" + TOLD, 1)
        # at the end, as Streamlit's own styles, which go into the head, would be the last word otherwise
        body = body.replace(b"</body>", b"<style>" + STYLE + b"</style></body>", 1)
        headers = MutableHeaders(raw=list(start["headers"]))
        for name in ("etag", "last-modified"):  # of the file, which is another text
            del headers[name]
        headers["content-length"] = str(len(body))
        await self.send({**start, "headers": headers.raw})
        await self.send({"type": "http.response.body", "body": body})


def _is_page(start: Message) -> bool:
    return start["status"] == 200 and Headers(raw=start["headers"]).get("content-type", "").startswith(
        "text/html"
    )


app = st.App(Path(__file__).with_name("main.py"), middleware=[Middleware(Equips)])
