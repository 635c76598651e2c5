"""The model: a Vision Transformer whose blocks may each have different widths, and merge tokens.

It needs torch and `Architecture`, and nothing else. Every exported bundle holds both in one file, vit.py,
so that a pruned model can be loaded without the project that pruned it:

    from safetensors.torch import load_file
    from vit import Architecture, ViT
    model = ViT(Architecture.from_json(open("architecture.json").read())).eval()
    model.load_state_dict(load_file("model.safetensors"))

Axes in shape comments: B images, L blocks, H heads of a block, N tokens (prefix tokens included),
D channels of a head (Dqk for queries and keys, Dv for values), E embedding width, F hidden width
of an MLP, P patches. A dense ViT is the case Dqk = Dv = E / H in every block. State-dict names are timm's.

A block that merges has fewer tokens behind its attention than before it. Tokens are then handed on
together with their sizes, B N: the number of patches that each of them stands for. Before the first
merge the sizes are None: every token stands for itself. Where scores depend on places (rope, position
bias), a merged token has the place of the token that the others were merged into, and the sizes come with
the places, `Placed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.architecture import Architecture, BlockWidths

__all__ = [
    "STEP",
    "Architecture",
    "Attention",
    "AttentionPool",
    "Block",
    "BlockWidths",
    "LayerScale",
    "Merge",
    "Mlp",
    "PatchEmbed",
    "Placed",
    "QuickGELU",
    "ViT",
    "by_distance",
    "first_sizes",
    "is_plain_linear",
    "merge_weight",
    "sizes_and_places",
    "spread",
]


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
    "silu": nn.SiLU,
}

_NORMS: dict[str, Callable[..., nn.Module]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


def _norm(arch: Architecture, width: int) -> nn.Module:
    return _NORMS[arch.norm](width, eps=arch.norm_eps)


class PatchEmbed(nn.Module):
    """Cuts an image into patches and projects each to E channels: B C H W -> B N E."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.proj = nn.Conv2d(
            arch.in_channels,
            arch.embed_dim,
            kernel_size=arch.patch_size,
            stride=arch.patch_size,
            # a norm right after it makes the bias redundant; timm's CLIP models have none
            bias=not arch.pre_norm,
        )
        self.norm = _norm(arch, arch.embed_dim) if arch.patch_norm else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).flatten(2).transpose(1, 2))


