"""Names in an ONNX file that say which layer is which, in place of the exporter's running numbers."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection
from typing import Any

# Where torch's exporter notes the modules that a node lies in, outermost first, and after them its own name.
_SCOPES = "pkg.torch.onnx.name_scopes"


def name_layers(model: Any, weights: Collection[str]) -> None:
    """Name the nodes and values of an onnx_ir model after the modules of the torch model.

    A node that is all of a module has the module's name, `blocks.3.attn.qkv`; several are numbered in their
    order, `blocks.3.attn/MatMul`, `blocks.3.attn/MatMul_1`. A value has the name of the node that gives it.
    `weights` keep their names, other constants are numbered. Removed is what the exporter notes besides:
    traces with paths of this machine, and shapes, which everyone can infer and which are wrong once a tool
    has changed the graph.
    """
    graph = model.graph
    nodes = list(graph)
    modules = _modules(nodes)
    alone = Counter(modules)
    used: Counter[str] = Counter()
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node, module in zip(nodes, modules, strict=True):
        name = module if module and alone[module] == 1 else f"{module}/{node.op_type}".lstrip("/")
        used[name] += 1
        node.name = name if used[name] == 1 else f"{name}_{used[name] - 1}"
        for index, value in enumerate(node.outputs):
            if id(value) not in kept:
                value.name = node.name if len(node.outputs) == 1 else f"{node.name}.{index}"
                _forget(value)
        node.metadata_props.clear()
        node.doc_string = None
    constants = [value for value in graph.initializers.values() if value.name not in weights]
    for number, value in enumerate(constants):
        value.name = f"constant_{number}"
    for value in graph.initializers.values():
        _forget(value)
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
    graph.metadata_props.clear()


def _modules(nodes: list[Any]) -> list[str]:
    """The innermost module of each node; "" for the model itself. One without a note goes with the next."""
    found: list[str] = []
    module = ""
    for node in reversed(nodes):
        if _SCOPES in node.metadata_props:
            *scopes, _ = ast.literal_eval(node.metadata_props[_SCOPES])
            named = [scope for scope in scopes if not scope.startswith("_")]
            module = named[-1] if named else ""
        found.append(module)
    return found[::-1]


def _forget(value: Any) -> None:
    value.shape = value.type = None
    value.metadata_props.clear()
