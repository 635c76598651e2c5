"""The Attention page's merged patches: which patches of the image have become one token."""

from __future__ import annotations

import streamlit as st

from app.parts import merged_patches, pictures
from app.views.attention.view import AttentionView


def show(view: AttentionView, block: int) -> None:
    """The image behind a block, and as a film behind each; nothing for a model that does not merge."""
    arch = view.arch
    if not arch.merges:
        return
    behind = view.trace.members[1:]
    with st.container(key="merged"):
        st.subheader("Merged patches", anchor=False)
        picture, beside = st.columns([1, 2], gap="small")
        with picture:
            shown = pictures.merged_picture(view.picture.draw(), behind[block], arch)
            st.image(pictures.data_uri(shown), alt=f"merged patches after block {block}, {view.image.name}")
        with beside:
            merged_patches.film(view.picture.photo, behind, arch, block, _show_block)
            st.caption(
                f"{merged_patches.LEGEND} {merged_patches.count(arch, block)} "
                "Click a picture to choose its block."
            )


def _show_block(block: int) -> None:
    st.session_state["block"] = block
