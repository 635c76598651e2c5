"""Reads the code of the app: is a text made of our own words and numbers, or has it been through a helper?"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

_WORDED = (
    "accuracy_meaning accuracy_name accuracy_within by_chance change cosine count duration duration_between "
    "from_to gmacs gmacs_of interval likeness likeness_sentence meaning megabytes millions milliseconds "
    "outcome paired_points percent points real_change signed_points speedup amount len sum min max "
    "round int float index"
)
NUMBERS = frozenset(_WORDED.split())  # calls that give a number, or put one into words of ours
_PASSED = "list tuple set dict sorted reversed enumerate zip next iter filter DataFrame from_dict"
PASSED = frozenset(_PASSED.split())  # calls whose result holds what they were given
NUMERIC = tuple("dfgeEn%,")  # how the format of a number ends
Function = ast.FunctionDef


class OurWords:
    """The code of a package. An expression is ours if no text from elsewhere can come out of it unescaped.

    A variable is ours if all that is ever assigned to it is; a parameter, if all that is ever passed for it
    is; a call, if all that the function returns is. Names in capitals are constants of ours. Attributes of
    objects are not followed: those in `known` are ours, written as they stand in the code.
    """

    def __init__(self, files: Iterable[Path], helpers: set[str], known: Iterable[str] = ()) -> None:
        self.trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
        self.helpers, self.known, self.used = helpers, set(known), set[str]()
        self._parents: dict[ast.AST, ast.AST] = {}
        self._functions: dict[str, list[tuple[Path, Function]]] = defaultdict(list)
        self._calls: dict[str, list[tuple[Path, ast.Call]]] = defaultdict(list)
        self._open: set[ast.AST | tuple[str, Function]] = set()
        for file, tree in self.trees.items():
            for node in ast.walk(tree):
                self._parents |= dict.fromkeys(ast.iter_child_nodes(node), node)
                if isinstance(node, ast.FunctionDef):
                    self._functions[node.name].append((file, node))
                elif isinstance(node, ast.Call):
                    self._calls[name_of(node.func)].append((file, node))

    def is_ours(self, node: ast.AST) -> bool:
        """Whether a text is made of our words and numbers, and of what went through a helper."""
        if (
            isinstance(node, ast.Attribute | ast.Name | ast.Call | ast.Subscript)
            and ast.unparse(node) in self.known
        ):
            self.used.add(ast.unparse(node))
            return True
        if node in self._open:  # defined by itself, so by the rest of its definition
            return True
        self._open.add(node)
        try:
            return self._is_ours(node)
        finally:
            self._open.discard(node)

    def _is_ours(self, node: ast.AST) -> bool:
        match node:
            case ast.Constant() | ast.Compare():
                return True
            case ast.FormattedValue(value=value, format_spec=spec):
                return _numeric(spec) or self.is_ours(value)
            case ast.Name(id=name):
                return self._name(name, node)
            case ast.Attribute(value=value, attr=attr):
                return attr.isupper() or attr in self.helpers | NUMBERS or self.is_ours(value)
            case ast.Subscript(value=value):
                return self.is_ours(value)
            case ast.Lambda(body=body):
                return self.is_ours(body)
            case ast.Call():
                return self._call(node)
            case ast.IfExp(body=one, orelse=other):
                return self.is_ours(one) and self.is_ours(other)
            case ast.DictComp(key=key, value=value):
                return self.is_ours(key) and self.is_ours(value)
            case ast.ListComp(elt=value) | ast.GeneratorExp(elt=value) | ast.SetComp(elt=value):
                return self.is_ours(value)
            case ast.Dict(keys=keys, values=values):
                return all(part is None or self.is_ours(part) for part in [*keys, *values])
        parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        return bool(parts) and all(map(self.is_ours, parts))

    # ---- calls

    def _call(self, node: ast.Call) -> bool:
        name, func = name_of(node.func), node.func
        if name in self.helpers | NUMBERS:
            return True
        if name in PASSED:
            return all(map(self.is_ours, node.args))
        if name == "map":
            return self.is_ours(node.args[0])
        if name == "join":
            return self.is_ours(node.args[0]) and self.is_ours(func)
        file = self._file(node)
        found = [one for place, one in self._functions[name] if _may_call(node, file, name, place)]
        if found:
            return all(map(self._returns, found))
        return self.is_ours(func)  # a method of a text, or a variable that holds a function

    def _file(self, node: ast.AST) -> Path:
        (*_, module) = self._around(node)
        return next(file for file, tree in self.trees.items() if tree is module)

    def _returns(self, function: Function) -> bool:
        given = [one.value for one in ast.walk(function) if isinstance(one, ast.Return) and one.value]
        return bool(given) and all(map(self.is_ours, given))

    # ---- variables

    def _name(self, name: str, node: ast.AST) -> bool:
        if name.isupper() or name.lstrip("_").isupper() or name in self.helpers | NUMBERS:
            return True
        for scope in self._around(node):
            values = list(_assigned(name, scope))
            if isinstance(scope, ast.FunctionDef) and name in _parameters(scope):
                return self._passed(name, scope) and all(map(self.is_ours, values))
            if values:
                return all(map(self.is_ours, values))
        return False

    def _around(self, node: ast.AST) -> Iterator[ast.AST]:
        """The comprehensions, functions and the module around a node, the innermost first."""
        scopes = (ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp, ast.FunctionDef, ast.Module)
        while (node := self._parents.get(node)) is not None:  # type: ignore[assignment]
            if isinstance(node, scopes):
                yield node

    def _passed(self, name: str, function: Function) -> bool:
        """Whether all that is passed for a parameter is ours."""
        (annotation,) = (one.annotation for one in _arguments(function) if one.arg == name)
        if annotation is not None and ast.unparse(annotation) in ("int", "float", "bool"):
            return True
        if (name, function) in self._open:
            return True
        self._open.add((name, function))
        try:
            place = self._file(function)
            calls = [
                call
                for file, call in self._calls[function.name]
                if _may_call(call, file, function.name, place)
            ]
            given = [_given(call, name, function) for call in calls]
            return bool(given) and all(one is None or self.is_ours(one) for one in given)
        finally:
            self._open.discard((name, function))


def name_of(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _may_call(call: ast.Call, caller: Path, name: str, home: Path) -> bool:
    """Whether a call in one file can be of the function of this name in another."""
    if caller == home:
        return isinstance(call.func, ast.Name)
    if name.startswith("_"):
        return False
    return isinstance(call.func, ast.Name) or name_of(call.func.value).endswith(home.stem)  # type: ignore[attr-defined]


def _numeric(spec: ast.AST | None) -> bool:
    """Whether a format, as after the colon in an f-string, is one that only numbers have."""
    last = spec.values[-1] if isinstance(spec, ast.JoinedStr) and spec.values else None
    return isinstance(last, ast.Constant) and str(last.value).endswith(NUMERIC)


def _arguments(function: Function) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _parameters(function: Function) -> set[str]:
    return {one.arg for one in _arguments(function)}


def _given(call: ast.Call, name: str, function: Function) -> ast.expr | None:
    """What a call passes for a parameter, None for its default."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    names = [one.arg for one in _arguments(function) if one.arg != "self"]
    place = names.index(name)
    return call.args[place] if place < len(call.args) else None


