//! Does a model take as long whatever its numbers are?
//!
//! It does where the operators that it is made of do: those below look at each element of tensors whose sizes follow from
//! the inputs' sizes. Others repeat a part as often as a number says, choose between parts, or make a tensor as large as
//! it says. <https://onnx.ai/onnx/operators/> and, for the second list, <https://onnx.ai/onnx/operators/#ai-onnx-ml>.

use super::protobuf::{Fields, Value};

const STEADY: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Ceil",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Div",
    "Dropout",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GRU",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "InstanceNormalization",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "LRN",
    "LSTM",
    "MatMul",
    "Max",
    "MaxPool",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Pow",
    "PRelu",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "DequantizeLinear",
    "Reciprocal",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
    "Relu",
    "Reshape",
    "RNN",
    "Round",
    "Selu",
    "Shape",
    "Sigmoid",
    "Sign",
    "Sin",
    "Slice",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "Tanh",
    "Transpose",
    "Unsqueeze",
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

/// `ModelProto.graph` and `.functions`, `GraphProto.node`, `NodeProto.op_type` and `.domain`, in
/// <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>.
const GRAPH: u64 = 7;
const FUNCTIONS: u64 = 25;
const NODE: u64 = 1;
const OPERATOR: u64 = 4;
const DOMAIN: u64 = 7;

/// Whether all operators of an ONNX model are such. What isn't understood isn't.
pub(crate) fn are_steady(model: &[u8]) -> bool {
    let mut fields = Fields(model);
    let is_steady = fields.all(|field| match field {
        Some((GRAPH, Value::Bytes(graph))) => Fields(graph).all(|field| match field {
            Some((NODE, Value::Bytes(node))) => is_node_steady(node),
            field => field.is_some(),
        }),
        Some((FUNCTIONS, _)) | None => false,
        Some(_) => true,
    });
    is_steady && !model.is_empty()
}

fn is_node_steady(node: &[u8]) -> bool {
    let (mut operator, mut domain): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields(node) {
        match field {
            Some((OPERATOR, Value::Bytes(name))) => operator = name,
            Some((DOMAIN, Value::Bytes(name))) => domain = name,
            Some(_) => {}
            None => return false,
        }
    }
    let steady = match domain {
        b"" | b"ai.onnx" => STEADY,
        b"ai.onnx.ml" => STEADY_ML,
        _ => return false,
    };
    steady.iter().any(|name| name.as_bytes() == operator)
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
        for steady in ["add", "lookup", "mean", "scalar"] {
            assert!(are_steady(&data(steady)), "{steady}");
        }
        for other in ["endless", "unknown-operator"] {
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