class Attention(nn.Module):
    """Multi-head self-attention whose query-key and value widths may differ.

    Rows of `qkv` are in timm's order: all heads' queries, all heads' keys, all heads' values.
    With `fused` False, softmax(q k^T) v is computed as plain matrix products, as FLOP counters and
    ONNX need it, and always with a position bias.

    `rope` turns queries and keys of patches: channels 2p and 2p + 1 of a head are a plane, in which a patch
    at row y and column x is turned by a + b y + c x. It holds a, b and c of every plane, HDqk/2 3.
    """

    def __init__(self, arch: Architecture, widths: BlockWidths) -> None:
        super().__init__()
        self.heads, self.qk_dim, self.v_dim = widths.heads, widths.qk, widths.v
        self.scale = arch.scale
        self.fused = True
        self.reads = bool(widths.merge) and arch.class_token
        self.absorbs, self.prefix, self.grid = arch.absorbs, len(arch.prefix_names), arch.grid
        self.qkv = nn.Linear(arch.embed_dim, sum(self.qkv_rows), bias=arch.qkv_bias)
        self.q_norm = _norm(arch, widths.qk) if arch.qk_norm else nn.Identity()
        self.k_norm = _norm(arch, widths.qk) if arch.qk_norm else nn.Identity()
        self.norm = _norm(arch, widths.heads * widths.v) if arch.attn_norm else nn.Identity()
        self.proj = nn.Linear(widths.heads * widths.v, arch.embed_dim)
        self.rope: Tensor | None
        self.register_buffer("rope", torch.zeros(widths.heads * widths.qk // 2, 3) if arch.rope else None)
        table = torch.zeros(widths.heads, arch.distances)
        self.position_bias = nn.Parameter(table) if arch.position_bias else None

    @property
    def qkv_rows(self) -> tuple[int, int, int]:
        """Numbers of rows of `qkv` that are queries, keys and values."""
        return self.heads * self.qk_dim, self.heads * self.qk_dim, self.heads * self.v_dim

    def split_heads(self, qkv: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """B N (rows of qkv) -> q and k as the scores take them: B H N Dqk, v: B H N Dv."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv.split(self.qkv_rows, dim=-1)
        )
        return *self.placed(q, k, places), v

    def placed(self, q: Tensor, k: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Queries and keys B H N Dqk as the scores take them: normed, and turned by their places.

        `places` B N says which token of the image each has the place of; without it they are all there.
        """
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is None:
            return q, k
        y, x = (torch.arange(side, device=q.device) for side in self.grid)
        start, down, across = self.rope.float().view(self.heads, -1, 3).transpose(0, 1).unbind(-1)  # Dqk/2 H
        angles = start[..., None, None] + down[..., None, None] * y[:, None] + across[..., None, None] * x
        angles = angles.flatten(2).permute(1, 2, 0)  # H P Dqk/2
        if places is not None:
            angles = angles[:, places[:, self.prefix :] - self.prefix].transpose(0, 1)  # B H P Dqk/2
        cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
        return self._turned(q, cos, sin), self._turned(k, cos, sin)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, patches = x[:, :, : self.prefix], x[:, :, self.prefix :]
        even, odd = patches[..., ::2], patches[..., 1::2]
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
        return torch.cat([first, turned], dim=2)

    def weights(
        self, q: Tensor, k: Tensor, sizes: Tensor | None = None, places: Tensor | None = None
    ) -> Tensor:
        """Attention maps softmax(scale q k^T + bias + log sizes), whose rows sum to one: B H N N.

        A token that stands for several patches counts as often (proportional attention, ToMe).
        """
        if not self.fused or self.position_bias is not None or _is_traced():
            scores = (q * self.scale) @ k.transpose(-2, -1)
            if self.position_bias is not None:
                bias = by_distance(self.position_bias, self.grid, self.prefix, places)
                scores = scores + bias[..., : q.shape[2], :]
            return (scores if sizes is None else scores + _log(sizes, scores.ndim)).softmax(dim=-1)
        every = q.shape[:-2]  # B, or B H
        added = q.new_zeros(1) if sizes is None else _log(sizes, q.ndim).expand(*every, 1, -1).flatten(0, -3)
        keys, beta = k.flatten(0, -3).transpose(-2, -1), 0 if sizes is None else 1  # 0: nothing is added
        scores = torch.baddbmm(added, q.flatten(0, -3), keys, beta=beta, alpha=self.scale)
        return _softmax(scores).unflatten(0, every)

    def forward(
        self, x: Tensor, sizes: Tensor | Placed | None = None, count: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attention of the first `count` tokens (None: all) to all tokens: B N E -> B count E.

        The second result is how much the class token attends to each token, the mean over heads B N, where
        `reads` asks for it.
        """
        read, (numbers, places) = None, sizes_and_places(sizes)
        if count is not None and self.absorbs and is_plain_linear(self.qkv):
            out = self._first(x, numbers, count)
        else:
            out, read = self._all(x, numbers, places, count)  # B H count Dv
        return self.proj(self.norm(out.transpose(1, 2).flatten(2))), read

    def _all(
        self, x: Tensor, sizes: Tensor | None, places: Tensor | None, count: int | None
    ) -> tuple[Tensor, Tensor | None]:
        q, k, v = self.split_heads(self.qkv(x), places)
        q = q[:, :, :count]
        if self.fused and self.position_bias is None and not self._is_faster_plain(q, k):
            read = self.weights(q[:, :, :1], k, sizes) if self.reads else None
            out = self._fused(q, k, v, sizes)
        else:
            read = self.weights(q, k, sizes, places)
            out = read @ v
        return out, read[:, :, 0].mean(dim=1) if self.reads and read is not None else None

    def _first(self, x: Tensor, sizes: Tensor | None, count: int) -> Tensor:
        """Head outputs of the first tokens, without computing keys or values.

        The projections are absorbed as in multi-head latent attention (DeepSeek-V2, 2024):
        q . (Wk x) = (Wk^T q) . x, and the sum of a Wv x is Wv times the sum of a x. The keys' bias adds
        a constant to all scores of a query, which softmax ignores; the values' bias is added to the output.
        """
        heads = self.heads
        w_q, w_k, w_v = self.qkv.weight.split(self.qkv_rows)
        b_q, _, b_v = self.qkv.bias.split(self.qkv_rows) if self.qkv.bias is not None else (None,) * 3

        def by_head(z: Tensor, weight: Tensor) -> Tensor:
            """Multiply each head by its own weights: B H count I and H I O -> B H count O."""
            flat = z.transpose(0, 1).flatten(1, 2) @ weight  # H B*count O
            return flat.unflatten(1, (-1, count)).transpose(0, 1)

        q = F.linear(x[:, :count], w_q, b_q).unflatten(-1, (heads, -1)).transpose(1, 2)  # B H count Dqk
        q = by_head(q, w_k.unflatten(0, (heads, -1))).flatten(1, 2)  # B H*count E
        mixed = (self.weights(q, x, sizes) @ x).unflatten(1, (heads, count))  # B H count E
        out = by_head(mixed, w_v.unflatten(0, (heads, -1)).mT)  # B H count Dv
        return out if b_v is None else out + b_v.view(heads, 1, -1)

    def _is_faster_plain(self, q: Tensor, k: Tensor) -> bool:
        """Whether padding to one width costs more than it saves: on a CPU whose cache holds the maps."""
        if self.qk_dim == self.v_dim or q.device.type != "cpu" or _is_traced():
            return False
        return q.shape[:-1].numel() * k.shape[-2] <= _CACHED

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, sizes: Tensor | None) -> Tensor:
        # The fast kernels need Dqk = Dv. Zero channels change neither q k^T nor the first Dv channels
        # of the result, and padding costs far less than falling back to the slow kernel. CUDA's need rows
        # that begin at multiples of 16 bytes, too, and fail instead of falling back.
        width = max(self.qk_dim, self.v_dim)
        width += -width % _ALIGNED if q.is_cuda else 0
        q, k, v = (
            F.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else _aligned(x) for x in (q, k, v)
        )
        mask = None if sizes is None else _log(sizes, q.ndim)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)[..., : self.v_dim]


def _is_traced() -> bool:
    """Whether this pass is recorded for an export or a compiler, which know the plainest operators best."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


Placed = tuple[Tensor, Tensor]  # sizes of tokens B N, and which token of the image each has the place of B N


def sizes_and_places(sizes: Tensor | Placed | None) -> tuple[Tensor | None, Tensor | None]:
    """Sizes of tokens and, where they come with them, places."""
    return sizes if isinstance(sizes, tuple) else (sizes, None)


def first_sizes(sizes: Tensor | Placed | None, count: int | None) -> Tensor | Placed | None:
    """Those of the first tokens, or of all."""
    if sizes is None or count is None:
        return sizes
    return (sizes[0][:, :count], sizes[1][:, :count]) if isinstance(sizes, tuple) else sizes[:, :count]


def by_distance(table: Tensor, grid: tuple[int, int], prefix: int, places: Tensor | None = None) -> Tensor:
    """What a `position_bias` adds to the scores, H N N; its last three numbers are for prefix tokens.

    Of tokens with `places` B N it is B H N N.
    """

    def offsets(side: int) -> Tensor:
        places = torch.arange(side, device=table.device)
        return places[:, None] - places + side - 1

    (down, across), last = map(offsets, grid), table.shape[1] - 1
    index = down[:, None, :, None] * (2 * grid[1] - 1) + across[:, None]
    index = F.pad(index.flatten(2).flatten(0, 1), (prefix, 0), value=last - 1)  # P N
    index = F.pad(index, (0, 0, prefix, 0), value=last - 2)  # N N
    index[:prefix, :prefix] = last
    if places is None:
        return table[:, index]
    return table[:, index[places[:, :, None], places[:, None]]].transpose(0, 1)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax of scores that nothing else reads. It overwrites them where it can, as they outgrow caches."""
    if torch.is_grad_enabled() or torch.is_autocast_enabled(scores.device.type):
        return scores.softmax(dim=-1)
    return torch.softmax(scores, dim=-1, out=scores)


def _log(sizes: Tensor, axes: int) -> Tensor:
    """What sizes add to scores of so many axes, for every head and query alike: B N -> B 1 N or B 1 1 N."""
    return sizes.log()[:, None] if axes == 3 else sizes.log()[:, None, None]


_ALIGNED = 8  # channels
_CACHED = 2**20  # numbers of attention maps


def _aligned(x: Tensor) -> Tensor:
    """The same tensor, copied if it lies on a GPU and one of its rows begins where no kernel can read it."""
    starts = (x.storage_offset(), *x.stride()[:-1]) if x.is_cuda else ()
    return x.contiguous() if any(start % _ALIGNED for start in starts) else x


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module does what its weights say and nothing else.

    Not so where it was replaced or wrapped (LoRA, quantisation, a parametrisation), or has hooks: it must be
    called then, as its weights alone would leave out what was added.
    """
    if type(module) is not nn.Linear or hasattr(module.weight, "__tensor_flatten__"):  # as of torchao
        return False
    before, after = module._forward_pre_hooks, module._forward_hooks
    return not any((before, after, module._backward_pre_hooks, module._backward_hooks))


class Mlp(nn.Module):
    """fc2(act(fc1(x))) with F hidden neurons: B N E -> B N E.

    Where `gated`, `fc1` has two rows for a neuron, first those of all gates: it is act(gate) times the other.
    """

    def __init__(self, arch: Architecture, width: int, neurons: int, gated: bool, norm: bool) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = nn.Linear(width, neurons * (2 if gated else 1))
        self.act = _ACTIVATIONS[arch.activation]()
        self.norm = _norm(arch, neurons) if norm else nn.Identity()
        self.fc2 = nn.Linear(neurons, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            return self.fc2(self.norm(self.act(gate) * x))
        return self.fc2(self.norm(self.act(x)))


class LayerScale(nn.Module):
    """Multiplies each of the E channels by a learned factor."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(arch.embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Merge(nn.Module):
    """Merges `count` patch tokens into the patch tokens most like them (ToMe, Bolya et al. 2023).

    The patch tokens are split by turns. Each in an odd place has one nearest token in an even place; the
    `count` nearest pairs become one token each, in the even place: the mean of both weighted by their sizes.
    All others stay as they are, in their order. Prefix tokens never merge.

    [ours, each measured to do less damage]: how near two tokens are is told by the cosine of the residual
    stream, as the next norm sees it, and not by keys; what the class token attends to counts as farther
    apart; and the order of tokens stays that of the image.

    What looks alike ties, and two runtimes round differently: tokens count as a little farther apart with
    their place, by far more than rounding changes it (`STEP`), so that of equal ones the first is taken.
    """

    def __init__(self, arch: Architecture, count: int) -> None:
        super().__init__()
        self.prefix, self.count = len(arch.prefix_names), count
        self.keeps_places = arch.rope or arch.position_bias
        self.norm = _NORMS[arch.norm](arch.embed_dim, eps=arch.norm_eps, elementwise_affine=False)

    def pairs(self, x: Tensor, read: Tensor | None) -> tuple[Tensor, Tensor]:
        """Which tokens stay, which merge, and into which.

        From tokens B N E and how much each is read B N: the places of all tokens, B N, those that stay in
        order first and the `count` that merge last; and the places these merge into, B count.
        """
        metric = self.norm(x)[:, self.prefix :]  # B P E, of length sqrt(E)
        odd, even = metric[:, 1::2], metric[:, ::2]
        # few and large operators, because each of them costs time: 1 - cosine is one
        apart = torch.baddbmm(x.new_ones(1), odd, even.transpose(-2, -1), alpha=-1 / x.shape[-1])
        steps = torch.linspace(0, STEP * even.shape[1], even.shape[1] + 1, device=x.device, dtype=x.dtype)
        if read is None:
            apart = apart + steps[:-1]  # B odd even
        else:
            weight = merge_weight(read[:, self.prefix :])
            apart = torch.addcmul(steps[:-1], apart * weight[:, 1::2, None], weight[:, None, ::2])
        nearest, onto = apart.min(dim=-1)  # B odd
        gone = (nearest + steps[: nearest.shape[1]]).topk(self.count, largest=False, sorted=False).indices
        batch, tokens, _ = x.shape
        places = torch.arange(tokens + self.count, device=x.device).expand(batch, -1)
        last = places[:, :tokens].scatter(1, 2 * gone + (self.prefix + 1), places[:, tokens:])
        return last.argsort(dim=-1), 2 * onto.gather(1, gone) + self.prefix

    def places(self, x: Tensor, read: Tensor | None) -> Tensor:
        """The place that each token B N has after merging, B N: tokens that merge share one."""
        order, onto = self.pairs(x, read)
        place = order.argsort(dim=-1)  # of the tokens that stay
        return place.scatter(1, order[:, -self.count :], place.gather(1, onto))

    def forward(
        self, x: Tensor, sizes: Tensor | Placed | None, read: Tensor | None
    ) -> tuple[Tensor, Tensor | Placed]:
        """Tokens B N E, their sizes B N or None and how much each is read -> B N-count E and B N-count."""
        order, onto = self.pairs(x, read)
        (sizes, places), (batch, tokens, _) = sizes_and_places(sizes), x.shape
        # rows of one matrix, because gathering whole rows is the fastest
        rows = (order + torch.arange(batch, device=x.device)[:, None] * tokens).flatten()
        moved = x.flatten(0, 1).index_select(0, rows).unflatten(0, (batch, -1))  # B N E
        stay, gone = moved[:, : -self.count], moved[:, -self.count :]
        counts = torch.ones_like(order, dtype=x.dtype) if sizes is None else sizes.gather(1, order)
        own, theirs = counts[:, : -self.count], counts[:, -self.count :]
        into = (order[:, : -self.count, None] == onto[:, None]) * theirs[:, None]  # B N-count count
        total = own + into.sum(dim=-1)
        merged = torch.baddbmm(stay * (own / total)[..., None], into / total[..., None], gone)
        if not self.keeps_places:
            return merged, total
        stayed = order[:, : -self.count]
        return merged, (total, stayed if places is None else places.gather(1, stayed))


def spread(x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Tokens B N E for the tokens that they stand for, B N0 E; `places` as blocks give them, in order."""
    for place in reversed(places):
        x = x.gather(1, place[..., None].expand(-1, -1, x.shape[-1]))
    return x


STEP = 2e-5  # rounding changes distances by some 1e-6


def merge_weight(read: Tensor) -> Tensor:
    """How much the distance of a token counts: from 0.3 to 1, more where it is read more than the others."""
    return (read * (read.shape[-1] / 3)).clamp(0.01, 1.0) ** 0.25


class Block(nn.Module):
    """Pre-norm transformer block: attention, then MLP, each added to the residual stream.

    Tokens merge between the two. A half that is absent has no modules.
    """

    def __init__(self, arch: Architecture, widths: BlockWidths) -> None:
        super().__init__()

        def scale() -> nn.Module:
            return LayerScale(arch) if arch.layer_scale else nn.Identity()

        self.attn: Attention | None = None
        self.merge: Merge | None = None
        self.mlp: Mlp | None = None
        if widths.heads:
            self.norm1, self.attn, self.ls1 = _norm(arch, arch.embed_dim), Attention(arch, widths), scale()
        if widths.merge:
            self.merge = Merge(arch, widths.merge)
        if widths.mlp:
            self.norm2, self.ls2 = _norm(arch, arch.embed_dim), scale()
            self.mlp = Mlp(arch, arch.embed_dim, widths.mlp, arch.gated, arch.mlp_norm)

    def forward(
        self,
        x: Tensor,
        sizes: Tensor | Placed | None = None,
        count: int | None = None,
        places: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | Placed | None]:
        """Tokens B N E and sizes B N -> the same behind the block: the first `count` tokens, or all.

        Where tokens merge, `places` is given the place that each token has behind the block, B N.
        """
        x, sizes = self.attend(x, sizes, count, places)
        return (x if self.mlp is None else x + self.ls2(self.mlp(self.norm2(x)))), sizes

    def attend(
        self,
        x: Tensor,
        sizes: Tensor | Placed | None = None,
        count: int | None = None,
        places: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | Placed | None]:
        """The first half: attention, and merging behind it."""
        read = None
        if self.attn is not None:
            added, read = self.attn(self.norm1(x), sizes, count)
            x = x[:, :count] + self.ls1(added)
        if self.merge is not None:
            if places is not None:
                places.append(self.merge.places(x, read))
            x, sizes = self.merge(x, sizes, read)
        return x[:, :count], first_sizes(sizes, count)


class AttentionPool(nn.Module):
    """A learned query attends to the tokens, then an MLP (SigLIP's MAP head): B N E -> B pool_width."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        width, self.heads = arch.pool_width, arch.pool_heads
        self.scale = (width // self.heads) ** -0.5
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q, self.kv = nn.Linear(width, width), nn.Linear(arch.embed_dim, 2 * width)
        self.proj, self.norm = nn.Linear(width, width), _norm(arch, width)
        self.mlp = Mlp(arch, width, arch.pool_mlp, gated=False, norm=False)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        rows = (self.q(self.latent), *self.kv(x).chunk(2, dim=-1))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in rows)  # q 1 H 1 D
        scores = (q * self.scale) @ k.transpose(-2, -1)  # B H 1 N
        scores = scores if sizes is None else scores + _log(sizes, 4)
        x = self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(1))
        return x + self.mlp(self.norm(x))


class ViT(nn.Module):
    """A Vision Transformer with the given `Architecture`: images B C H W -> logits B num_classes."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        prefix, patches = len(arch.prefix_names), arch.grid[0] * arch.grid[1]
        embedded = patches + (prefix if arch.pos_embed_prefix else 0)

        def token(count: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(1, count, arch.embed_dim))

        self.cls_token = token(1) if arch.class_token else None
        self.dist_token = token(1) if arch.distilled else None
        self.reg_token = token(arch.registers) if arch.registers else None
        self.pos_embed = token(embedded)
        self.patch_embed = PatchEmbed(arch)
        self.norm_pre = _norm(arch, arch.embed_dim) if arch.pre_norm else nn.Identity()
        blocks = nn.ModuleList(Block(arch, widths) for widths in arch.blocks)
        self.blocks: Sequence[Block] = blocks  # type: ignore[assignment]  # ModuleList yields Module
        before = arch.norm_before_pool
        self.norm = _norm(arch, arch.embed_dim) if before and arch.final_norm else nn.Identity()
        self.attn_pool = AttentionPool(arch) if arch.pool == "attention" else None
        self.fc_norm = nn.Identity() if before else _norm(arch, arch.embed_dim)

        def head() -> nn.Module:
            return nn.Linear(arch.feature_dim, arch.num_classes) if arch.num_classes else nn.Identity()

        self.head = head()
        self.head_dist = head() if arch.distilled else None

    def init_weights(self) -> None:
        """Initialise the weights for training from scratch, as timm does: truncated normal, std 0.02."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)

    def embed(self, images: Tensor) -> Tensor:
        """Embed images B C H W as the tokens that enter the first block, B N E.

        Raises:
            ValueError: the images do not have the model's image size.
        """
        if tuple(images.shape[-2:]) != self.arch.image_size:
            raise ValueError(
                f"this model takes images of {self.arch.image_size} pixels, got {tuple(images.shape[-2:])}"
            )
        x = self.patch_embed(images)
        if not self.arch.pos_embed_prefix:
            x = x + self.pos_embed
        prefix = (self.cls_token, self.dist_token, self.reg_token)
        x = torch.cat([*(t.expand(x.shape[0], -1, -1) for t in prefix if t is not None), x], dim=1)
        return self.norm_pre(x + self.pos_embed if self.arch.pos_embed_prefix else x)

    def classify(self, x: Tensor, sizes: Tensor | Placed | None = None) -> Tensor:
        """Logits B num_classes from the output of the last block, B N E (with two heads, their mean).

        Where patches are pooled, a token of `sizes` B N counts for all the patches it stands for.
        """
        x = self.norm(x)
        if self.head_dist is not None:
            return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2
        return self.head(self.fc_norm(self._pooled(x, sizes_and_places(sizes)[0])))

    def _pooled(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """The normed tokens B N E as one vector of an image: B feature_dim."""
        if self.arch.pool == "token":
            return x[:, 0]
        begin = 0 if self.arch.pool_prefix else len(self.arch.prefix_names)
        tokens, sizes = self._behind(x, begin), None if sizes is None else sizes[:, begin:]
        if self.attn_pool is not None:
            return self.attn_pool(tokens, sizes)
        mean = self._mean(tokens, sizes)
        return torch.cat([x[:, 0], mean], dim=-1) if self.arch.pool == "both" else mean

    def _behind(self, x: Tensor, begin: int) -> Tensor:
        """The tokens B N E without the first ones."""
        return x[:, begin:]

    def _mean(self, tokens: Tensor, sizes: Tensor | None) -> Tensor:
        """The mean B E of tokens B N E, each of which counts for all the patches it stands for."""
        if sizes is None:
            return tokens.mean(dim=1)
        return (tokens * sizes[..., None]).sum(dim=1) / sizes.sum(dim=1, keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        x, sizes = self.embed(images), None
        *before, last = self.blocks
        for block in before:
            x, sizes = block(x, sizes)
        count = self.arch.computed_tokens if self.arch.skip_unread else None
        return self.classify(*last(x, sizes, count))

    def forward_features(self, images: Tensor) -> Tensor:
        """The tokens behind the last norm, B N E: prefix tokens first, then one for each patch.

        Patches whose tokens have merged all have the token that they became. All tokens are computed, with
        `skip_unread` too. A model that normalises after pooling has no norm here.
        """
        x, sizes = self.embed(images), None
        places: list[Tensor] = []
        for block in self.blocks:
            x, sizes = block(x, sizes, places=places)
        return spread(self.norm(x), places)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """Compute attention as plain matrix products inside the `with`, then restore the setting."""
        modules = [module for module in self.modules() if isinstance(module, Attention)]
        before = [module.fused for module in modules]
        try:
            for module in modules:
                module.fused = False
            yield
        finally:
            for module, fused in zip(modules, before, strict=True):
                module.fused = fused
