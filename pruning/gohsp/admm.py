"""Training towards structured sparsity by ADMM, as in GOHSP: an objective for the training loop.

Minimise L(W) subject to W in the structured set: queries, keys, values and columns of `proj` of removed
heads are zero, and of the remaining groups of weights only the k with the largest joint norm are not. The
ranking of the heads determines which of them are removed [paper: soft pruning inside an optimisation with
heterogeneous structure; the form and all details are ours].

ADMM takes turns: some training steps on L(W) + rho/2 |W - Z + U|², then Z = project(W + U) and
U = U + W - Z. Here the quadratic term is not part of the loss. AdamW divides a gradient by its size, so a
penalty in the loss moves the weights no further than the learning rate allows, while U grows without
bound. Instead its proximal step follows every optimiser step, as weight decay does in AdamW:
W = W - c (W - Z + U) [ours]. With learning rate eta, c = eta rho / (1 + eta rho) [proximal operator of a
quadratic]. How far W comes in all is then the sum of the steps, and can be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from analysis.vit import Architecture, ViT
from pruning.criteria import group_norms
from pruning.cut import Plan, Scores, plan_gates, select
from pruning.options import Options, option_field, switch_field
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
        """The plan for these weights: heads are kept by their ranking, other parts by their group's norm."""
        heads = tuple(torch.tensor(block) for block in self.heads)
        scores = Scores(*group_norms(self.dense, weights), heads, torch.zeros(self.dense.embed_dim))
        return select(scores, self.dense, self.target)

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
    named = model.named_parameters()
    return {name: weight for name, weight in named if name.startswith("blocks.") and name.endswith(ends)}


def keep_masks(dense: Architecture, plan: Plan) -> dict[str, Tensor]:
    """For every constrained parameter, a mask of 0 on the weights that the plan removes and 1 elsewhere."""
    masks, gates = {}, plan_gates(plan, dense)
    for index, each in enumerate(zip(gates.qk, gates.v, gates.mlp, strict=True)):
        pairs, values, neurons = (gate.flatten() for gate in each)
        attn, mlp, widths = f"blocks.{index}.attn", f"blocks.{index}.mlp", dense.blocks[index]
        if widths.heads:
            rows = torch.cat([pairs, pairs, values])
            masks[f"{attn}.qkv.weight"], masks[f"{attn}.proj.weight"] = rows[:, None], values
            if dense.qkv_bias:
                masks[f"{attn}.qkv.bias"] = rows
        if widths.mlp:
            rows = neurons.repeat(2) if dense.gated else neurons
            masks[f"{mlp}.fc1.weight"], masks[f"{mlp}.fc2.weight"] = rows[:, None], neurons
            masks[f"{mlp}.fc1.bias"] = rows
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
    """The schedule of the pull towards the structure, over `steps` training steps.

    The pull grows: after the fraction s of the steps, exp(-pull s³) of the distance from a fixed structure
    would remain if the loss did not act [ours].
    """

    steps: int = option_field(1, 1, 1_000_000_000, "Training steps in all.")
    updates: int = option_field(16, 1, 100_000, "Updates of Z and U if the structure were never fixed.")
    settle: float = option_field(0.5, 0.0, 1.0, "Fraction of the steps after which the structure is fixed.")
    pull: float = option_field(8.0, 0.0, 100.0, "Strength of the pull: exp(-pull) of the distance remains.")
    dual: bool = switch_field(False, "Use the dual variable U; without it U stays 0.")


