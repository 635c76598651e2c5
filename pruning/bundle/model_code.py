"""The code of the model for a bundle: architecture.py and vit.py as one file that needs torch alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from analysis import architecture, vit


def model_code() -> str:
    """The text of a bundle's vit.py: what vit.py imports from architecture.py stands in front of it."""
    first, second = (Path(str(module.__file__)).read_text(encoding="utf-8") for module in (architecture, vit))
    imports = {name for text in (first, second) for name in _imported(text)}
    body = "\n\n\n".join(_body(text).strip() for text in (first, second))
    return f'"""{ast.get_docstring(ast.parse(second), clean=False)}"""\n\n{_written(imports)}\n\n{body}\n'


def _imported(text: str) -> Iterator[tuple[str, str]]:
    """Modules and the names that are imported from them; of modules that are imported whole, how."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, f"as {alias.asname}" if alias.asname else "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module != architecture.__name__:
            yield from ((str(node.module), alias.name) for alias in node.names)


def _body(text: str) -> str:
    """What follows the last import."""
    nodes = ast.parse(text).body
    last = max(node.end_lineno or 0 for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    return "".join(text.splitlines(keepends=True)[last:])


def _written(imports: set[tuple[str, str]]) -> str:
    """Import statements in the usual order: the future, the standard library, torch."""
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for module in sorted({module for module, _ in imports}):
        place = 0 if module == "__future__" else 2 if module.partition(".")[0] == "torch" else 1
        names = sorted(name for one, name in imports if one == module)
        whole = [name for name in names if not name or name.startswith("as ")]
        parts = [name for name in names if name not in whole]
        groups[place].extend(f"import {module} {name}".rstrip() for name in whole)
        if parts:
            groups[place].append(f"from {module} import {', '.join(parts)}")
    for group in groups:
        group.sort(key=lambda line: line.startswith("from"))
    return "\n\n".join("\n".join(group) for group in groups)
