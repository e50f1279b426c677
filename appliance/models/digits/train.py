"""Train, quantise and measure the digits model; write everything that is shipped beside this file.

Run as ``python -m appliance.models.digits.train`` (or by path) in an environment made from
``requirements-train.txt``. Every training image takes the road a request takes: rendered as a JPEG, decoded,
converted to greyscale and resized as the appliance does it, so that training and serving see the same pixels.
On one machine the same seed and library versions give the same bytes; ``CARD.md`` says what was measured.
"""

import argparse
import csv
import hashlib
import io
import re
import sys
import zipfile
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LIBRARIES = ("tensorflow-cpu", "keras", "scikit-learn", "scipy", "numpy", "pillow", "ai-edge-litert")

SEED = 1797
HELD_OUT = 500
JPEG_SIDE = 64
JPEG_QUALITY = 90
INPUT_SIDE = 16
FILTERS = (12, 24, 32)
STRIDES = (2, 2, 1)
JITTERED_COPIES = 15
EPOCHS = 15
BATCH = 128
CALIBRATION_IMAGES = 512

Pixels = NDArray[np.uint8]
Classes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Digits:
    """Source images, uint8 [n, 8, 8] scaled to 0..255, with their classes, int64 [n]."""

    images: Pixels
    classes: Classes

    def take(self, rows: NDArray[np.int64]) -> "Digits":
        """Return the given rows, in the given order."""
        return Digits(self.images[rows], self.classes[rows])


def load() -> Digits:
    """Load the 1797 images that scikit-learn carries; their 0..16 becomes 0..255."""
    bundle = load_digits()
    images = np.rint(np.asarray(bundle.images) * (255 / 16)).astype(np.uint8)
    return Digits(images, np.asarray(bundle.target, dtype=np.int64))


