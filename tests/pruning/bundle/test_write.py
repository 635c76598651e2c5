from __future__ import annotations

import ast
import errno
import io
import json
import math
import os
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from analysis.data.images import read_image
from analysis.measure.cost import cost
from analysis.measure.paired import change_of_counts
from analysis.models.bundle_files import REQUIRED_FILES
from analysis.models.load import read_bundle
from analysis.models.preprocess import CROP_MODES, INTERPOLATIONS, Preprocess
from analysis.vit import Architecture, ViT
from pruning.bundle import example, layout
from pruning.bundle import write as bundle
from pruning.bundle.card import LOADER
from pruning.bundle.layout import CODE_FILE, EXAMPLE_FILE, is_bundle
from pruning.bundle.model_code import model_code
from pruning.bundle.report import Report
from pruning.bundle.write import write_bundle, zip_bundle
from pruning.cut.plan import Plan
from pruning.cut.shorter import with_architecture, with_merges
from pruning.files import OutputError
from tests.support.bundles import LABELS, PREPROCESS, REPORT, isolated, prune
from tests.support.models import SHORT, TINY, random_images, random_vit


@pytest.fixture
def pruned(tiny: ViT) -> tuple[ViT, Plan]:
    small, plan = prune(tiny)
    assert small.arch.embed_dim < TINY.embed_dim
    assert all(widths.qk != widths.v or index for index, widths in enumerate(small.arch.blocks))
    return small, plan


@pytest.fixture
def save(pruned: tuple[ViT, Plan], tmp_path: Path) -> Callable[..., Path]:
    """Writes the pruned model as a bundle; keywords override what it is written with."""

    def write(folder: Path | None = None, **changes: object) -> Path:
        small, plan = pruned
        arguments = {"model": small, "preprocess": PREPROCESS, "name": "demo", "report": REPORT, "plan": plan}
        return write_bundle(folder or tmp_path / "bundle", **(arguments | changes))  # type: ignore[arg-type]

    return write


