"""The shipped digits model against its card and manifest, by Pillow and LiteRT alone: no project code."""

import csv
import hashlib
import io
import re
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Image = pytest.importorskip("PIL.Image", reason="the appliance extra is not installed (Pillow)")
litert = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="the appliance extra is not installed (ai-edge-litert)"
)

MODEL = Path(__file__).resolve().parents[2] / "appliance" / "models" / "digits"
LABELS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.fixture(scope="module")
def archive() -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(MODEL / "held_out.zip") as opened:
        yield opened


@pytest.fixture(scope="module")
def index(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(archive.read("index.csv").decode())))


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return tomllib.loads((MODEL / "pipeline.toml").read_text())


@pytest.fixture(scope="module")
def card() -> str:
    return (MODEL / "CARD.md").read_text()


def infer(quantised: NDArray[np.int8], batch: int) -> NDArray[np.int8]:
    """Run int8 [n, 16, 16, 1] in batches of exactly the given size; return int8 [n, 10]."""
    interpreter = litert.Interpreter(model_path=str(MODEL / "model.tflite"), num_threads=1)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    interpreter.resize_tensor_input(source["index"], [batch, *quantised.shape[1:]], strict=True)
    interpreter.allocate_tensors()
    answers = []
    for start in range(0, len(quantised), batch):
        interpreter.set_tensor(source["index"], quantised[start : start + batch])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(target["index"]))
    return np.concatenate(answers)


@pytest.fixture(scope="module")
def quantised(archive: zipfile.ZipFile, index: list[dict[str, str]]) -> NDArray[np.int8]:
    """The held-out images as the model's own input, int8 [500, 16, 16, 1]."""
    interpreter = litert.Interpreter(model_path=str(MODEL / "model.tflite"), num_threads=1)
    scale, zero_point = interpreter.get_input_details()[0]["quantization"]
    pixels = []
    for row in index:
        with Image.open(io.BytesIO(archive.read(row["file"]))) as picture:
            pixels.append(np.asarray(picture.convert("L").resize((16, 16), Image.Resampling.BILINEAR)))
    real = np.stack(pixels)[..., np.newaxis] / 255
    return np.clip(np.rint(real / scale) + zero_point, -128, 127).astype(np.int8)


@pytest.fixture(scope="module")
def logits(quantised: NDArray[np.int8]) -> NDArray[np.int8]:
    return infer(quantised, 1)


def test_held_out_accuracy_is_at_least_97_percent_and_what_the_card_says(
    logits: NDArray[np.int8], index: list[dict[str, str]], card: str
) -> None:
    truth = np.array([int(row["label_index"]) for row in index])
    correct = int((logits.argmax(axis=1) == truth).sum())
    assert correct / len(truth) >= 0.97
    stated = re.search(r"^- int8 accuracy: ([\d.]+) % \((\d+) of (\d+)\)", card, re.MULTILINE)
    assert stated is not None
    assert (int(stated[2]), int(stated[3])) == (correct, len(truth))
    assert stated[1] == f"{100 * correct / len(truth):.2f}"


def test_card_names_exactly_the_images_that_the_model_gets_wrong(
    logits: NDArray[np.int8], index: list[dict[str, str]], card: str
) -> None:
    answers = logits.argmax(axis=1)
    wrong = {row["file"] for row, answer in zip(index, answers, strict=True) if answer != int(row["label_index"])}
    line = re.search(r"^- images the int8 model gets wrong: (.*)$", card, re.MULTILINE)
    assert line is not None
    assert set(re.findall(r"`([^`]+)`", line[1])) == wrong


def test_digest_and_size_agree_with_manifest_and_card(manifest: dict[str, Any], card: str) -> None:
    content = (MODEL / manifest["model"]["file"]).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert manifest["model"]["sha256"] == digest
    assert f"{len(content)} bytes, SHA-256 `{digest}`" in card
    assert len(content) < 100_000


def test_model_takes_any_batch_of_int8_pictures_of_the_manifests_size(manifest: dict[str, Any]) -> None:
    interpreter = litert.Interpreter(model_path=str(MODEL / "model.tflite"), num_threads=1)
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    resize = next(stage for stage in manifest["pre"] if stage["stage"] == "resize")
    assert source["shape_signature"].tolist() == [-1, resize["height"], resize["width"], 1]
    assert target["shape_signature"].tolist() == [-1, len(LABELS)]
    assert source["dtype"] is np.int8
    assert target["dtype"] is np.int8


@pytest.mark.parametrize("batch", [2, 4, 8, 16])
def test_a_batch_gives_the_same_bytes_as_one_at_a_time(
    batch: int, quantised: NDArray[np.int8], logits: NDArray[np.int8]
) -> None:
    whole = len(quantised) - len(quantised) % batch
    np.testing.assert_array_equal(infer(quantised[:whole], batch), logits[:whole])


def test_manifest_names_files_and_labels_that_are_there(manifest: dict[str, Any]) -> None:
    labels = next(stage for stage in manifest["post"] if stage["stage"] == "labels")
    assert (MODEL / labels["file"]).read_text().splitlines() == LABELS


def test_zip_index_and_members_agree(archive: zipfile.ZipFile, index: list[dict[str, str]]) -> None:
    assert archive.testzip() is None
    assert archive.namelist() == [row["file"] for row in index] + ["index.csv"]
    assert len(index) == 500
    assert len({row["source_index"] for row in index}) == 500
    for number, row in enumerate(index):
        assert row["label"] == LABELS[int(row["label_index"])]
        assert row["file"] == f"{number:04d}-{row['label']}.jpg"


def test_zip_is_uncompressed_and_without_time_stamps(archive: zipfile.ZipFile) -> None:
    for entry in archive.infolist():
        assert entry.compress_type == zipfile.ZIP_STORED
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)


def test_held_out_images_are_grey_64_by_64_jpegs_of_one_frame(archive: zipfile.ZipFile) -> None:
    for entry in archive.infolist():
        if entry.filename == "index.csv":
            continue
        assert entry.file_size < 1400
        with Image.open(io.BytesIO(archive.read(entry))) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "L", (64, 64))
