"""What a browser is given with every page: where its server is, and the style sheet."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from streamlit.file_util import get_static_dir

from app.asgi import STYLE, TOLD, Equips

PAGE = {"Accept": "text/html,*/*"}  # what a browser asks for when an address is opened


def client() -> TestClient:
    """Streamlit's own page and files, sent as its server sends them."""
    index = f"{get_static_dir()}/index.html"
    routes = [
        Route("/prune", lambda _: FileResponse(index)),
        Mount("/", StaticFiles(directory=get_static_dir())),
    ]
    return TestClient(Starlette(routes=routes, middleware=[Middleware(Equips), Middleware(GZipMiddleware)]))


def test_a_page_says_where_its_server_is_before_it_loads_anything() -> None:
    got = client().get("/prune", headers=PAGE)
    head, told, rest = got.content.partition(TOLD)
    assert told and b"<script" not in head and b'src="./static/js/' in rest
    assert int(got.headers["content-length"]) == len(got.content)


def test_a_page_has_its_style_from_the_start_after_all_others() -> None:
    got = client().get("/prune", headers=PAGE).content
    _, own, rest = got.partition(STYLE)
    assert own and b"<" not in STYLE and rest.split() == [b"</style></body>", b"</html>"]


def test_a_page_kept_from_an_earlier_version_is_sent_anew() -> None:
    whole = client().get("/index.html", headers={"Accept": "*/*"})
    kept = PAGE | {
        "If-None-Match": whole.headers["etag"],
        "If-Modified-Since": whole.headers["last-modified"],
    }
    got = client().get("/prune", headers=kept)
    assert got.status_code == 200 and TOLD in got.content and "etag" not in got.headers


def test_all_else_is_passed_on_as_it_is() -> None:
    whole = client().get("/index.html", headers={"Accept": "*/*"})
    assert TOLD not in whole.content and whole.headers["content-encoding"] == "gzip"
    assert client().get("/favicon.png", headers=PAGE).content[1:4] == b"PNG"
    assert client().head("/prune", headers=PAGE).headers["content-length"] == str(len(whole.content))
    assert client().get("/nothing", headers=PAGE).status_code == 404
