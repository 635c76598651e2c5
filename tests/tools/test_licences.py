"""Which licences the app's packages may have, and that the list of them is of today."""

from __future__ import annotations

import pytest

from tools import licences


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("Mozilla Public License 2.0 (MPL 2.0)", True),
        ("LGPL-2.1-or-later", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("Apache-2.0 OR GPL-2.0-only", True),
        ("GPL-3.0-only", False),
        ("GNU General Public License v2 (GPLv2)", False),
        ("GNU Affero General Public License v3", False),
        ("AGPL-3.0-or-later", False),
        ("MIT AND GPL-2.0-only", False),
        ("", False),
    ],
)
def test_which_are_allowed(licence: str, allowed: bool) -> None:
    assert licences.allowed(licence) is allowed


def test_the_list_is_of_today_and_all_are_allowed() -> None:
    listed = licences.licences()
    assert len(listed) > 50
    assert all(licences.allowed(licence) for _, licence in listed.values())
    lines = set(licences.FILE.read_text(encoding="utf-8").splitlines())
    assert set(licences.table(listed).splitlines()) <= lines, "run `make audit`"
