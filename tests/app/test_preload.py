"""Imports done in the background: they arrive, and what they are stays apart from the app."""

from __future__ import annotations

import subprocess
import sys

from tests.support.models import ROOT


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_modules_arrive_without_anyone_waiting() -> None:
    code = (
        "import sys, threading; from app import preload; preload.in_background('colorsys', 'wave')\n"
        "[thread.join() for thread in threading.enumerate() if thread.name == 'preload']\n"
        "print(*(name in sys.modules for name in ('colorsys', 'wave')))"
    )
    assert run(code).split() == ["True", "True"]


def test_what_waits_is_put_off_and_what_has_begun_is_waited_for() -> None:
    code = (
        "import sys, time; from app import preload; preload.hold()\n"
        "preload.in_background('colorsys', after=600.0); preload.hold(); print('colorsys' in sys.modules)\n"
        "preload.in_background('wave'); time.sleep(0.5); preload.hold(); print('wave' in sys.modules)"
    )
    assert run(code).split() == ["False", "True"]


def test_the_first_page_imports_neither_timm_nor_torchvision() -> None:
    code = (
        "import sys; from analysis.models.load import load; from analysis.data.open import open_data\n"
        "demo = load('demo'); scenes = open_data('demo', demo.preprocess, 10, 'test')\n"
        "demo.preprocess.crop(scenes.image(0))\n"
        "from app import sidebar; from app.views import model, recover\n"
        "from app.views.attention import page; from app.views.compare import page\n"
        "from app.views.export import page\n"
        "from app.views.heads import page; from app.views.prune import page\n"
        "print(*(name in sys.modules for name in ('timm', 'torchvision', 'networkx', 'captum', 'sympy')))"
    )
    assert run(code).split() == ["False"] * 5


def test_a_server_that_is_up_has_its_first_page_ready() -> None:
    code = (
        "import sys; from app import preload; preload.first_page()\n"
        "from analysis.data import image_set\n"
        "views = [f'{page}.page' for page in ('attention', 'compare', 'export', 'heads', 'prune')]\n"
        "views += ['model', 'recover']\n"
        "print(all(f'app.views.{name}' in sys.modules for name in views), 'timm' in sys.modules)\n"
        "from app.state import session; session.load = None\n"
        "print(session.model(session.Choice()).name, image_set._cached.cache_info().currsize)"
    )
    assert run(code).split() == ["True", "False", "demo", "7"]
