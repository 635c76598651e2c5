"""All pruning methods by name."""

from __future__ import annotations

from pruning.criteria import CRITERIA, Criterion
from pruning.methods.folded import Folded
from pruning.methods.gohsp import Gohsp
from pruning.methods.method import Method
from pruning.methods.selection import Selection
from pruning.methods.spectral import Spectral
from pruning.methods.tokens import Tokens
from pruning.projection import AffineFolding, CorpOptions, MeanShift, VbpOptions, corp_scores, vbp_scores

VBP = Criterion(
    vbp_scores,
    VbpOptions,
    "VBP",
    "Removes the MLP neurons whose activations vary least, of all blocks together, and adds what each "
    "contributed on average to the bias behind it. Prunes MLP neurons only, without training.",
    ranks=("mlp",),
)
CORP = Criterion(
    corp_scores,
    CorpOptions,
    "CORP",
    "Removes the query-key pairs and MLP neurons that contribute least, predicts what they did from those "
    "that stay (ridge regression), and folds the prediction into the weights, without training.",
    ranks=("qk", "mlp"),
)

METHODS: dict[str, Method] = {
    **{name: Selection(criterion) for name, criterion in CRITERIA.items()},
    "spectral": Spectral(),
    "gohsp": Gohsp(),
    "tokens": Tokens(),
    "vbp": Folded(VBP, folding=lambda _: MeanShift()),
    "corp": Folded(CORP, folding=lambda options: AffineFolding(options.ridge)),
}
