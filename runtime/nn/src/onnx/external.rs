//! Does a model read other files?
//!
//! ONNX lets a tensor's numbers lie in a file beside the model. A model that a guest brings must not: it would read
//! the host's files. ONNX is protobuf, <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>; this walks the few
//! messages that lead to tensors.

use super::protobuf::{Fields, Value};

/// What a model says about other files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExternalData {
    /// All its numbers are inside.
    None,
    /// Some are in other files.
    Some,
    /// The bytes are no protobuf.
    Malformed,
}

#[derive(Clone, Copy)]
enum Message {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    Sparse,
    Tensor,
}

/// `TensorProto.external_data`.
const EXTERNAL_DATA: u64 = 13;
/// `TensorProto.data_location`; 1 is `EXTERNAL`.
const DATA_LOCATION: u64 = 14;

impl Message {
    /// What the field of this number holds, where that leads to tensors.
    fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Function, 7) | (Self::Graph, 1) => Self::Node,
            (Self::Function, 11) | (Self::Node, 5) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            _ => return None,
        })
    }
}

/// Looks through a whole model. Takes time and memory proportional to its length, however deep it nests.
pub(crate) fn external_data(model: &[u8]) -> ExternalData {
    let mut open = vec![(Message::Model, model)];
    while let Some((message, bytes)) = open.pop() {
        for field in Fields(bytes) {
            let Some((field, value)) = field else {
                return ExternalData::Malformed;
            };
            match (message, field, value) {
                (Message::Tensor, EXTERNAL_DATA, _)
                | (Message::Tensor, DATA_LOCATION, Value::Number(1)) => {
                    return ExternalData::Some;
                }
                (_, _, Value::Bytes(inner)) => {
                    open.extend(message.child(field).map(|child| (child, inner)))
                }
                _ => {}
            }
        }
    }
    ExternalData::None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut bytes = varint_bytes(u64::from(number) << 3 | 2);
        bytes.extend(varint_bytes(inner.len() as u64));
        bytes.extend(inner);
        bytes
    }

    fn varint_bytes(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    #[test]
    fn it_finds_other_files_wherever_a_tensor_may_be() {
        let tensor = [14 << 3, 1];
        let initializer = field(7, &field(5, &tensor));
        let constant = field(7, &field(1, &field(5, &field(5, &tensor))));
        let nested = field(7, &field(1, &field(5, &field(6, &field(5, &tensor)))));
        let function = field(25, &field(7, &field(5, &field(10, &tensor))));
        let sparse = field(7, &field(15, &field(1, &tensor)));
        for model in [initializer, constant, nested, function, sparse] {
            assert_eq!(external_data(&model), ExternalData::Some, "{model:?}");
        }
        assert_eq!(
            external_data(&field(7, &field(5, &field(13, b"x")))),
            ExternalData::Some
        );
    }

    #[test]
    fn numbers_inside_are_fine() {
        assert_eq!(
            external_data(&field(7, &field(5, &[14 << 3, 0]))),
            ExternalData::None
        );
        assert_eq!(external_data(&[]), ExternalData::None);
    }

    #[test]
    fn what_is_no_protobuf_is_malformed() {
        for bytes in [&[0xff; 11][..], &[0x0a, 5, 1], &[0x0b], &[0x08]] {
            assert_eq!(external_data(bytes), ExternalData::Malformed, "{bytes:?}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        // Each level is a graph in an attribute of a node of the one around it.
        let mut graph = Vec::new();
        for _ in 0..2_000 {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        assert_eq!(external_data(&field(7, &graph)), ExternalData::None);
    }
}