def split(classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted source indices of the training part and of the held-out part, stratified by class."""
    everything = np.arange(len(classes))
    train, held_out = train_test_split(everything, test_size=HELD_OUT, stratify=classes, random_state=SEED)
    return np.sort(train), np.sort(held_out)


def render(image: Pixels) -> Image.Image:
    """Enlarge one 8x8 image to the 64x64 greyscale picture that a client sends."""
    return Image.fromarray(image).resize((JPEG_SIDE, JPEG_SIDE), Image.Resampling.LANCZOS)


def encode(picture: Image.Image) -> bytes:
    """Encode a picture as the JPEG that goes over the wire."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def served_view(jpeg: bytes) -> Pixels:
    """Return what the model is shown of a JPEG: decoded, greyscale and resized, uint8 [16, 16, 1]."""
    with Image.open(io.BytesIO(jpeg)) as picture:
        small = picture.convert("L").resize((INPUT_SIDE, INPUT_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small, dtype=np.uint8)[..., np.newaxis]


def jitter(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotate by up to 12 degrees, scale by up to a tenth and shift by up to 6 pixels, about the centre."""
    angle = np.deg2rad(rng.uniform(-12, 12))
    zoom = rng.uniform(0.9, 1.1)
    shift_x, shift_y = rng.uniform(-6, 6, size=2)
    cos, sin, middle = np.cos(angle) / zoom, np.sin(angle) / zoom, JPEG_SIDE / 2
    # Pillow wants the inverse map: for each target pixel, where in the source it comes from.
    matrix = (
        cos,
        sin,
        middle * (1 - cos - sin) - shift_x,
        -sin,
        cos,
        middle * (1 - cos + sin) - shift_y,
    )
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def views_of(digits: Digits) -> Pixels:
    """Return the served views of the images as they are, uint8 [n, 16, 16, 1]."""
    return np.stack([served_view(encode(render(image))) for image in digits.images])


def jittered_views_of(digits: Digits, rng: np.random.Generator) -> tuple[Pixels, Classes]:
    """Return served views of every image and of its jittered copies, with their classes."""
    views: list[Pixels] = []
    for image in digits.images:
        picture = render(image)
        views.append(served_view(encode(picture)))
        views.extend(served_view(encode(jitter(picture, rng))) for _ in range(JITTERED_COPIES))
    return np.stack(views), np.repeat(digits.classes, JITTERED_COPIES + 1)


def build() -> Any:
    """Return the untrained network: float [n, 16, 16, 1] in 0..1 to logits, float [n, 10]."""
    layers = tf.keras.layers
    inputs = tf.keras.Input((INPUT_SIDE, INPUT_SIDE, 1))
    x = inputs
    for filters, stride in zip(FILTERS, STRIDES, strict=True):
        x = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    features = int(np.prod(x.shape[1:]))
    # Not Flatten: that computes its shape at run time, which costs three operators in the converted model.
    x = layers.Lambda(lambda tensor: tf.reshape(tensor, [-1, features]))(x)
    x = layers.Dropout(0.3)(x)
    return tf.keras.Model(inputs, layers.Dense(len(LABELS))(x))


def fit(digits: Digits) -> Any:
    """Train a network on the given images and return it; the same images give the same weights."""
    tf.keras.utils.set_random_seed(SEED)
    views, classes = jittered_views_of(digits, np.random.default_rng(SEED))
    model = build()
    steps = EPOCHS * -(-len(views) // BATCH)
    model.compile(
        optimizer=tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(views.astype(np.float32) / 255, classes, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def quantise(model: Any, views: Pixels) -> bytes:
    """Convert to a full-integer .tflite (int8 in, int8 logits out), calibrated on the given views."""
    rows = np.random.default_rng(SEED).choice(len(views), CALIBRATION_IMAGES, replace=False)
    samples = views[np.sort(rows)].astype(np.float32) / 255
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[np.newaxis]] for sample in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def float_classes(model: Any, views: Pixels) -> Classes:
    """Classify views with the float network."""
    logits = np.asarray(model(views.astype(np.float32) / 255, training=False))
    classes: Classes = logits.argmax(axis=1).astype(np.int64)
    return classes


def int8_classes(tflite: bytes, views: Pixels) -> Classes:
    """Classify views one at a time with the converted model in the runtime that serves it."""
    interpreter = Interpreter(model_content=tflite, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = source["quantization"]
    quantised = np.clip(np.rint(views / 255 / scale) + zero_point, -128, 127).astype(np.int8)
    answers = []
    for view in quantised:
        interpreter.set_tensor(source["index"], view[np.newaxis])
        interpreter.invoke()
        answers.append(int(interpreter.get_tensor(target["index"])[0].argmax()))
    return np.asarray(answers, dtype=np.int64)


def multiply_accumulates(model: Any) -> int:
    """Count the multiply-accumulates of one inference, padding included."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, tf.keras.layers.Conv2D):
            total += int(np.prod(layer.output.shape[1:3])) * int(np.prod(layer.kernel.shape))
        elif isinstance(layer, tf.keras.layers.Dense):
            total += int(np.prod(layer.kernel.shape))
    return total


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (E. B. Wilson, JASA 22, 1927)."""
    z = 1.959964
    share = correct / total
    centre = share + z * z / (2 * total)
    half = z * float(np.sqrt(share * (1 - share) / total + z * z / (4 * total * total)))
    return (centre - half) / (1 + z * z / total), (centre + half) / (1 + z * z / total)


def accuracy_line(name: str, answers: Classes, truth: Classes) -> str:
    """Format one accuracy with its interval as a line of the card."""
    correct, total = int((answers == truth).sum()), len(truth)
    low, high = wilson(correct, total)
    return (
        f"- {name} accuracy: {100 * correct / total:.2f} % ({correct} of {total}), "
        f"95 % Wilson interval {100 * low:.2f} % to {100 * high:.2f} %"
    )


def held_out_name(row: int, label: int) -> str:
    """Return the member name of one held-out image, such as ``0007-three.jpg``."""
    return f"{row:04d}-{LABELS[label]}.jpg"


def write_held_out(path: Path, digits: Digits, source_indices: NDArray[np.int64]) -> None:
    """Write the held-out JPEGs and their index into an uncompressed zip without time stamps."""
    index = io.StringIO()
    table = csv.writer(index, lineterminator="\n")
    table.writerow(["file", "label", "label_index", "source_index"])
    members: dict[str, bytes] = {}
    for row, (image, label) in enumerate(zip(digits.images, digits.classes.tolist(), strict=True)):
        name = held_out_name(row, label)
        members[name] = encode(render(image))
        table.writerow([name, LABELS[label], label, int(source_indices[row])])
    members["index.csv"] = index.getvalue().encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)


def measured(model: Any, tflite: bytes, held_out: Digits) -> str:
    """Measure the network and the converted model on the held-out images; return the card's lines."""
    views = views_of(held_out)
    answers = int8_classes(tflite, views)
    wrong = np.flatnonzero(answers != held_out.classes)
    confusions = Counter((LABELS[held_out.classes[row]], LABELS[answers[row]]) for row in wrong)
    listed = ", ".join(f"{true} read as {read}: {count}" for (true, read), count in confusions.most_common())
    names = ", ".join(f"`{held_out_name(int(row), int(held_out.classes[row]))}`" for row in wrong)
    return "\n".join(
        [
            accuracy_line("int8", answers, held_out.classes),
            accuracy_line("float", float_classes(model, views), held_out.classes),
            f"- int8 confusions: {listed or 'none'}",
            f"- images the int8 model gets wrong: {names or 'none'}",
            f"- multiply-accumulates for one image: {multiply_accumulates(model)}",
            f"- size of `model.tflite`: {len(tflite)} bytes, SHA-256 `{hashlib.sha256(tflite).hexdigest()}`",
            f"- seed: {SEED}; Python {sys.version.split()[0]}; "
            + ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        ]
    )


def record(out: Path, tflite: bytes, facts: str) -> None:
    """Put the model's digest into the manifest and the measured lines into the card."""
    manifest = (HERE / "pipeline.toml").read_text()
    digest = hashlib.sha256(tflite).hexdigest()
    (out / "pipeline.toml").write_text(re.sub(r'(?m)^sha256 = ".*"$', f'sha256 = "{digest}"', manifest))
    card = (HERE / "CARD.md").read_text()
    head, rest = card.split("<!-- measured by train.py -->\n")
    tail = rest.split("<!-- end of measured -->", 1)[1]
    block = f"<!-- measured by train.py -->\n{facts}\n<!-- end of measured -->"
    (out / "CARD.md").write_text(head + block + tail)


def accuracy_by_block(digits: Digits, blocks: int) -> str:
    """Hold out each contiguous block of the file in turn; return one line of accuracy for each."""
    lines = []
    everything = np.arange(len(digits.classes))
    for block in np.array_split(everything, blocks):
        test = digits.take(block)
        model = fit(digits.take(np.setdiff1d(everything, block)))
        answers = float_classes(model, views_of(test))
        lines.append(accuracy_line(f"rows {block[0]} to {block[-1]}, float", answers, test.classes))
    return "\n".join(lines)


def main() -> None:
    """Train, convert and measure the model, and write the files that ship."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="directory for the results")
    parser.add_argument("--by-block", type=int, metavar="N", help="only measure, N blocks held out in turn")
    arguments = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    # One thread each: the number of cores would otherwise change the order of floating-point sums.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    digits = load()
    if arguments.by_block:
        sys.stdout.write(accuracy_by_block(digits, arguments.by_block) + "\n")
        return
    train, held_out = split(digits.classes)
    model = fit(digits.take(train))
    tflite = quantise(model, views_of(digits.take(train)))
    facts = measured(model, tflite, digits.take(held_out))
    (arguments.out / "model.tflite").write_bytes(tflite)
    (arguments.out / "labels.txt").write_text("\n".join(LABELS) + "\n")
    write_held_out(arguments.out / "held_out.zip", digits.take(held_out), held_out)
    record(arguments.out, tflite, facts)
    sys.stdout.write(facts + "\n")


if __name__ == "__main__":
    main()
