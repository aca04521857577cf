//! Which messages of an ONNX model lead to its tensors and operators?
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>

/// A message that leads there, or is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    Sparse,
    Tensor,
    /// One of `TensorProto.external_data`.
    Entry,
}

/// `TensorProto.external_data`.
pub(super) const EXTERNAL_DATA: u64 = 13;
/// `TensorProto.data_location`; 0 is `DEFAULT`, 1 `EXTERNAL`.
pub(super) const DATA_LOCATION: u64 = 14;

impl Message {
    /// What the field of this number holds, where that leads on.
    pub(super) fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Function, 7) | (Self::Graph, 1) => Self::Node,
            (Self::Function, 11) | (Self::Node, 5) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Tensor, EXTERNAL_DATA) => Self::Entry,
            _ => return None,
        })
    }
}
