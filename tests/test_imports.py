"""Who may import whom: the order of the folders as one table, and each folder entered by its face."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.models import ROOT

# A folder or module may import from the floors below its own, never from its own floor or from above.
ORDER: dict[str, tuple[str, ...]] = {
    "analysis": (
        "analysis.heads",
        "analysis.attention",
        "analysis.data",
        "analysis.models analysis.measure analysis.gates",
        "analysis.frozen analysis.outputs",
        "analysis.vit analysis.anatomy analysis.formats analysis.threads analysis.head_grid analysis.setup",
        "analysis.paths analysis.architecture",
    ),
    "pruning": (
        "pruning.__main__",
        "pruning.cli pruning.library",
        "pruning.report",
        "pruning.runs",
        "pruning.jobs",
        "pruning.methods pruning.kit",
        "pruning.gohsp pruning.projection",
        "pruning.quantize",
        "pruning.export",
        "pruning.criteria pruning.bundle pruning.budget pruning.training pruning.evaluation",
        "pruning.tracked pruning.cache pruning.activations",
        "pruning.cut pruning.options pruning.progress pruning.files pruning.wording pruning.seeding",
    ),
    "app": (
        "app.__main__ app.asgi",
        "app.main",
        "app.preload",
        "app.sidebar",
        "app.views",
        "app.parts",
        "app.state",
        "app.progress_bar app.reading_form app.share",
        "app.wording app.glossary",
        "app.drawings",
    ),
}
# Packages by what they may import; streamlit, plotly and timm have their own rules below.
PACKAGES = {
    "analysis": {"analysis"},
    "pruning": {"analysis", "pruning"},
    "app": {"analysis", "pruning", "app"},
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MOST_FILES = 14


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}
FACES = {module_name(path) for path in FILES if path.name == "__init__.py"} - PACKAGES.keys()


@dataclass(frozen=True)
class Imported:
    """One imported name: `module` is the module it comes from, `name` None for a plain `import`."""

    module: str
    name: str | None

    @property
    def target(self) -> str:
        """The module that is imported or imported from."""
        whole = f"{self.module}.{self.name}"
        return whole if whole in MODULES else self.module


def imported(path: Path) -> Iterator[Imported]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Imported(alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (Imported(node.module or "", alias.name) for alias in node.names)


def room(module: str) -> str:
    """The folder's face that a module belongs to, or the module itself where it lies in no folder."""
    return next((face for face in sorted(FACES, key=len) if f"{module}.".startswith(f"{face}.")), module)


def floor(room: str) -> int | None:
    """How high a room lies in its package, 0 at the top; None where the table does not name it."""
    floors = ORDER[room.partition(".")[0]]
    return next((level for level, rooms in enumerate(floors) if room in rooms.split()), None)


def upward(importer: str, target: str) -> bool:
    """Whether an import inside one package goes to its own floor or up."""
    here, there = floor(room(importer)), floor(room(target))
    assert here is not None, f"{room(importer)} has no place in ORDER"
    assert there is not None, f"{room(target)} has no place in ORDER"
    return here >= there


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    importer = module_name(path)
    package = importer.partition(".")[0]
    for one in imported(path):
        root = one.module.partition(".")[0]
        assert root not in {"tests", "benchmarks"}
        if root not in PACKAGES:
            continue
        assert root in PACKAGES[package], f"{importer} imports {one.target}"
        if root == package and one.target != package and room(importer) != room(one.target):
            assert importer == package or not upward(importer, one.target), f"{importer} imports {one.target}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_is_entered_by_its_face(path: Path) -> None:
    """From outside, only what a folder's `__init__.py` lists is imported; pages are the app's own entries."""
    importer = module_name(path)
    for one in imported(path):
        entered = room(one.target)
        if entered not in FACES or entered == room(importer) or entered.startswith("app."):
            continue
        if one.target == entered and one.module != entered:
            continue  # `from pruning import runs`: the face itself
        assert one.module == entered, f"{importer} reaches past the face of {entered}: {one.module}"
        assert one.name in public_names(entered), f"{entered} does not offer {one.name} to {importer}"


def public_names(face: str) -> set[str]:
    """What a face lists in `__all__`."""
    tree = ast.parse((ROOT / face.replace(".", "/") / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    roots = {one.module.partition(".")[0] for one in imported(path)}
    if package != "app":
        assert "streamlit" not in roots
    if not path.name.startswith("charts"):
        assert "plotly" not in roots
    if package == "app":
        assert "timm" not in roots


def test_every_face_says_what_its_room_is_for() -> None:
    for face in FACES:
        text = (ROOT / face.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{face} has no docstring"


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in FILES}
    counts = {
        folder.relative_to(ROOT): sum(
            file.is_file()
            for file in folder.iterdir()
            if file.suffix != ".pyc" and not file.name.startswith(".")
        )
        for folder in folders
    }
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_the_model_file_needs_torch_alone() -> None:
    """In a bundle it is one file with the `Architecture`."""
    files = [ROOT / "analysis" / name for name in ("vit.py", "architecture.py")]
    found = {one.module for file in files for one in imported(file)} - {"analysis.architecture"}
    assert {module.partition(".")[0] for module in found} == {
        "__future__",
        "collections",
        "contextlib",
        "dataclasses",
        "functools",
        "itertools",
        "json",
        "reprlib",
        "torch",
        "typing",
    }


def test_the_table_would_notice() -> None:
    assert len(FILES) > 100 and len(FACES) > 15
    assert upward("pruning.cut.surgery", "pruning.jobs.registry")
    assert upward("analysis.data.open", "analysis.attention.maps")
    assert upward("pruning.bundle.write", "pruning.criteria.snp")
    assert not upward("pruning.jobs.registry", "pruning.cut.surgery")
    assert {one.target for one in imported(ROOT / "pruning" / "cut" / "surgery.py")} >= {
        "analysis.vit",
        "pruning.cut.plan",
        "analysis.gates",
    }
