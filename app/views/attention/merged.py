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
    st.subheader("Merged patches", anchor=False)
    picture, words = st.columns([1, 2], gap="small")
    with picture:
        photo = view.picture.draw()
        shown = pictures.merged_picture(photo, behind[block], arch)
        st.image(pictures.data_uri(shown), alt=f"merged patches behind block {block}, {view.image.name}")
    with words:
        st.caption(f"{merged_patches.LEGEND} {merged_patches.count(arch, block)}")
        st.caption("The block is chosen by the slider above, or by a click on the film below.")
    merged_patches.film(view.picture.photo, behind, arch, block, _show_block)


def _show_block(block: int) -> None:
    st.session_state["block"] = block