def photo(size: tuple[int, int]) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8, generator=generator)
    image = Image.fromarray(noise.numpy())
    ImageDraw.Draw(image).ellipse((2, 3, size[0] // 2, size[1] - 4), fill=(250, 40, 90))
    return image


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_reads_back_bit_equal(save: Callable[..., Path], pruned: tuple[ViT, Plan]) -> None:
    small, plan = pruned
    folder = save()
    loaded = read_bundle(folder)
    assert loaded.model.arch == small.arch
    assert loaded.preprocess == PREPROCESS
    assert not loaded.model.training
    weights = loaded.model.state_dict()
    assert weights.keys() == small.state_dict().keys()
    for name, value in small.state_dict().items():
        assert torch.equal(weights[name], value), name
    assert Plan.from_json((folder / "plan.json").read_text(encoding="utf-8")) == plan
    assert (
        json.loads((folder / "report.json").read_text(encoding="utf-8"))
        == {"version": 4, "model": "demo"} | REPORT
    )
    expected = {*layout.FILES} - {*layout.EXPORTS, *layout.TRANSFORMERS_FILES}
    assert {path.name for path in folder.iterdir()} == expected
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # whoever reads one reads all


def test_no_folders_of_this_machine_travel_with_a_bundle(pruned, tmp_path: Path) -> None:
    model, plan = pruned
    paths = {"model": "/home/me/dense", "weights": "/home/me/w.pth", "calibration": "cifar10:/home/me/c"}
    job = {
        **paths,
        "teacher": "hf-hub:owner/name",
        "data": "/home/me/photos.zip",
        "method": "l1",
        "ratios": {"mlp": 0.5},
        "seed": 0,
    }
    report = {"model": "/home/me/dense", "data": "/home/me/photos.zip", "method": "l1", "job": job}
    report |= {"recovery": {"epochs": 1}}
    folder = write_bundle(tmp_path / "b", model, PREPROCESS, name="dense, l1", report=report, plan=plan)
    told = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert told["model"] == "dense" and told["data"] == "photos.zip"
    assert told["recovery"] == {"epochs": 1}
    kept = {"model": "dense", "weights": "w.pth", "calibration": "cifar10", "data": "photos.zip"}
    assert told["job"] == job | kept
    assert not [path for path in folder.iterdir() if b"/home/me" in path.read_bytes()]


def test_every_kind_of_architecture_survives(variant: ViT, tmp_path: Path) -> None:
    preprocess = Preprocess(variant.arch.image_size)
    write_bundle(tmp_path / "b", variant, preprocess, name="some_vit", report={})
    images = random_images(variant.arch)
    model = read_bundle(tmp_path / "b").model
    torch.testing.assert_close(model.state_dict(), variant.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(model(images), variant(images))
    assert not (tmp_path / "b" / "plan.json").exists()


def test_a_plan_says_nothing_of_merging(save: Callable[..., Path], pruned: tuple[ViT, Plan]) -> None:
    small, _ = pruned
    merging = with_architecture(small, with_merges(small.arch, 2))
    folder = save(model=merging)
    assert read_bundle(folder).model.arch.tokens == merging.arch.tokens


def test_half_precision_is_the_rounded_model(save: Callable[..., Path], pruned: tuple[ViT, Plan]) -> None:
    folder = save(half=True)
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    for name, value in read_bundle(folder).model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, pruned[0].state_dict()[name].half().float()), name


def test_saving_leaves_the_model_untouched(save: Callable[..., Path], pruned: tuple[ViT, Plan]) -> None:
    model = pruned[0].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save(half=True)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("half", [False, True])
def test_loads_in_a_fresh_process_without_this_project(
    save: Callable[..., Path], pruned: tuple[ViT, Plan], tmp_path: Path, half: bool
) -> None:
    folder = save(half=half)
    images = random_images(TINY)
    save_file({"images": images}, tmp_path / "images.safetensors")
    snippet = (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2]
    run = (
        "from safetensors.torch import save_file\n"
        "images = load_file(sys.argv[1])['images']\n"
        "save_file({'logits': model(images).detach()}, sys.argv[2])\n"
    )
    code = snippet.partition("```")[0] + run
    # the snippet leaves closing its file to the interpreter, as people write it
    code = "import warnings; warnings.simplefilter('ignore', ResourceWarning)\n" + code
    isolated(folder, code, str(tmp_path / "images.safetensors"), str(tmp_path / "logits.safetensors"))
    logits = load_file(tmp_path / "logits.safetensors")["logits"]
    model = pruned[0]
    if half:
        model.load_state_dict({name: value.half().float() for name, value in model.state_dict().items()})
    torch.testing.assert_close(logits, model(images).detach(), atol=1e-5, rtol=1e-5)


def test_a_model_that_merges_and_lacks_halves_loads_there_too(tmp_path: Path) -> None:
    model, preprocess = random_vit(SHORT), replace(PREPROCESS, image_size=SHORT.image_size)
    folder = write_bundle(tmp_path / "b", model, preprocess, name="demo", report={}, half=True)
    image = photo((40, 40))
    image.save(tmp_path / "photo.png")
    code = "import example; print(example.classify(example.read(example.Path(sys.argv[1])))[0])\n"
    label, probability = ast.literal_eval(isolated(folder, code, str(tmp_path / "photo.png")))
    loaded = read_bundle(folder)
    with torch.no_grad():
        expected = loaded.model(loaded.preprocess(image)[None]).softmax(dim=-1)[0]
    assert loaded.model.arch == SHORT
    assert label == LABELS[int(expected.argmax())] and probability == pytest.approx(float(expected.max()))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        "Similar patch tokens merge (token merging, Bolya et al. 2023): 2 to 3 behind the attention of "
        "blocks 1 and 2, so that of 9 patch tokens 4 are left. Block 0 has no attention; block 1 has no MLP; "
        "block 3 has neither attention nor MLP." in card
    )


@pytest.mark.parametrize("half", [False, True])
def test_the_example_classifies_as_we_do(save: Callable[..., Path], tmp_path: Path, half: bool) -> None:
    folder = save(half=half)
    image = photo((50, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image.save(tmp_path / "photo.jpg", exif=exif)
    code = "import runpy\nsys.argv = ['', sys.argv[1]]\nsys.path.remove('')\n"  # as under `python -P`
    code += "runpy.run_path('example.py', run_name='__main__')"
    lines = isolated(folder, code, str(tmp_path / "photo.jpg"))
    loaded = read_bundle(folder)
    pixels = loaded.preprocess(read_image(tmp_path / "photo.jpg"))
    with torch.inference_mode():
        best = loaded.model(pixels[None]).softmax(dim=-1)[0].topk(5)
    told = [re.fullmatch(r" *(\d+\.\d) %  (.+)", line) for line in lines.splitlines()]
    assert [line and line[2] for line in told] == [LABELS[index] for index in best.indices]
    shares = [float(line[1]) if line else math.nan for line in told]
    assert shares == pytest.approx([100 * value for value in best.values.tolist()], abs=0.051)


def test_the_example_explains_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    for arguments, message in (
        ([], "usage: python example.py photo.jpg"),
        ([str(tmp_path / "text.jpg")], "text.jpg cannot be read as an image"),
        ([str(tmp_path / "absent.jpg")], "absent.jpg cannot be read as an image"),
    ):
        monkeypatch.setattr(sys, "argv", ["example.py", *arguments])
        assert example.main() == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("size", [(16, 16), (16, 24), (33, 17)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_the_examples_preprocessing_is_timms(
    interpolation: str, crop_mode: str, size: tuple[int, int], crop_pct: float
) -> None:
    preprocess = Preprocess(
        size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), interpolation, crop_pct, crop_mode
    )
    settings = json.loads(preprocess.to_json())
    for photo_size in ((50, 40), (37, 91), (16, 16), (11, 7), (200, 9)):
        image = photo(photo_size)
        assert torch.equal(example.preprocess(image, settings), preprocess(image)), photo_size


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"])
def test_the_example_reads_images_as_we_do(mode: str, tmp_path: Path) -> None:
    image = photo((20, 14)).convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    image.save(path)
    assert example.read(path).tobytes() == read_image(path).tobytes()


def test_a_folder_that_holds_something_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert is_bundle(save(folder))  # an empty one is taken
    before = contents(folder)
    with pytest.raises(ValueError, match=r"already contains README\.md"):
        save(folder)
    assert contents(folder) == before
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"contains thesis\.txt, which is not part of a bundle"):
        save(folder, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("of something else")
    with pytest.raises(ValueError, match="is not a bundle, so it is not overwritten"):
        save(other, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]


def test_a_place_that_cannot_be_a_folder_is_refused(save: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="is a file; choose a folder that does not exist yet"):
        save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"because .*file is a file; choose another folder"):
        save(tmp_path / "file" / "sub" / "bundle")
    with pytest.raises(OutputError, match="could not be written: File name too long"):
        save(tmp_path / "new" / ("x" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_place_without_permission_is_one_sentence(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write everywhere, and tests may run as root
    with pytest.raises(OutputError, match="could not be written: Permission denied; nothing was changed"):
        save(tmp_path / "new" / "bundle")


def test_overwriting_replaces_the_whole_bundle(save: Callable[..., Path], tiny: ViT) -> None:
    folder = save()
    (folder / "model.onnx").write_bytes(b"of the model that was")
    (folder / "__pycache__").mkdir()
    save(folder, model=tiny, plan=None, report={}, overwrite=True)
    assert read_bundle(folder).model.arch == TINY
    assert not (folder / "model.onnx").exists()
    assert not (folder / "plan.json").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("writer", ["save_file", "write_text", "rename"])
def test_a_full_disk_changes_nothing(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, overwrite: bool
) -> None:
    folder = tmp_path / "out" / "deep" / "bundle"
    before = contents(save(folder)) if overwrite else None
    with monkeypatch.context() as patch:
        patch.setattr(bundle if writer == "save_file" else Path, writer, full_disk)
        with pytest.raises(OutputError, match=r"bundle could not be written: No space left on device"):
            save(folder, half=True, overwrite=overwrite)
    if before is None:
        assert list(tmp_path.iterdir()) == []
    else:
        assert contents(folder) == before
        assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_the_old_bundle_comes_back_when_the_new_one_cannot_take_its_place(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save()
    before = contents(folder)
    rename = Path.rename

    def only_the_old_ones(path: Path, target: Path) -> Path:
        return full_disk() if path.suffix == ".part" else rename(path, target)  # type: ignore[func-returns-value, return-value]

    monkeypatch.setattr(Path, "rename", only_the_old_ones)
    with pytest.raises(OutputError, match="No space left on device"):
        save(folder, half=True, overwrite=True)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_disk_that_really_takes_no_more(save: Callable[..., Path], tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are Unix's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"could not be written: .*File too large"):
            save(tmp_path / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("stop")

    monkeypatch.setattr(Path, "write_text", interrupt)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        save()
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_together_is_refused(
    save: Callable[..., Path], tiny: ViT, pruned: tuple[ViT, Plan], tmp_path: Path
) -> None:
    small = pruned[0]
    with pytest.raises(ValueError, match=r"gives images of size \(8, 8\), but the model takes \(16, 24\)"):
        save(preprocess=Preprocess((8, 8)))
    with pytest.raises(ValueError, match="gives 3 channels, but the model takes 1"):
        save(model=random_vit(replace(tiny.arch, in_channels=1)))
    with pytest.raises(ValueError, match="2 labels do not match a model with 10 classes"):
        save(preprocess=replace(PREPROCESS, labels=("a", "b")))
    with pytest.raises(ValueError, match="plan does not belong to this model"):
        save(model=tiny)
    with torch.no_grad():
        small.get_parameter("head.bias")[3] = 1e6
        with pytest.raises(
            ValueError, match=r"head\.bias .* not finite in torch.float16; save it in float32"
        ):
            save(half=True)
        small.get_parameter("head.bias")[3] = float("nan")
        with pytest.raises(
            ValueError, match=r"head\.bias contains values that are not finite in torch.float32$"
        ):
            save()
    assert list(tmp_path.iterdir()) == []


def test_the_card_contains_the_figures(save: Callable[..., Path]) -> None:
    card = (save(name="deit_tiny_patch16_224") / "README.md").read_text(encoding="utf-8")
    head, body = card.removeprefix("---\n").split("---\n", 1)
    assert "library_name: prunescope\n" in head
    assert "- pruned\n" in head
    for part in (
        "# deit_tiny_patch16_224, pruned\n",
        "from `deit_tiny_patch16_224` with the method `snp`",
        "Removed: 25 to 50 % of query-key pairs by block, 25 % of value channels, 10 % of residual channels.",
        "| Parameters | 5.717 M | 3.013 M |",
        "| MACs per image | 1.254 G | 0.6382 G |",
        "| Top-1, before fine-tuning | 78.70 % | 51.00 % |",
        "measured on 300 images",
        "95 % interval (Wilson) of top-1 is 45.36 to 56.61 % after pruning",
        "took 12.3 s",
        "keep the licence of the model that they come from (`deit_tiny_patch16_224`)",
        "python example.py photo.jpg",
        "`B 3 16 24`",
    ):
        assert part in body


def test_the_card_of_a_recovered_model_says_how_it_was_pruned(tiny: ViT, tmp_path: Path) -> None:
    made = Report(method="taylor", job={"ratios": {"mlp": 0.5}, "preset": None})
    assert made.pruning() == {"pruned_by": "taylor", "ratios": {"mlp": 0.5}}
    report = {"method": "recover", "job": {"model": "small"}, "fine_tuned": True} | made.pruning()
    assert Report(method="recover", pruned_by="taylor").pruning() == {"pruned_by": "taylor"}  # once more
    folder = write_bundle(tmp_path / "told", tiny, PREPROCESS, name="x", report=report)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "with the method `taylor`, then fine-tuned with the dense model as teacher.\n" in card
    assert "Removed: 50 % of MLP neurons." in card and "recover`" not in card


def test_the_card_tells_the_paired_change(tiny: ViT, tmp_path: Path) -> None:
    report = {"top1_change": asdict(change_of_counts(40, 12, 650))}
    folder = write_bundle(tmp_path / "told", tiny, PREPROCESS, name="x", report=report)
    said = "top-1 changed by -4.3 points (-6.6 to -2.2), p = 0.00010: chance does not explain the change."
    assert f"Image by image, {said}" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_says_that_unread_tokens_are_left_out(tiny: ViT, tmp_path: Path) -> None:
    less = ViT(replace(tiny.arch, skip_unread=True))
    for model, said in ((tiny, False), (less, True)):
        folder = write_bundle(tmp_path / str(said), model, PREPROCESS, name="x", report={})
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert ("only the tokens that the classifier reads" in card) is said


def test_the_card_leaves_out_what_is_not_known(tiny: ViT, tmp_path: Path) -> None:
    folder = tmp_path / "somewhere" / "vit"
    path = write_bundle(folder, tiny, PREPROCESS, name=str(tmp_path / "mine" / "vit"), report={})
    card = (path / "README.md").read_text(encoding="utf-8")
    assert f"| Parameters |  | {cost(TINY).params / 1e6:.4g} M |" in card
    for absent in ("None", "nan", "Top-1", "interval", "pruned from", str(tmp_path)):
        assert absent not in card
    report: dict[str, object] = {
        "model": "hf-hub:timm/x",
        "method": "l1",
        "job": {"preset": "some-preset", "ratios": {"qk": 0}},
    }
    report |= {
        "images": 20,
        "data": str(tmp_path / "photos"),
        "top1_low_before": 0.5,
        "top1_high_before": 0.75,
    }
    path = write_bundle(tmp_path / "hub", tiny, PREPROCESS, name="demo, l1", report=report)
    card = (path / "README.md").read_text(encoding="utf-8")
    for part in (
        'base_model: "timm/x"\n',
        "# hf-hub:timm/x, pruned\n",
        "Removed: the ratios of the preset `some-preset`.",
        "measured on 20 images of `photos`. The 95 % interval (Wilson) of top-1 is 50.00 to 75.00 % before",
    ):
        assert part in card
    assert str(tmp_path) not in card


def test_the_loader_of_the_card_is_that_of_the_model_file(save: Callable[..., Path]) -> None:
    folder = save()
    assert (folder / "vit.py").read_text(encoding="utf-8") == model_code()
    assert "import analysis" not in model_code() and "from analysis" not in model_code()
    lines = (folder / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].splitlines()[:4]
    assert all(f"    {line}\n" in (folder / "vit.py").read_text(encoding="utf-8") for line in lines)


def test_the_zip_is_deterministic_and_holds_a_bundle(
    save: Callable[..., Path], tmp_path: Path, pruned: tuple[ViT, Plan]
) -> None:
    first = zip_bundle(save(tmp_path / "one" / "b"))
    (tmp_path / "one" / "b" / "notes.txt").write_text("not part of it")
    assert first == zip_bundle(save(tmp_path / "two" / "b")) == zip_bundle(tmp_path / "one" / "b")
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert all(name.startswith("b/") for name in archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    model = read_bundle(tmp_path / "unpacked" / "b").model
    torch.testing.assert_close(model.state_dict(), pruned[0].state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"is not a bundle: it needs architecture\.json"):
        zip_bundle(tmp_path)


def test_saved_text_is_the_same_wherever_it_is_saved(save: Callable[..., Path], tmp_path: Path) -> None:
    assert contents(save(tmp_path / "a")) == contents(save(tmp_path / "b"))
    architecture = (tmp_path / "a" / "architecture.json").read_text(encoding="utf-8")
    assert Architecture.from_json(architecture) == read_bundle(tmp_path / "a").model.arch


def test_files_that_travel_alone_name_the_files_beside_them() -> None:
    """They cannot import the names, which have one home."""
    code, example = model_code(), bundle._EXAMPLE.read_text()
    for name in REQUIRED_FILES:
        assert f'"{name}"' in example
    assert all(line in code for line in LOADER.splitlines())
    module = CODE_FILE.removesuffix(".py")
    assert f'import_module("{module}")' in example and f"python {EXAMPLE_FILE}" in example
