"""Which cases each target is tried with."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from tests.fuzz.cases import Case, Content, Special, Valid
from tests.fuzz.strategies.arguments import words
from tests.fuzz.strategies.images import image_file
from tests.fuzz.strategies.json_files import json_file
from tests.fuzz.strategies.raw_bytes import altered, specials
from tests.fuzz.strategies.weights import checkpoint, safetensors
from tests.fuzz.strategies.zips import zip_file

Cases = st.SearchStrategy[Case]
_RUNS = ("prune", "recover", "bench", "survey", "heads", "trial", "open")


def _file(name: str, content: bytes) -> st.SearchStrategy[Content]:
    """A valid file in a way that suits its format."""
    if name.endswith((".json", ".jsonl")):
        return json_file(content)
    if name.endswith(".safetensors"):
        return safetensors(content)
    if name.endswith((".pt", ".pth")):
        return checkpoint(content)
    return zip_file(content) if name.endswith(".zip") else altered(content)


@st.composite
def _some(draw: st.DrawFn, target: str, valid: Valid, names: list[str], words: tuple[str, ...]) -> Case:
    """One or two of these files edited."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    return Case(target, {name: draw(_file(name, valid[name])) for name in chosen}, words)


def _weights(valid: Valid) -> Cases:
    names = ("weights.pth", "old.pt", "weights.safetensors", "weights.npz")
    files = {name: _file(name, valid[name]) for name in names}
    one = lambda name: files[name].map(lambda content: Case("weights", {name: content}, (name,)))
    return st.one_of(*map(one, files))


def _bundle(valid: Valid) -> Cases:
    names = [name for name in valid if name.startswith("tiny/") and name.endswith((".json", ".safetensors"))]
    names += ["tiny/plan.json"]
    known = Valid(valid | {"tiny/plan.json": valid["runs/prune/bundle/plan.json"]})
    return _some("bundle", known, names, ())


def _transformers(valid: Valid) -> Cases:
    return _some("transformers", valid, [name for name in valid if name.startswith("transformers/")], ())


def _in_runs(
    target: str, endings: tuple[str, ...], kinds: tuple[str, ...] = _RUNS
) -> Callable[[Valid], Cases]:
    def cases(valid: Valid) -> Cases:
        def of(kind: str) -> Cases:
            names = [name for name in valid if name.startswith(f"runs/{kind}/") and name.endswith(endings)]
            word = kind if target == "results" else f"runs/{kind}"
            return _some(target, valid, names, (word,))

        return st.one_of(*map(of, kinds))

    return cases


def _image(valid: Valid) -> Cases:
    return image_file().map(lambda content: Case("image", {"image": content}, ("image",)))


def _images(valid: Valid) -> Cases:
    splits = st.sampled_from(["all", "calibration", "test", "train", "heldout"])
    packed = st.tuples(zip_file(valid["set.zip"]), splits).map(
        lambda found: Case("images", {"set.zip": found[0]}, ("set.zip", found[1]))
    )
    cifar = st.tuples(zip_file(valid["set.zip"]), st.sampled_from(["train", "test"]), splits).map(
        lambda found: Case(
            "images", {f"cifar/cifar10-jpeg-{found[1]}.zip": found[0]}, ("cifar10:cifar", found[2])
        )
    )
    place = st.sampled_from(
        ["set/circle/0.jpg", "set/x/0.jpg", "set/circle/deep/9.png", "set/9.png", "set/circle/x\n"]
    )
    content = st.one_of(image_file(), specials)
    folder = st.tuples(place, content, splits).map(
        lambda found: Case("images", {found[0]: found[1]}, ("set", found[2]))
    )
    rows = st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=4)
    table = st.one_of(
        altered(valid["tabled/labels.csv"]),
        rows.map(lambda found: "\n".join(["file,label", *map(",".join, found)]).encode(errors="replace")),
    )
    tabled = st.tuples(table, st.sampled_from(["tabled", "tabled/labels.csv"]), splits).map(
        lambda found: Case("images", {"tabled/labels.csv": found[0]}, found[1:])
    )
    parquet = st.tuples(altered(valid["set.parquet"]), splits).map(
        lambda found: Case("images", {"set.parquet": found[0]}, ("set.parquet", found[1]))
    )
    return st.one_of(packed, cifar, folder, tabled, parquet)


def _command(valid: Valid) -> Cases:
    odd = {"circle": Special("link", "circle"), "pipe": Special("pipe")}
    return words().map(lambda found: Case("command", odd, found))


def _device(valid: Valid) -> Cases:
    return _some("device", valid, ["device.json"], ("device.json",))


CAMPAIGN: dict[str, Callable[[Valid], Cases]] = {
    "weights": _weights,
    "bundle": _bundle,
    "transformers": _transformers,
    "run_folder": _in_runs("run_folder", ("job.json", "status.json", "log.txt")),
    "metrics": _in_runs("metrics", ("metrics.jsonl",), ("recover", "open")),
    "finished": _in_runs("finished", (".json",), ("prune", "recover")),
    "results": _in_runs(
        "results",
        ("timings.json", "heads.json", "survey.json", "trial.json"),
        ("bench", "survey", "heads", "trial"),
    ),
    "device": _device,
    "resumed": _in_runs("resumed", (".pt", ".json", ".jsonl"), ("open",)),
    "image": _image,
    "images": _images,
    "command": _command,
}