class Admm(Objective):
    """Another objective's loss, and a pull of the weights towards a structure after every step.

    Initially Z = project(W), U = 0. With `dual`, U is the scaled dual variable, which shrinks by the factor
    by which the pull grows (Boyd et al. 2011, 3.4.1); without it U stays 0 [ours]. On the demo the dual made
    up to 81 % of the kept groups change places at an update, and cost accuracy (benchmarks/RESULTS.md). After
    `settle` of the steps the structure is fixed: U is then 0, Z is W without the groups to be removed, and
    only those are still pulled [ours].

    Metrics: `primal_residual` |W - Z| / |W| over all constrained weights, and `exchanged`, the fraction of
    the kept groups of weights that were not kept before the last update. When the structure is fixed, it
    is the fraction that an update would exchange. At the end of an epoch, `exchanged` and
    `constraint_gap` |W - project(W)| / |W| are measured on the weights that would be cut now.
    """

    def __init__(self, inner: Objective, model: ViT, structure: Structure, options: AdmmOptions) -> None:
        self.inner, self.structure, self.options = inner, structure, options
        start = {name: weight.detach().clone() for name, weight in constrained(model).items()}
        self.z, plan = structure.project(start)
        self.kept = keep_masks(structure.dense, plan)
        self.u = {name: torch.zeros_like(weight) for name, weight in start.items()}
        self.done = 0  # steps
        self.exchanged: float | None = None  # not known before the first update
        self._heads = tuple(block.heads for block in plan.blocks)

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
        """The inner objective's loss; the primal residual and the exchanged fraction as further metrics."""
        loss, figures = self.inner.loss(model, images, targets)
        own: dict[str, float | Tensor] = {"primal_residual": self.residual(bare(model))}
        if self.exchanged is not None:
            own["exchanged"] = self.exchanged
        return loss, {**figures, **own}

    @property
    def score_name(self) -> str:
        """That of the inner objective."""
        return self.inner.score_name

    def score(self, model: ViT, images: Float[Tensor, "B C Y X"], labels: Int[Tensor, " B"]) -> Tensor:
        """That of the inner objective."""
        return self.inner.score(model, images, labels)

    def require_model(self, model: ViT) -> None:
        """As the inner objective does.

        Raises:
            ValueError: a model that cannot learn this.
        """
        self.inner.require_model(model)

    def after_step(self, model: ViT, step: int) -> None:
        """Pull the weights, and update Z and U if it is time."""
        self.inner.after_step(model, step)
        self.pull(model, step)
        self.done, steps, updates = step + 1, self.options.steps, self.options.updates
        if self.done * updates // steps > step * updates // steps:
            self.update(model)

    def after_epoch(self, model: ViT, epoch: int) -> Mapping[str, float]:
        """The constraint gap, and the exchanged fraction, of the weights that would be cut now."""
        own = {"constraint_gap": self.gap(model), "exchanged": self._exchange(self._plan(model))}
        return {**self.inner.after_epoch(model, epoch), **own}

    @property
    def settled(self) -> bool:
        """Whether the structure is fixed from now on."""
        return self.done >= self.options.settle * self.options.steps

    @torch.no_grad()
    def pull(self, model: ViT, step: int) -> None:
        """W = W - c (W - Z + U) after step number `step`, counted from 0."""
        weights = self._weights(model)
        before, after = (self.options.pull * (s / self.options.steps) ** 3 for s in (step, step + 1))
        share = -math.expm1(before - after)
        for name, w in weights.items():
            if self.settled:
                w.mul_(1 - share * (1 - self.kept[name]))
            else:
                w.sub_(share * (w - self.z[name] + self.u[name]))

    @torch.no_grad()
    def update(self, model: ViT) -> None:
        """Set Z = project(W + U), U = U + W - Z; only measure what would change if the structure is fixed."""
        if self.settled:
            self.exchanged = self._exchange(self._plan(model))
            return
        weights = self._weights(model)
        self.z, plan = self.structure.project({name: w + self.u[name] for name, w in weights.items()})
        self.exchanged = self._exchange(plan)
        self.kept = {
            name: mask.to(self.z[name]) for name, mask in keep_masks(self.structure.dense, plan).items()
        }
        if not self.options.dual:
            return
        growth = (1 + self.options.steps / self.options.updates / self.done) ** 2  # of the pull, per update
        self.u = {name: (self.u[name] + w - self.z[name]) / growth for name, w in weights.items()}

    def _plan(self, model: ViT) -> Plan:
        return self.structure.plan({name: w.detach() for name, w in constrained(model).items()})

    def _exchange(self, plan: Plan) -> float:
        """Fraction of the groups kept by this plan that are not kept now."""
        masks = keep_masks(self.structure.dense, plan)
        groups = [name for name in masks if name.endswith(("qkv.weight", "fc1.weight"))]  # a row per group
        kept = torch.cat([masks[name].flatten() for name in groups])
        now = torch.cat([self.kept[name].flatten() for name in groups]).to(kept)
        return float((kept * (1 - now)).sum() / kept.sum())

    @torch.no_grad()
    def residual(self, model: ViT) -> Float[Tensor, ""]:
        """The primal residual |W - Z| / |W|."""
        weights = self._weights(model)
        distances = [
            w * (1 - self.kept[name]) if self.settled else w - self.z[name] for name, w in weights.items()
        ]
        return (_total(distances) / _total(weights.values())).sqrt()

    @torch.no_grad()
    def gap(self, model: ViT) -> float:
        """The constraint gap |W - project(W)| / |W|: how much a hard projection would change the weights."""
        weights = constrained(model)
        nearest, _ = self.structure.project(weights)
        distance = _total(w - nearest[name] for name, w in weights.items())
        return float((distance / _total(weights.values())).sqrt())

    def state_dict(self) -> State:
        """Z, U, which groups are kept, the number of steps, and the inner objective's state."""
        own = {"z": self.z, "u": self.u, "kept": self.kept, "done": self.done, "exchanged": self.exchanged}
        return {**own, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Restore the state from a checkpoint."""
        self.z, self.u, self.kept = state["z"], state["u"], state["kept"]
        self.done, self.exchanged = state["done"], state["exchanged"]
        self.inner.load_state_dict(state["inner"])

    def _weights(self, model: ViT) -> Weights:
        """The constrained weights; moves the state, which begins on the CPU, to their device."""
        weights = constrained(model)
        device = next(iter(weights.values())).device
        if next(iter(self.z.values())).device != device:
            self.z, self.u, self.kept = (
                {name: value.to(device) for name, value in state.items()}
                for state in (self.z, self.u, self.kept)
            )
        return weights


def _total(parts: Iterable[Tensor]) -> Tensor:
    """Sum of squares over all parts."""
    return torch.stack([part.square().sum() for part in parts]).sum()
