"""Writes the small ONNX models that the tests load. Needs `onnx==1.23.2` and numpy:

    python3 -m venv venv && venv/bin/pip install onnx==1.23.2 && venv/bin/python make.py
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

HERE = Path(__file__).parent


def save(name, nodes, inputs, outputs, initializers=(), opset=18, check=True, domains=()):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1) for domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="wisp")
    model.ir_version = 9
    if check:
        onnx.checker.check_model(model)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def info(name, dtype, shape):
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


# y = a + b, any number of rows.
save(
    "add",
    [helper.make_node("Add", ["a", "b"], ["y"])],
    [info("a", T.FLOAT, ["n", 2]), info("b", T.FLOAT, ["n", 2])],
    [info("y", T.FLOAT, ["n", 2])],
)

# y = a + b, one row at a time.
save(
    "fixed",
    [helper.make_node("Add", ["a", "b"], ["y"])],
    [info("a", T.FLOAT, [1, 2]), info("b", T.FLOAT, [1, 2])],
    [info("y", T.FLOAT, [1, 2])],
)

# Every type, as it came: one input and one output each.
TYPES = {
    "bool": T.BOOL, "u8": T.UINT8, "i8": T.INT8, "u16": T.UINT16, "i16": T.INT16, "u32": T.UINT32, "i32": T.INT32,
    "u64": T.UINT64, "i64": T.INT64, "f16": T.FLOAT16, "bf16": T.BFLOAT16, "f32": T.FLOAT, "f64": T.DOUBLE,
}
save(
    "types",
    [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in TYPES],
    [info(f"{name}_in", dtype, ["n", 3]) for name, dtype in TYPES.items()],
    [info(f"{name}_out", dtype, ["n", 3]) for name, dtype in TYPES.items()],
)

# The same with those that wasi:nn has names for.
NAMED = {name: TYPES[name] for name in ("u8", "i32", "i64", "f16", "bf16", "f32", "f64")}
save(
    "named-types",
    [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in NAMED],
    [info(f"{name}_in", dtype, ["n", 3]) for name, dtype in NAMED.items()],
    [info(f"{name}_out", dtype, ["n", 3]) for name, dtype in NAMED.items()],
)

# Looks the index up in a table of four: fails for any other.
save(
    "lookup",
    [helper.make_node("Gather", ["table", "index"], ["y"], axis=0)],
    [info("index", T.INT64, ["n"])],
    [info("y", T.FLOAT, ["n"])],
    [constant("table", np.array([0.5, 1.5, 2.5, 3.5], np.float32))],
)

# The same, and what it gives is 512 times as large as what it takes.
save(
    "vectors",
    [helper.make_node("Gather", ["table", "index"], ["y"], axis=0)],
    [info("index", T.INT64, ["n"])],
    [info("y", T.FLOAT, ["n", 1024])],
    [constant("table", np.zeros((2, 1024), np.float32))],
)

# Dimension 0 is dynamic and named alike, but each row's answer depends on the others.
save(
    "mean",
    [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ],
    [info("x", T.FLOAT, ["n", 2])],
    [info("y", T.FLOAT, ["n", 2])],
    [constant("axes", np.array([0], np.int64))],
)

# Gives eight times what it takes.
save(
    "grow",
    [helper.make_node("Concat", ["x"] * 8, ["y"], axis=1)],
    [info("x", T.FLOAT, ["n", 1])],
    [info("y", T.FLOAT, ["n", 8])],
)

# Computes as much as it takes, and gives a number for each row.
save(
    "shrink",
    [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("ReduceSum", ["t", "axes"], ["y"], keepdims=0),
    ],
    [info("x", T.FLOAT, ["n", 256])],
    [info("y", T.FLOAT, ["n"])],
    [constant("axes", np.array([1], np.int64))],
)

# One scalar in, one out.
save(
    "scalar",
    [helper.make_node("Mul", ["x", "two"], ["y"])],
    [info("x", T.FLOAT, [])],
    [info("y", T.FLOAT, [])],
    [constant("two", np.float32(2))],
)

# A network with random weights, made in the graph to keep the file small: work enough to measure.
WIDTH = 256
rng = np.random.default_rng(7)
layers, last = [], "x"
for layer in range(4):
    seed = helper.make_node("Cos", [f"angles{layer}"], [f"w{layer}"])
    angles = helper.make_node("Mul", ["row", f"column{layer}"], [f"angles{layer}"])
    layers += [
        angles, seed,
        helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
        helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"]),
    ]
    last = f"t{layer}"
save(
    "network",
    layers + [helper.make_node("Identity", [last], ["y"])],
    [info("x", T.FLOAT, ["n", WIDTH])],
    [info("y", T.FLOAT, ["n", WIDTH])],
    [constant("row", np.arange(WIDTH, dtype=np.float32).reshape(WIDTH, 1))]
    + [constant(f"column{layer}", rng.random((1, WIDTH), np.float32)) for layer in range(4)],
)

# Each number of a row many times over, as is written nowhere: a row takes milliseconds.
last, layers = "many", []
for layer in range(16):
    layers.append(helper.make_node("Tanh", [last], [f"t{layer}"]))
    last = f"t{layer}"
save(
    "wide",
    [helper.make_node("Unsqueeze", ["x", "axes"], ["one"]), helper.make_node("Expand", ["one", "shape"], ["many"])]
    + layers
    + [helper.make_node("ReduceMean", [last, "axes"], ["y"], keepdims=0)],
    [info("x", T.FLOAT, ["n", 16])],
    [info("y", T.FLOAT, ["n", 16])],
    [constant("axes", np.array([2], np.int64)), constant("shape", np.array([1, 16, 65536], np.int64))],
)

# An endless loop, for as long as nobody ends it.
body = helper.make_graph(
    [
        helper.make_node("Identity", ["go_in"], ["go_out"]),
        helper.make_node("Sin", ["v_in"], ["v_out"]),
    ],
    "body",
    [info("i", T.INT64, []), info("go_in", T.BOOL, []), info("v_in", T.FLOAT, [1])],
    [info("go_out", T.BOOL, []), info("v_out", T.FLOAT, [1])],
)
save(
    "endless",
    [helper.make_node("Loop", ["", "go", "x"], ["y"], body=body)],
    [info("x", T.FLOAT, [1])],
    [info("y", T.FLOAT, [1])],
    [constant("go", np.array(True))],
)

# An operator that nobody has.
save(
    "unknown-operator",
    [helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")],
    [info("x", T.FLOAT, ["n"])],
    [info("y", T.FLOAT, ["n"])],
    check=False,
    domains=["com.example"],
)

# Text is no tensor of numbers.
save(
    "text",
    [helper.make_node("Identity", ["x"], ["y"])],
    [info("x", T.STRING, ["n"])],
    [info("y", T.STRING, ["n"])],
)

# Its numbers lie in another file.
outside = constant("w", np.array([1, 2], np.float32))
outside.ClearField("raw_data")
outside.data_location = T.EXTERNAL
outside.external_data.add(key="location", value="outside.bin")
save(
    "outside",
    [helper.make_node("Add", ["x", "w"], ["y"])],
    [info("x", T.FLOAT, ["n", 2])],
    [info("y", T.FLOAT, ["n", 2])],
    [outside],
    check=False,
)
(HERE / "outside.bin").write_bytes(np.array([1, 2], np.float32).tobytes())

# The same, found from where the tests run: a model that is loaded from bytes has no folder of its own.
outside.external_data[0].value = "tests/data/outside.bin"
save(
    "outside-here",
    [helper.make_node("Add", ["x", "w"], ["y"])],
    [info("x", T.FLOAT, ["n", 2])],
    [info("y", T.FLOAT, ["n", 2])],
    [outside],
    check=False,
)

# Below, rows of a batch see each other in ways that numbers of one range don't show, or hardly.
ROWS = ([info("x", T.FLOAT, ["n", 4])], [info("y", T.FLOAT, ["n", 4])])
quantise = [
    helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
    helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
]
save("quantised", quantise, *ROWS)
within = helper.make_graph(quantise, "within", [], ROWS[1])
save(
    "quantised-within",
    [helper.make_node("If", ["yes"], ["y"], then_branch=within, else_branch=within)],
    *ROWS,
    [constant("yes", np.array(True))],
)
save(
    "training",
    [helper.make_node("BatchNormalization", ["x"] + ["one", "zero", "zero", "one"], ["y", "m", "v"], training_mode=1)],
    *ROWS,
    [constant("one", np.ones(4, np.float32)), constant("zero", np.zeros(4, np.float32))],
)
save(
    "by-largest",
    [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Div", ["x", "m"], ["y"]),
    ],
    *ROWS,
)
save(
    "less-mean",
    [
        helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "part"], ["p"]),
        helper.make_node("Sub", ["x", "p"], ["y"]),
    ],
    *ROWS,
    [constant("part", np.float32(0.001))],
)
save(
    "less-log-mean",
    [
        helper.make_node("Log", ["x"], ["l"]),
        helper.make_node("ReduceMean", ["l"], ["m"], keepdims=0),
        helper.make_node("Sub", ["l", "m"], ["y"]),
    ],
    *ROWS,
)
save("not-a-number", [helper.make_node("Sub", ["x", "none"], ["y"])], *ROWS, [constant("none", np.float32(np.nan))])

# And here they don't, though large numbers overflow, or are none that are taken.
save("softmax", [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Softmax", ["e"], ["y"], axis=1)], *ROWS)
save(
    "logarithms",
    [helper.make_node("Log", ["x"], ["l"]), helper.make_node("Exp", ["l"], ["y"])],
    *ROWS,
)
save(
    "to-index",
    [
        helper.make_node("Cast", ["x"], ["i"], to=T.INT64),
        helper.make_node("GatherElements", ["table", "i"], ["y"], axis=0),
    ],
    [info("x", T.FLOAT, ["n"])],
    [info("y", T.FLOAT, ["n"])],
    [constant("table", np.array([0.5, 1.5, 2.5, 3.5], np.float32))],
)

# Takes as many steps of a sequence as it is told to.
STEPS, HIDDEN = 2000, 32
save(
    "lengths",
    [
        helper.make_node("Mul", ["column", "row"], ["outer"]),
        helper.make_node("Reshape", ["outer", "sequence"], ["x"]),
        helper.make_node("Mul", ["gates", "hidden"], ["angles"]),
        helper.make_node("Cos", ["angles"], ["r"]),
        helper.make_node("LSTM", ["x", "w", "r", "", "lengths"], ["", "y"], hidden_size=HIDDEN),
    ],
    [info("lengths", T.INT32, [1])],
    [info("y", T.FLOAT, [1, 1, HIDDEN])],
    [
        constant("column", np.linspace(-1, 1, 40, dtype=np.float32).reshape(40, 1)),
        constant("row", np.linspace(0, 1, STEPS // 40, dtype=np.float32).reshape(1, STEPS // 40)),
        constant("sequence", np.array([STEPS, 1, 1], np.int64)),
        constant("gates", np.arange(4 * HIDDEN, dtype=np.float32).reshape(1, 4 * HIDDEN, 1)),
        constant("hidden", np.arange(HIDDEN, dtype=np.float32).reshape(1, 1, HIDDEN)),
        constant("w", np.linspace(-1, 1, 4 * HIDDEN, dtype=np.float32).reshape(1, 4 * HIDDEN, 1)),
    ],
)

# How large what it computes is follows from the shape of its input, or from a number.
save(
    "sized-by-shape",
    [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Constant", [], ["rest"], value_ints=[-1]),
        helper.make_node("Concat", ["rows", "rest"], ["flat"], axis=0),
        helper.make_node("Reshape", ["x", "flat"], ["y"]),
    ],
    [info("x", T.FLOAT, ["n", 2, 3])],
    [info("y", T.FLOAT, ["n", 6])],
    [constant("first", np.array([0], np.int64))],
)
save(
    "sized-by-number",
    [helper.make_node("Slice", ["x", "first", "end"], ["s"]), helper.make_node("ReduceSum", ["s"], ["y"])],
    [info("x", T.FLOAT, [4]), info("end", T.INT64, [1])],
    [info("y", T.FLOAT, [1])],
    [constant("first", np.array([0], np.int64))],
)

# The same of operators that make something larger or smaller than their input.
save(
    "resized-by-model",
    [
        helper.make_node("Pad", ["x", "edges"], ["padded"]),
        helper.make_node("Tile", ["padded", "times"], ["tiled"]),
        helper.make_node("TopK", ["tiled", "most"], ["best", "places"]),
        helper.make_node("Shape", ["best"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Size", ["best"], ["size"]),
        helper.make_node("Range", ["none", "size", "one"], ["numbers"]),
        helper.make_node("Reshape", ["numbers", "shape"], ["counted"]),
        helper.make_node("Cast", ["counted"], ["floats"], to=T.FLOAT),
        helper.make_node("Expand", ["half", "shape"], ["halves"]),
        helper.make_node("Sum", ["best", "zeros", "floats", "halves"], ["sum"]),
        helper.make_node("Resize", ["sum", "", "scales"], ["y"], mode="nearest"),
    ],
    [info("x", T.FLOAT, [1, 2])],
    [info("y", T.FLOAT, [1, 6])],
    [
        constant("edges", np.array([0, 1, 0, 1], np.int64)),
        constant("times", np.array([1, 2], np.int64)),
        constant("most", np.array([3], np.int64)),
        constant("none", np.array(0, np.int64)),
        constant("one", np.array(1, np.int64)),
        constant("half", np.array([0.5], np.float32)),
        constant("scales", np.array([1, 2], np.float32)),
    ],
)
save(
    "resized-by-number",
    [helper.make_node("Expand", ["x", "shape"], ["y"])],
    [info("x", T.FLOAT, [1]), info("shape", T.INT64, [1])],
    [info("y", T.FLOAT, ["n"])],
)

# It doesn't say how many dimensions there are.
save(
    "any-rank",
    [helper.make_node("Sigmoid", ["x"], ["y"])],
    [info("x", T.FLOAT, None)],
    [info("y", T.FLOAT, None)],
    check=False,
)
