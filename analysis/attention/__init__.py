"""Attention maps: capture, rollout and relevance, scores against object masks, pictures."""

from analysis.attention import pictures, relevance, trace
from analysis.attention.capture import BlockActivations, capture
from analysis.attention.maps import (
    AttentionMaps,
    TokenMaps,
    attention_maps,
    default_row,
    maps_of,
    rollout_maps,
    rollout_of,
    row_readings,
    token_maps,
)
from analysis.attention.merged import FILM_GAP, film, film_columns, members_behind, merged_picture
from analysis.attention.objects import (
    ObjectAttention,
    mask_seen,
    mass_on_object,
    object_attention,
    patch_cover,
    points_at_object,
    with_masks,
)
from analysis.attention.pictures import (
    PALETTES,
    Map,
    Style,
    colour,
    covered,
    data_uri,
    enlarge,
    overlay,
    sheet,
    stretch,
    thumbnail,
    tiled,
)
from analysis.attention.preservation import preservation, share_moved
from analysis.attention.relevance import Gradients, classifiers_of, readout
from analysis.attention.rollout import FUSIONS
from analysis.attention.rollout_objects import RolloutScore, rollout_on_object
from analysis.attention.tokens import Members
from analysis.attention.trace import Trace, mean_of_patches, one_token, token_names

__all__ = [
    "FILM_GAP",
    "FUSIONS",
    "PALETTES",
    "AttentionMaps",
    "BlockActivations",
    "Gradients",
    "Map",
    "Members",
    "ObjectAttention",
    "RolloutScore",
    "Style",
    "TokenMaps",
    "Trace",
    "attention_maps",
    "capture",
    "classifiers_of",
    "colour",
    "covered",
    "data_uri",
    "default_row",
    "enlarge",
    "film",
    "film_columns",
    "maps_of",
    "mask_seen",
    "mass_on_object",
    "mean_of_patches",
    "members_behind",
    "merged_picture",
    "object_attention",
    "one_token",
    "overlay",
    "patch_cover",
    "pictures",
    "points_at_object",
    "preservation",
    "readout",
    "relevance",
    "rollout_maps",
    "rollout_of",
    "rollout_on_object",
    "row_readings",
    "share_moved",
    "sheet",
    "stretch",
    "thumbnail",
    "tiled",
    "token_maps",
    "token_names",
    "trace",
    "with_masks",
]
