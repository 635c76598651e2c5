"""What the Export page says of each format, and a snippet of Python that runs a file of it on a photo."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.quantize import FORMATS


@dataclass(frozen=True)
class Shown:
    """A format as the page shows it; `snippet` runs the file named FILE on photo.jpg."""

    title: str
    icon: str
    explanation: str
    needs: str
    snippet: str


_SETTINGS = """\
labels, settings = json.loads(metadata["labels"]), json.loads(metadata["preprocess"])
"""

_PIXELS = """

def preprocess(photo, settings):
    rows, columns = settings["image_size"]
    wide, high = (side / settings["crop_pct"] for side in (columns, rows))
    if settings["crop_mode"] != "squash":
        scale = max(wide / photo.width, high / photo.height)
        wide, high = scale * photo.width, scale * photo.height
    method = Image.Resampling[settings["interpolation"].upper()]
    photo = photo.resize((round(wide), round(high)), method)
    left, top = (photo.width - columns) // 2, (photo.height - rows) // 2
    pixels = np.asarray(photo.crop((left, top, left + columns, top + rows)), np.float32) / 255
    pixels = (pixels - np.float32(settings["mean"])) / np.float32(settings["std"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


images = preprocess(Image.open("photo.jpg").convert("RGB"), settings)  # B C Y X, any B
"""

_ANSWER = """\
for index in logits[0].argsort()[::-1][:3]:
    print(labels[index] if labels else index, logits[0, index])
"""

_FEATURES = """\
print(features.shape, features[0, :5])  # the pooled ones
"""

BUNDLE = """\
# run this inside the unpacked folder
from example import classify, read

for label, probability in classify(read("photo.jpg"), top=3):
    print(label, probability)
"""

BUNDLE_FEATURES = """\
# run this inside the unpacked folder
from example import features, read

pooled, tokens = features(read("photo.jpg"))  # E, and N E: prefix tokens, then patches
print(pooled.shape, tokens.shape)
"""

TRANSFORMERS_FEATURES = """\
# run this inside the unpacked folder, or with the name of its repository on the hub
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

folder = "."
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
with torch.inference_mode():
    found = model(**processor(Image.open("photo.jpg"), return_tensors="pt"))
print(found.pooler_output.shape, found.last_hidden_state.shape)
"""

TRANSFORMERS = """\
# run this inside the unpacked folder, or with the name of its repository on the hub
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

folder = "."
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
with torch.inference_mode():
    logits = model(**processor(Image.open("photo.jpg"), return_tensors="pt")).logits
for index in logits[0].argsort(descending=True)[:3].tolist():
    print(model.config.id2label[index], logits[0, index].item())
"""

ONNX = f"""\
import json

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("FILE")
metadata = session.get_modelmeta().custom_metadata_map
{_SETTINGS}{_PIXELS}logits = session.run(["logits"], {{"images": images}})[0]
{_ANSWER}"""

PT2 = f"""\
import json

import numpy as np
import torch
from PIL import Image

metadata = {{"preprocess": "", "labels": ""}}
model = torch.export.load("FILE", extra_files=metadata).module()
{_SETTINGS}{_PIXELS}with torch.inference_mode():
    logits = model(torch.from_numpy(images)).numpy()
{_ANSWER}"""

OPENVINO = f"""\
# run this inside the unpacked folder
import json

import numpy as np
import openvino
from PIL import Image

core = openvino.Core()
model = core.read_model("FILE")
metadata = {{name: model.get_rt_info(["framework", name]).value for name in ("labels", "preprocess")}}
# without the hint a processor that has bfloat16 products uses them
compiled = core.compile_model(model, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
{_SETTINGS}{_PIXELS}logits = compiled(images)["logits"]
{_ANSWER}"""

NCNN = f"""\
# run this inside the unpacked folder
import json

import ncnn
import numpy as np
from PIL import Image

with open("model.ncnn.json", encoding="utf-8") as file:
    about = json.load(file)
labels, settings = about["labels"], about["preprocess"]
{_PIXELS}net = ncnn.Net()
net.load_param("FILE")
net.load_model("model.ncnn.bin")
with net.create_extractor() as extractor:
    extractor.input("in0", ncnn.Mat(images[0]).clone())  # one image at a time
    logits = np.array(extractor.extract("out0")[1])[None]
{_ANSWER}"""

_ORT = "onnxruntime numpy pillow"
_KNOWN = {
    "bundle": Shown(
        "Bundle",
        ":material/folder_zip:",
        "A folder that loads with only torch and safetensors.",
        "torch safetensors pillow",
        BUNDLE,
    ),
    "transformers": Shown(
        "transformers",
        ":material/hub:",
        "A bundle that Hugging Face transformers loads, too, with its image processor.",
        "transformers torch pillow",
        TRANSFORMERS,
    ),
    "onnx": Shown(
        "ONNX",
        ":material/memory:",
        "For ONNX Runtime, with any batch size. Checked against the model.",
        _ORT,
        ONNX,
    ),
    "pt2": Shown(
        ".pt2",
        ":material/data_object:",
        "A torch.export program. Reloaded and checked against the model.",
        "torch numpy pillow",
        PT2,
    ),
    "ncnn": Shown(
        "ncnn",
        ":material/smartphone:",
        "For phones and small boards, one image at a time. Checked against the model.",
        "ncnn numpy pillow",
        NCNN,
    ),
    "onnx-int8": Shown(
        "ONNX, int8",
        ":material/compress:",
        "Quantised on calibration images, and measured against the float file on test images.",
        _ORT,
        ONNX,
    ),
    "openvino": Shown(
        "OpenVINO",
        ":material/developer_board:",
        "For OpenVINO on Intel and Arm processors. Checked against the model.",
        "openvino numpy pillow",
        OPENVINO,
    ),
    "openvino-int8": Shown(
        "OpenVINO, int8",
        ":material/compress:",
        "Quantised by NNCF on calibration images, and measured against the float file.",
        "openvino numpy pillow",
        OPENVINO,
    ),
}


def shown() -> dict[str, Shown]:
    """All formats that a model can be exported in, by name, and what to say of each."""
    return {name: _KNOWN.get(name, Shown(name, ":material/draft:", "", "", "")) for name in FORMATS}


def snippet(format: str, file: str, classifies: bool = True) -> str:
    """Python that classifies photo.jpg with a file of a format, or takes its features; `file` is its name."""
    text = shown()[format].snippet
    if not classifies:
        text = {"bundle": BUNDLE_FEATURES, "transformers": TRANSFORMERS_FEATURES}.get(format, text)
        text = text.replace(_ANSWER, _FEATURES).replace("logits", "features")
    return text.replace("FILE", file)
