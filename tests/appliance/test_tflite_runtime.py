"""The second DLA backend, in the environment of its own that its old numpy needs."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.dla.backends import load_backend
from host_sdk.results import Inference
from host_sdk.wire.errors import BadPipelineError, ConfigError
from tests.rig.nodes import MODELS, NO_MODELS, ROOT, TFLITE_PYTHON, NodeProcess, node_process
from tests.rig.packages import DIGITS, digits_model, held_out, tensor_package

pytestmark = pytest.mark.skipif(
    not TFLITE_PYTHON.exists(),
    reason="only where .venv-tflite is, which .ci/setup tflite-runtime makes with Python 3.11",
)

ALLOWED = 5  # of 500 held-out digits: the backends round differently, the models' cards say by how much
REFERENCES = ("kws_dscnn", "vww_mobilenet", "resnet8_cifar10", "ad_autoencoder", "wakeword_stream")

# Run there: our backend and the library itself, side by side; prints what they made of the same inputs.
COMPARE = """
import json, sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
from appliance.dla.backends import load_backend

content = open(sys.argv[1], "rb").read()
accelerator = load_backend("tflite-runtime")(content, 8)
library = Interpreter(model_content=content, num_threads=1)
library.allocate_tensors()
source, target = library.get_input_details()[0], library.get_output_details()[0]
inputs = np.random.default_rng(11).integers(0, 256, (8, *source["shape"][1:]), dtype=np.uint8).view(source["dtype"])
alone = []
for one in inputs:
    library.set_tensor(source["index"], one[None])
    library.invoke()
    alone.append(library.get_tensor(target["index"])[0])
equal = [bool(np.array_equal(accelerator.invoke(inputs[:count])[0], alone[:count])) for count in range(1, 9)]
print(json.dumps({"equal": equal, "backend": accelerator.backend, "numpy": np.__version__}))
"""

# Run there: the classes of the images whose tensors are in a file.
CLASSIFY = """
import json, sys
import numpy as np
from appliance.dla.backends import load_backend

accelerator = load_backend("tflite-runtime")(open(sys.argv[1], "rb").read(), 16)
inputs = np.load(sys.argv[2])
parts = [accelerator.invoke(inputs[at : at + 16])[0] for at in range(0, len(inputs), 16)]
print(json.dumps(np.concatenate(parts).argmax(axis=1).tolist()))
"""


def there(code: str, *arguments: str) -> Any:
    """Run code in the other environment; return the JSON that it printed last."""
    command = [str(TFLITE_PYTHON), "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["digits", *REFERENCES])
def test_every_batch_is_bit_equal_to_the_library(name: str) -> None:
    path = DIGITS / "model.tflite" if name == "digits" else MODELS / f"{name}_int8.tflite"
    if not path.exists():
        pytest.skip(NO_MODELS)
    found = there(COMPARE, str(path))
    assert found["equal"] == [True] * 8
    assert found["backend"] == "tflite-runtime 2.14.0"
    assert found["numpy"].startswith("1.")


def test_labels_of_real_digits_agree_with_litert(tmp_path: Path) -> None:
    from appliance.engines.image import ImageEngine, colour, resize

    engine = ImageEngine(("JPEG",), 1 << 22, (colour("L"), resize(16, 16, "bilinear")), (16, 16, 1))
    pixels, _, failures = engine.decode_batch([jpeg for _, jpeg in held_out()])
    assert not failures
    inputs = (pixels.astype(np.int16) - 128).astype(np.int8)
    np.save(tmp_path / "inputs.npy", inputs)
    theirs = there(CLASSIFY, str(DIGITS / "model.tflite"), str(tmp_path / "inputs.npy"))
    accelerator = load_backend("litert")(digits_model(), 16)
    ours = [int(accelerator.invoke(one[None])[0].argmax()) for one in inputs]
    differences = sum(mine != other for mine, other in zip(ours, theirs, strict=True))
    assert differences <= ALLOWED


def test_label_of_a_real_utterance_agrees_with_litert() -> None:
    path = MODELS / "kws_dscnn_int8.tflite"
    if not path.exists():
        pytest.skip(NO_MODELS)
    mfcc = np.load(MODELS / "kws_mfcc_on.npy")[None]
    (ours,) = load_backend("litert")(path.read_bytes(), 1).invoke(mfcc)
    code = CLASSIFY.replace("inputs = np.load(sys.argv[2])", "inputs = np.load(sys.argv[2])[None]")
    assert there(code, str(path), str(MODELS / "kws_mfcc_on.npy")) == [int(ours.argmax())] == [5]


def test_the_environments_do_not_have_each_others_backend() -> None:
    with pytest.raises(ConfigError, match=r"tflite-runtime is not installed .*napu\[tflite-runtime\]"):
        load_backend("tflite-runtime")(digits_model(), 1)
    code = """
import json
from appliance.dla.backends import load_backend
from host_sdk.wire.errors import ConfigError
try:
    load_backend("litert")(b"", 1)
except ConfigError as error:
    print(json.dumps(str(error)))
"""
    assert "pip install 'napu[appliance]'" in there(code)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    directory = tmp_path_factory.mktemp("node")
    with node_process(directory, "--backend", "tflite-runtime", python=TFLITE_PYTHON) as running:
        yield running


def test_a_whole_node_answers_held_out_digits(node: NodeProcess) -> None:
    images = held_out()
    with node.client() as client:
        (digits,) = client.pipelines()
        assert digits.backend == "tflite-runtime 2.14.0"
        answers = list(client.infer_many("digits", (jpeg for _, jpeg in images)))
    assert all(isinstance(answer, Inference) for answer in answers)
    right = sum(getattr(answer, "label", None) == label for answer, (label, _) in zip(answers, images, strict=True))
    assert right >= 496 - ALLOWED  # LiteRT gets 496


def test_a_whole_node_takes_and_refuses_packages(node: NodeProcess) -> None:
    with node.client(control=30.0) as client:
        client.control("pipeline.install", package=tensor_package("raw"))
        (answer,) = client.infer("raw", np.zeros((16, 16, 1), np.int8)).outputs.values()
        assert answer.shape == (10,)
        with pytest.raises(BadPipelineError, match=r"graph cannot be read|does not load|crashes"):
            client.control("pipeline.install", package=tensor_package("half", digits_model()[:9000]))
        client.control("pipeline.remove", name="raw")
    assert "Warning" not in node.log.read_text()
