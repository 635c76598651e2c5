"""Text that is not ours, in every place where Streamlit takes Markdown: the browser shows just that text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pruning.wording import printable
from tests.support.browser import browsing, free_port, wait_until_up
from tests.support.hostile import HOSTILE
from tests.support.models import ROOT

PAGE = """
import pandas as pd
import streamlit as st
from app.wording import plain
from tests.support.hostile import HOSTILE

for number, text in enumerate(HOSTILE):
    shown = plain(text)
    with st.container(key=f"text-{number}"):
        st.markdown(shown)
        st.markdown(f"**{shown}**: it")
        st.caption(f"first  \\n{shown}")
        st.error(shown)
        st.button(shown, key=f"button-{number}")
        st.tabs([shown])
        st.segmented_control("one", [shown], key=f"one-{number}")
        st.progress(0.5, text=shown)
        st.table(pd.DataFrame({shown: [shown]}, index=[shown]))
        st.metric(shown, shown)
        with st.expander(shown):
            st.header(shown)
st.caption("all is drawn")
"""


def test_text_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(PAGE)
    port = free_port()
    words = ["-m", "streamlit", "run", str(tmp_path / "page.py"), f"--server.port={port}"]
    server = subprocess.Popen(
        [
            sys.executable,
            *words,
            "--server.headless=true",
            "--server.address=localhost",
            "--browser.gatherUsageStats=false",
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_up(f"http://localhost:{port}/_stcore/health", server)
        with browsing() as page:
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"http://localhost:{port}")
            page.get_by_text("all is drawn").wait_for()
            page.wait_for_timeout(1000)  # for emoji and formulas, whose code is loaded when it is needed
            for number, text in enumerate(HOSTILE):
                box = page.locator(f".st-key-text-{number}")
                want = " ".join(printable(text).split())
                for _ in range(20):  # tables and tabs are drawn later than text where the machine is busy
                    lines = [line.replace("\u2060", "").strip() for line in box.inner_text().splitlines()]
                    got = [" ".join(line.split()) for line in lines]
                    if sum(want in line for line in got) >= 11:
                        break
                    page.wait_for_timeout(1000)
                assert sum(want in line for line in got) >= 11, (want, got)
                assert f"{want}: it" in got
                made = "a[href], img, .katex, h1, h4, ul, ol, blockquote, hr, em, code, del"
                assert box.locator(f":is({made}):not([href^='#'])").count() == 0, text
                coloured = ".stMarkdownColoredText, .stMarkdownColoredBackground, .stMarkdownBadge"
                assert box.locator(coloured).count() == 0, text
            assert [url for url in asked if "//localhost" not in url and not url.startswith("data:")] == []
    finally:
        server.terminate()
        server.wait(20)