def _assigned(name: str, scope: ast.AST) -> Iterator[ast.expr]:
    """What a name stands for in a function, a comprehension or a module."""
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from _bound(name, target, value)
                    if isinstance(target, ast.Subscript) and name_of(target.value) == name:
                        yield from (target.slice, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield from _bound(name, target, value)
            case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
                yield from _bound(name, target, value)
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                yield from _each(name, target, value)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=found), attr="append"), args=[value]):
                if found == name:
                    yield value


def _bound(name: str, target: ast.AST, value: ast.expr) -> Iterator[ast.expr]:
    """The part of a value that a name gets by assignment."""
    if isinstance(target, ast.Name) and target.id == name:
        yield value
    elif isinstance(target, ast.Tuple):
        parts = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
        for one, part in zip(target.elts, parts, strict=False):
            yield from _bound(name, one, part)


def _each(name: str, target: ast.AST, values: ast.expr) -> Iterator[ast.expr]:
    """The same for a loop over values."""
    if isinstance(values, ast.Call) and name_of(values.func) in ("zip", "enumerate"):
        args = [ast.Constant(0), *values.args] if name_of(values.func) == "enumerate" else values.args
        for one, each in zip(target.elts if isinstance(target, ast.Tuple) else [], args, strict=False):
            yield from _each(name, one, each)
    elif isinstance(values, ast.Tuple | ast.List) and values.elts:
        for value in values.elts:
            yield from _bound(name, target, value)
    else:
        yield from _bound(name, target, values)
