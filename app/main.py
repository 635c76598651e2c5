"""The script that Streamlit runs on every interaction: `streamlit run app/main.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
installed = (ROOT / "__init__.py").exists()  # as a package, which Python finds by itself
if not installed and str(ROOT) not in sys.path:  # streamlit puts app/ on the path, not the folder above
    sys.path.insert(0, str(ROOT))

from analysis.setup import setup

setup()  # `streamlit run app/main.py` has no other place for it; what follows loads torch

import streamlit as st

from app import preload, share, sidebar
from app.parts import feedback
from app.parts.keys import keys
from app.state import choice_address, session_runs
from app.views import model, recover
from app.views.attention import page as attention
from app.views.compare import page as compare
from app.views.export import page as export
from app.views.heads import page as heads
from app.views.prune import page as prune
from app.views.runs import page as runs
from app.views.start import page as start

ASSETS = ROOT / "assets"

preload.hold()
st.set_page_config(
    page_title="PruneScope",
    page_icon=str(ASSETS / "icon.png"),
    layout="wide",
    menu_items={"About": "**PruneScope** looks into a Vision Transformer and prunes it for real."},
)
st.html(ASSETS / "style.css")
st.logo(str(ASSETS / "logo.svg"), size="large", icon_image=str(ASSETS / "icon.svg"))
pages = {
    "start": st.Page(start.show, title="Start", icon=":material/home:", url_path="start", default=True),
    "model": st.Page(model.show, title="Model", icon=":material/deployed_code:", url_path="model"),
    "attention": st.Page(
        attention.show, title="Attention", icon=":material/visibility:", url_path="attention"
    ),
    "heads": st.Page(heads.show, title="Heads", icon=":material/hub:", url_path="heads"),
    "prune": st.Page(prune.show, title="Prune", icon=":material/content_cut:", url_path="prune"),
    "recover": st.Page(recover.show, title="Recover", icon=":material/healing:", url_path="recover"),
    "runs": st.Page(runs.show, title="Runs", icon=":material/list:", url_path="runs"),
    "compare": st.Page(compare.show, title="Compare", icon=":material/compare_arrows:", url_path="compare"),
    "export": st.Page(export.show, title="Export", icon=":material/download:", url_path="export"),
}
st.session_state["pages"] = pages
page = st.navigation(list(pages.values()))
if not (share.is_shared() or share.is_private(st.get_option("server.address"))):
    st.error(
        "This server can be reached from other machines, and would let them open any of its files. "
        "Start it with `python -m app`, or to serve others with `python -m app --share`.",
        icon=":material/lock:",
    )
    st.stop()
if choice_address.from_address() and page.url_path == pages["start"].url_path:
    st.switch_page(pages["model"])  # who asks for a model need not be asked for one
with st.sidebar:
    sidebar.show()
choice_address.to_address()
choice_address.show_failure()
with keys.listening(), feedback.sentences():
    page.run()
session_runs.let_polls_wait()
# reading an image needs it, the first page does not: import it once the browser has drawn that page
preload.in_background("timm.data", after=3.0)
