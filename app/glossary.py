"""The terms of this field that the pages use, one sentence each: what stands behind their question marks.

`docs/glossary.md` lists the same sentences; a test holds the two to each other.
"""

from __future__ import annotations

from types import MappingProxyType

from app.drawings import data_uri

TERMS = MappingProxyType(
    {
        "Token": "A vector that stands for one patch of the image, or for the class; every "
        "block reads and rewrites all of them.",
        "Patch": "A small square of the image, 16 × 16 pixels for instance, which becomes one token.",
        "Class token": "An extra token that belongs to no patch; in many models the prediction is "
        "read from it after the last block.",
        "Block": "One layer of a Vision Transformer: attention mixes tokens, then an MLP works"
        " on each token by itself.",
        "Head": "One of the parts that attention consists of, each with a map of its own of "
        "where tokens look.",
        "Query-key pair": "One channel of a head's queries with the same channel of its keys; their "
        "products over all pairs decide where the head looks, so a pair is removed as"
        " a whole.",
        "Value channel": "One channel of what a head carries from the tokens it looks at to the token "
        "that looks.",
        "MLP neuron": "One hidden unit of the MLP of a block, with the weights that lead to it and "
        "away from it.",
        "Residual stream": "The vector of a token as it passes through the model: every block adds to "
        "it, so that a channel of it can only be removed from all blocks at once.",
        "GMACs": "Billions of multiply-accumulate operations for one image, the usual measure "
        "of compute; 1 GMAC is about 2 GFLOPs.",
        "Attention map": "How much of a token's attention goes to each patch; over all patches and "
        "prefix tokens it sums to 1.",
        "Rollout": "Attention followed through all blocks by multiplying their matrices, with "
        "the residual stream counted as half of each step.",
        "Class relevance": "How much each patch speaks for a class: attention weighted by its gradient "
        "and accumulated over the blocks.",
        "Criterion": "A rule that gives every part of a model a score, so that the lowest can be removed.",
        "Structured pruning": "Removing whole heads, channels or neurons, so that the matrices become "
        "smaller and any hardware becomes faster.",
        "Budget": "What the smaller model may cost, in GMACs, parameters or milliseconds; the "
        "widths of all blocks are then chosen to lose as little as possible.",
        "Sensitivity": "How far the predictions move when one structure of one block is made narrower.",
        "Calibration images": "Images on which importance is measured before pruning; they are never among "
        "the test images.",
        "Calibration error": "How far a model's confidence is from how often it is right, on average over "
        "bins of confidence (expected calibration error).",
        "Recovery": "Fine-tuning the smaller model with the dense one as its teacher.",
        "Dense model": "The model before anything is removed from it.",
        "Top-1": "The share of test images for which the likeliest class is the right one.",
        "k-NN top-1": "The share of test images that the 20 nearest images of a gallery, by the pooled "
        "features, vote into the right class: what the features of a model without a classifier are worth.",
        "CKA": "How alike two sets of features are, whatever their rotation and scale (linear centred kernel "
        "alignment); 1 means that they tell the same.",
        "95 % interval": "The range in which the true value lies with 95 % confidence, given how many "
        "images were tested.",
        "Agreement": "The share of test images for which both models predict the same class, right or wrong.",
        "Attention preservation": "The cosine between a head's maps before and after pruning; 1 means that "
        "it looks exactly where it did before.",
        "Pareto front": "The models for which no other one is both cheaper and more accurate.",
        "Bundle": "A folder with the smaller model that loads with torch alone: weights, "
        "architecture, preprocessing and code.",
    }
)


def meaning(*terms: str) -> str:
    """What some terms mean, as a help text in Markdown: a drawing and a sentence each."""
    return "\n\n".join(f"![{term}]({data_uri(term)})\n\n**{term}**: {TERMS[term]}" for term in terms)
