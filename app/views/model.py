"""The Model page: what the loaded model is, what it costs, what it sees, and how accurate it is."""

from __future__ import annotations

from html import escape
from pathlib import Path

import streamlit as st

from analysis.measure import cost
from analysis.models import LoadedModel
from analysis.vit import Architecture
from app import wording
from app.glossary import meaning
from app.parts import bars, pictures
from app.progress_bar import progress_bar
from app.state import measured, session

COST_TERMS = "Block", "Query-key pair", "Value channel", "MLP neuron", "Residual stream"
SAMPLES = 7
SIDE = 112  # pixels of a thumbnail


def show() -> None:
    """Draw the page."""
    loaded = session.model()
    st.header(f"Model · {wording.plain(loaded.name)}", anchor=False)
    st.caption(f"Source: {wording.plain(_source(loaded))}")
    _figures(loaded)
    left, right = st.columns([3, 2], gap="large")
    with left:
        _costs(loaded)
    with right:
        anatomy, preprocessing = st.tabs(["Anatomy", "Preprocessing"])
        with anatomy:
            _facts(_anatomy(loaded.model.arch), "anatomy")
        with preprocessing:
            _facts(_preprocessing(loaded), "preprocessing")
    _samples(loaded)


def _source(loaded: LoadedModel) -> str:
    """Where the model comes from; of a file or folder its name, as its place is nobody's concern."""
    kind, _, place = loaded.source.partition(" ")
    return f"{kind} {Path(place).name}" if Path(place).is_absolute() else loaded.source


def _figures(loaded: LoadedModel) -> None:
    total, baseline = cost(loaded.model.arch), measured.baseline()
    with st.container(key="figures"):
        columns = st.columns(4, vertical_alignment="top" if baseline else "bottom")
    columns[0].metric("Parameters", wording.count(total.params))
    columns[1].metric("Compute per image", wording.gmacs(total.gmacs), help=meaning("GMACs"))
    columns[2].metric("Size, float32", wording.megabytes(total.bytes))
    with columns[3]:
        if baseline is not None:
            st.metric(
                f"{wording.accuracy_name(baseline)} accuracy",
                wording.percent(baseline.top1),
                wording.interval(baseline),
                delta_color="off",
                delta_arrow="off",
                help="Below: the 95 % interval (Wilson), and the number of images it was measured on. "
                f"{wording.accuracy_meaning(baseline)}",
            )
        elif session.choice().data is not None:
            _measure()
        else:
            st.caption("Choose images in the sidebar to measure the accuracy.")


def _measure() -> None:
    number = wording.count(session.test_count())
    with st.container(key="baseline", gap="xsmall"):
        if st.button("Measure accuracy", key="measure-baseline", icon=":material/speed:"):
            with progress_bar() as progress:
                measured.baseline(progress)
            st.rerun()
        st.caption(f"on {number} test images")


def _costs(loaded: LoadedModel) -> None:
    st.subheader("Cost by block", anchor=False, help=meaning(*COST_TERMS))
    quantity = st.segmented_control(
        "Quantity",
        ["macs", "params"],
        format_func={"macs": "MACs", "params": "Parameters"}.__getitem__,
        default="macs",
        required=True,
        key="cost-quantity",
        label_visibility="collapsed",
        persist_state="session",
    )
    with st.container(key="cost-bars"):
        st.html(bars.block_costs(cost(loaded.model.arch), quantity))


def _facts(facts: dict[str, str], key: str) -> None:
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    with st.container(key=key):
        st.html(f'<table class="facts">{"".join(rows)}</table>')


_READ = {
    "token": "class token",
    "avg": "mean over patches",
    "both": "class token and mean over patches",
    "attention": "patches, by an attention of its own",
}
_SPECIAL = {
    "gated": "gated MLPs",
    "rope": "rotary positions",
    "position_bias": "a position bias in its scores",
    "qk_norm": "norms of queries and keys",
    "attn_norm": "a norm before the output of attention",
    "mlp_norm": "a norm inside its MLPs",
}


def _anatomy(arch: Architecture) -> dict[str, str]:
    rows, columns = arch.grid
    prefix = ", ".join(arch.prefix_names) or "none"
    special = [words for field, words in _SPECIAL.items() if getattr(arch, field)]
    return {
        "Image": f"{arch.image_size[0]} × {arch.image_size[1]} px (rows × columns)",
        "Patches": f"{rows} × {columns} of {arch.patch_size[0]} × {arch.patch_size[1]} px",
        "Tokens": f"{arch.num_tokens}; prefix: {prefix}",
        "Blocks": str(arch.depth),
        "Heads per block": _span([block.heads for block in arch.blocks]),
        "Query-key width": f"{_span([block.qk for block in arch.blocks])} per head",
        "Value width": f"{_span([block.v for block in arch.blocks])} per head",
        "MLP width": _span([block.mlp for block in arch.blocks]),
        "Embedding width": wording.count(arch.embed_dim),
        ("Classes" if arch.num_classes else "Pooled feature") + " read from": _READ[arch.pool],
    } | ({"Also has": ", ".join(special)} if special else {})


def _span(values: list[int]) -> str:
    low, high = min(values), max(values)
    return wording.count(low) if low == high else f"{wording.count(low)} to {wording.count(high)}"


def _preprocessing(loaded: LoadedModel) -> dict[str, str]:
    preprocess = loaded.preprocess
    shown = ", ".join(preprocess.labels[:4]) + (" …" if len(preprocess.labels) > 4 else "")
    return {
        "Resize": f"{preprocess.interpolation}, {preprocess.crop_mode} crop of {preprocess.crop_pct:.1%}",
        "Mean": ", ".join(f"{value:.3f}" for value in preprocess.mean),
        "Standard deviation": ", ".join(f"{value:.3f}" for value in preprocess.std),
        "Classes": f"{loaded.model.arch.num_classes:,}" + (f": {shown}" if shown else "")
        if loaded.model.arch.num_classes
        else "none: it gives features",
    }


def _samples(loaded: LoadedModel) -> None:
    st.subheader("What it sees", anchor=False)
    if session.choice().data is None:
        st.caption("No images are chosen. Pick a folder or zip of images in the sidebar.")
        return
    few = session.few_images(SAMPLES)
    with st.container(horizontal=True, key="samples"):
        for i in range(len(few)):
            name = few.classes[few.label(i)]
            shown = pictures.thumbnail(few.image(i), loaded.preprocess, SIDE)
            st.image(shown, caption=wording.plain(name), width=SIDE, alt=f"a sample of class {name}")
