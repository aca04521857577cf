//! Does a model read other files?
//!
//! ONNX lets a tensor's numbers lie in a file beside the model. A model that a guest brings must not: it would read
//! the host's files. ONNX is protobuf, <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>; this walks the few
//! messages that lead to tensors.

use super::message::{DATA_LOCATION, EXTERNAL_DATA, Message};
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

/// Looks through a whole model. Takes time and memory proportional to its length, however deep it nests.
pub(crate) fn external_data(model: &[u8]) -> ExternalData {
    let mut open = vec![(Message::Model, model)];
    while let Some((message, bytes)) = open.pop() {
        for field in Fields(bytes) {
            let Some((field, value)) = field else {
                return ExternalData::Malformed;
            };
            match (message, field, value) {
                (Message::Tensor, EXTERNAL_DATA, _) => return ExternalData::Some,
                // C++ reads an enumeration's value from the lower 32 bits. Only the default means that all is inside.
                (Message::Tensor, DATA_LOCATION, Value::Number(place)) if place as u32 != 0 => {
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

    /// Would fail if other files could be named by bytes that ONNX Runtime, which reads tags and enumerations of 32 bits,
    /// takes for what they are not here; or by parts of a message that it merges.
    #[test]
    fn other_files_dont_hide_behind_what_is_cut_off() {
        let tensor = |bytes: &[u8]| field(7, &field(5, bytes));
        let high = |number: u64, wire: u64| varint_bytes(1 << 32 | number << 3 | wire);
        let entry = [&high(EXTERNAL_DATA, 2)[..], &[1, b'x']].concat();
        let place = [&high(DATA_LOCATION, 0)[..], &[1]].concat();
        let graph = [&high(7, 2)[..], &field(5, &[])].concat();
        for bytes in [tensor(&entry), tensor(&place), graph] {
            assert_eq!(external_data(&bytes), ExternalData::Malformed, "{bytes:?}");
        }

        let place = |value: u64| [&[14 << 3][..], &varint_bytes(value)].concat();
        for value in [1 | 1 << 32, u64::MAX, 2] {
            let bytes = tensor(&place(value));
            assert_eq!(external_data(&bytes), ExternalData::Some, "{value}");
        }
        assert_eq!(external_data(&tensor(&place(0))), ExternalData::None);
        let twice = [field(7, &[]), tensor(&place(1))].concat();
        assert_eq!(external_data(&twice), ExternalData::Some);
        let reset = tensor(&[place(1), place(0)].concat());
        assert_eq!(external_data(&reset), ExternalData::Some);
        // A tag that is longer than it has to be.
        let longer = tensor(&[0xf0, 0x80, 0x00, 1]);
        assert_eq!(external_data(&longer), ExternalData::Some);
        let training = field(1, &field(5, &place(1)));
        let training = [&[0xa2, 0x01, training.len() as u8][..], &training].concat();
        assert_eq!(external_data(&training), ExternalData::Some);
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
