//! Does a model take as long whatever its numbers are?
//!
//! It does where the operators that it is made of do: those below look at each element of tensors whose sizes follow from
//! the inputs' sizes. Others repeat a part as often as a number says, choose between parts, or make a tensor as large as
//! it says; some of those below do, too, where the number isn't the model's own, or follows from sizes. <https://onnx.ai/onnx/operators/> and, for the second list, <https://onnx.ai/onnx/operators/#ai-onnx-ml>.

use std::collections::HashSet;

use super::protobuf::{Fields, Value};

const STEADY: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GroupNormalization",
    "GRU",
    "Hardmax",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "LRN",
    "LSTM",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "OneHot",
    "Or",
    "Pad",
    "Pow",
    "PRelu",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Resize",
    "RNN",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
];

/// Those of classical machine learning.
const STEADY_ML: &[&str] = &[
    "ArrayFeatureExtractor",
    "Binarizer",
    "FeatureVectorizer",
    "Imputer",
    "LinearClassifier",
    "LinearRegressor",
    "Normalizer",
    "Scaler",
    "SVMClassifier",
    "SVMRegressor",
    "TreeEnsemble",
    "TreeEnsembleClassifier",
    "TreeEnsembleRegressor",
];

/// `ModelProto.graph` and `.functions`, `GraphProto.node` and `.initializer`, `TensorProto.name`, and `NodeProto.input`,
/// `.output`, `.op_type` and `.domain`, in <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.
const GRAPH: u64 = 7;
const FUNCTIONS: u64 = 25;
const NODE: u64 = 1;
const INITIALIZER: u64 = 5;
const TENSOR_NAME: u64 = 8;
const INPUT: u64 = 1;
const OUTPUT: u64 = 2;
const OPERATOR: u64 = 4;
const DOMAIN: u64 = 7;

/// Whether all operators of an ONNX model are such. What isn't understood isn't.
pub(crate) fn are_steady(model: &[u8]) -> bool {
    let mut fields = Fields(model);
    let is_steady = fields.all(|field| match field {
        Some((GRAPH, Value::Bytes(graph))) => is_graph_steady(graph).unwrap_or(false),
        Some((FUNCTIONS, _)) | None => false,
        Some(_) => true,
    });
    is_steady && !model.is_empty()
}

/// `None` where it is malformed.
fn is_graph_steady(graph: &[u8]) -> Option<bool> {
    // Tensors whose numbers are no caller's. An input that is left out has no name.
    let mut own = HashSet::from([&b""[..]]);
    for field in Fields(graph) {
        if let (INITIALIZER, Value::Bytes(tensor)) = field? {
            own.insert(tensor_name(tensor)?);
        }
    }
    // Each node comes after those whose outputs it takes.
    for field in Fields(graph) {
        let (NODE, Value::Bytes(node)) = field? else {
            continue;
        };
        let node = Node::read(node)?;
        if !node.is_steady(&own) {
            return Some(false);
        }
        let tells_sizes = matches!(node.operator, b"Shape" | b"Size");
        if tells_sizes || node.inputs.iter().all(|input| own.contains(input)) {
            own.extend(node.outputs);
        }
    }
    Some(true)
}

fn tensor_name(tensor: &[u8]) -> Option<&[u8]> {
    let mut name: &[u8] = &[];
    for field in Fields(tensor) {
        if let (TENSOR_NAME, Value::Bytes(bytes)) = field? {
            name = bytes;
        }
    }
    Some(name)
}

#[derive(Default)]
struct Node<'a> {
    operator: &'a [u8],
    domain: &'a [u8],
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a [u8]>,
}

impl<'a> Node<'a> {
    fn read(node: &'a [u8]) -> Option<Self> {
        let mut read = Self::default();
        for field in Fields(node) {
            match field? {
                (INPUT, Value::Bytes(name)) => read.inputs.push(name),
                (OUTPUT, Value::Bytes(name)) => read.outputs.push(name),
                (OPERATOR, Value::Bytes(name)) => read.operator = name,
                (DOMAIN, Value::Bytes(name)) => read.domain = name,
                _ => {}
            }
        }
        Some(read)
    }

    fn is_steady(&self, own: &HashSet<&[u8]>) -> bool {
        let steady = match self.domain {
            b"" | b"ai.onnx" => STEADY,
            b"ai.onnx.ml" => STEADY_ML,
            _ => return false,
        };
        let (first, count) = self.sizing();
        let mut sizing = self.inputs.iter().skip(first).take(count);
        steady.iter().any(|name| name.as_bytes() == self.operator)
            && sizing.all(|input| own.contains(input))
    }

    /// The first of the inputs that say how much there is to compute, by this operator or by those after it, and how many
    /// they are.
    fn sizing(&self) -> (usize, usize) {
        match self.operator {
            // How many steps.
            b"GRU" | b"LSTM" | b"RNN" => (4, 1),
            b"ConstantOfShape" | b"Range" => (0, usize::MAX),
            b"OneHot" => (1, 1),
            // Which dimensions go, or how large others become.
            b"Expand" | b"Pad" | b"Reshape" | b"Resize" | b"Slice" | b"Split" | b"Squeeze"
            | b"Tile" | b"TopK" | b"Unsqueeze" | b"Upsample" => (1, usize::MAX),
            operator if operator.starts_with(b"Reduce") => (1, usize::MAX),
            _ => (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a model whose numbers say how long it takes passed for one of which they don't.
    #[test]
    fn models_are_told_apart_by_what_they_are_made_of() {
        let data = |name: &str| {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
            std::fs::read(folder.join(format!("{name}.onnx"))).unwrap()
        };
        for steady in [
            "add",
            "lookup",
            "mean",
            "resized-by-model",
            "scalar",
            "sized-by-shape",
        ] {
            assert!(are_steady(&data(steady)), "{steady}");
        }
        for other in [
            "endless",
            "lengths",
            "resized-by-number",
            "sized-by-number",
            "unknown-operator",
        ] {
            assert!(!are_steady(&data(other)), "{other}");
        }
        let add = data("add");
        assert!(!are_steady(&add[..add.len() - 1]), "cut off");
        assert!(!are_steady(b""));
        // A function of the model's own.
        let functions = [
            u8::try_from((FUNCTIONS << 3 | 2) & 0x7f).unwrap() | 0x80,
            1,
            0,
        ];
        assert!(!are_steady(&[&add[..], &functions].concat()));
    }
}
