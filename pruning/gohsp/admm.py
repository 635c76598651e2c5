"""Training towards structured sparsity by ADMM, as in GOHSP: an objective for the training loop.

Minimise L(W) + rho/2 · sum |W - Z + U|² over the weights of heads, channels and neurons, where Z is
in the structured set: queries, keys, values and columns of `proj` of removed heads are zero, and of the
remaining groups of weights only the k with the largest joint norm are not. The ranking of the heads
determines which of them are removed. At regular intervals Z = project(W + U), U = U + W - Z [paper: soft
pruning inside an optimisation with heterogeneous structure; the form and all details are ours].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from analysis.vit import Architecture, ViT
from pruning.cut import Plan, Scores, heads_only, plan_gates, select
from pruning.options import Options, option_field
from pruning.seeding import State
from pruning.training import Objective, bare

Weights = dict[str, Tensor]  # constrained parameters by name


@dataclass(frozen=True)
class Structure:
    """The structured set: the remaining widths, and scores of all heads, of which the highest are kept."""

    dense: Architecture
    target: Architecture
    heads: tuple[tuple[float, ...], ...]

    def plan(self, weights: Weights) -> Plan:
        """The plan for these weights: heads are kept by their ranking, other parts by joint norm."""
        ranked = heads_only(self.dense, [torch.tensor(block) for block in self.heads])
        return select(joint_norms(self.dense, weights, ranked), self.dense, self.target)

    def project(self, weights: Weights) -> tuple[Weights, Plan]:
        """The nearest weights in the set, and the plan of the parts that are not zero."""
        plan = self.plan(weights)
        kept = keep_masks(self.dense, plan)
        return {name: value * kept[name].to(value) for name, value in weights.items()}, plan


def constrained(model: ViT) -> Weights:
    """The weights of heads, channels and neurons: `qkv`, `fc1`, and the weights that read their outputs.

    Biases of `proj` and `fc2` belong to the residual stream and are not constrained.
    """
    ends = (
        *("attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight"),
        *("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight"),
    )
    return {name: weight for name, weight in model.named_parameters() if name.endswith(ends)}


@torch.no_grad()
def joint_norms(dense: Architecture, weights: Weights, ranked: Scores) -> Scores:
    """Euclidean norms of the groups of weights that are removed together; heads score as in `ranked`.

    Query-key pair: query row, key row and their biases. Value channel: value row, bias, column of
    `proj`. MLP neuron: row of `fc1`, bias, column of `fc2`.
    """
    pairs, values, neurons = [], [], []
    for index, widths in enumerate(dense.blocks):
        prefix = f"blocks.{index}"
        rows = _squares(weights, f"{prefix}.attn.qkv")
        q, k, v = rows.split([widths.heads * width for width in (widths.qk, widths.qk, widths.v)])
        v = v + weights[f"{prefix}.attn.proj.weight"].double().square().sum(dim=0)
        pairs.append((q + k).sqrt().view(widths.heads, widths.qk))
        values.append(v.sqrt().view(widths.heads, widths.v))
        columns = weights[f"{prefix}.mlp.fc2.weight"].double().square().sum(dim=0)
        neurons.append((_squares(weights, f"{prefix}.mlp.fc1") + columns).sqrt())
    return Scores(tuple(pairs), tuple(values), tuple(neurons), ranked.heads, ranked.embed)


def _squares(weights: Weights, layer: str) -> Float[Tensor, " rows"]:
    rows = weights[f"{layer}.weight"].double().square().sum(dim=1)
    bias = weights.get(f"{layer}.bias")
    return rows if bias is None else rows + bias.double().square()


def keep_masks(dense: Architecture, plan: Plan) -> dict[str, Tensor]:
    """For every constrained parameter, a mask of 0 on the weights that the plan removes and 1 elsewhere."""
    masks, gates = {}, plan_gates(plan, dense)
    for index, each in enumerate(zip(gates.qk, gates.v, gates.mlp, strict=True)):
        pairs, values, neurons = (gate.flatten() for gate in each)
        rows = torch.cat([pairs, pairs, values])
        prefix = f"blocks.{index}"
        for layer, mask in (("attn.qkv", rows), ("mlp.fc1", neurons)):
            masks[f"{prefix}.{layer}.weight"], masks[f"{prefix}.{layer}.bias"] = mask[:, None], mask
        masks[f"{prefix}.attn.proj.weight"], masks[f"{prefix}.mlp.fc2.weight"] = values, neurons
    return masks


def hard_projection(model: ViT, structure: Structure) -> Plan:
    """Set the weights to be removed to zero, in place; returns the plan that removes them.

    Cutting the model by this plan afterwards does not change its logits.
    """
    weights = constrained(model)
    projected, plan = structure.project({name: weight.detach() for name, weight in weights.items()})
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(projected[name])
    return plan


@dataclass(frozen=True)
class AdmmOptions(Options):
    """Options of ADMM."""

    rho: float = option_field(1e-3, 1e-9, 1e3, "Initial weight rho of ADMM's penalty.")
    growth: float = option_field(1.2, 1.0, 10.0, "Factor by which rho grows at every update of Z and U.")
    every: int = option_field(0, 0, 1_000_000, "Steps between updates of Z and U; 0 updates once per epoch.")


class Admm(Objective):
    """Another objective's loss plus ADMM's penalty on the distance of the weights from a structure.

    U is the scaled dual variable, which shrinks by the factor by which rho grows (Boyd et al. 2011,
    3.4.1). Initially Z = project(W), U = 0. Metrics: `primal_residual` |W - Z| / |W|, `constraint_gap`
    |W - project(W)| / |W|, both over all constrained weights, `penalty` and `rho`.
    """

    def __init__(self, inner: Objective, model: ViT, structure: Structure, options: AdmmOptions) -> None:
        self.inner, self.structure, self.options = inner, structure, options
        start = {name: weight.detach().clone() for name, weight in constrained(model).items()}
        self.rho = options.rho
        self.z, plan = structure.project(start)
        self._heads = tuple(block.heads for block in plan.blocks)
        self.u = {name: torch.zeros_like(weight) for name, weight in start.items()}

    def identity(self) -> object:
        """The structure, the options, and the inner objective.

        The heads' ranking enters by which of them are kept, not by their scores: with another number of
        threads scores may differ in the last bits, and the checkpoint would not be found.
        """
        structure = self.structure.dense, self.structure.target, self._heads
        return type(self).__qualname__, structure, self.options, self.inner.identity()

    def loss(
        self, model: nn.Module, images: Float[Tensor, "B C Y X"], targets: Shaped[Tensor, "B *classes"]
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """L + rho/2 |W - Z + U|², with its terms and the primal residual as metrics."""
        task, figures = self.inner.loss(model, images, targets)
        weights = constrained(bare(model))
        self._move(weights)
        penalty = self.rho / 2 * _total(w - self.z[name] + self.u[name] for name, w in weights.items())
        own = {
            "task_loss": task.detach(),
            "penalty": penalty.detach(),
            "primal_residual": self.residual(weights),
        }
        return task + penalty, {**figures, **own}

    def after_step(self, model: ViT, step: int) -> None:
        """Update Z and U if options.every steps have passed."""
        self.inner.after_step(model, step)
        if self.options.every and (step + 1) % self.options.every == 0:
            self.update(model)

    def after_epoch(self, model: ViT, epoch: int) -> Mapping[str, float]:
        """Update Z and U unless `after_step` does; returns the constraint gap before the update."""
        figures = {**self.inner.after_epoch(model, epoch), "constraint_gap": self.gap(model), "rho": self.rho}
        if not self.options.every:
            self.update(model)
        return figures

    @torch.no_grad()
    def update(self, model: ViT) -> None:
        """Set Z = project(W + U), U = U + W - Z, and increase rho."""
        weights = constrained(model)
        self._move(weights)
        self.z, _ = self.structure.project({name: w + self.u[name] for name, w in weights.items()})
        growth = self.options.growth
        self.u = {name: (self.u[name] + w - self.z[name]) / growth for name, w in weights.items()}
        self.rho *= growth

    @torch.no_grad()
    def residual(self, weights: Weights) -> Float[Tensor, ""]:
        """The primal residual |W - Z| / |W|."""
        distance = _total(w - self.z[name] for name, w in weights.items())
        return (distance / _total(weights.values())).sqrt()

    @torch.no_grad()
    def gap(self, model: ViT) -> float:
        """The constraint gap |W - project(W)| / |W|: how much a hard projection would change the weights."""
        weights = constrained(model)
        nearest, _ = self.structure.project(weights)
        distance = _total(w - nearest[name] for name, w in weights.items())
        return float((distance / _total(weights.values())).sqrt())

    def state_dict(self) -> State:
        """Z, U, rho and the inner objective's state."""
        return {"z": self.z, "u": self.u, "rho": self.rho, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore the state from a checkpoint."""
        self.z, self.u, self.rho = state["z"], state["u"], state["rho"]
        self.inner.load_state_dict(state["inner"])

    def _move(self, weights: Weights) -> None:
        """Move Z and U to the device of the weights; initially, and from checkpoints, they are on the CPU."""
        device = next(iter(weights.values())).device
        if next(iter(self.z.values())).device != device:
            self.z = {name: value.to(device) for name, value in self.z.items()}
            self.u = {name: value.to(device) for name, value in self.u.items()}


def _total(parts: Iterable[Tensor]) -> Tensor:
    """Sum of squares over all parts."""
    return torch.stack([part.square().sum() for part in parts]).sum()
