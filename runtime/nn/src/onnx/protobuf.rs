//! How are protobuf's messages read? Field by field, <https://protobuf.dev/programming-guides/encoding/>.
//!
//! What is found here must be what ONNX Runtime finds in the same bytes, which it reads by protobuf's C++ library. That one
//! takes less than the encoding allows, and cuts off what is too long for it; where the two could come to differ, the bytes
//! are taken for malformed.

/// The most bytes of a field's tag, and of a length: both have 32 bits.
const SHORT: usize = 5;
/// The most bytes of a number.
const LONG: usize = 10;

/// A field's value.
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// A message's fields, each with its number; `None`, and no more, where the bytes are none.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = next(&mut self.0);
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let (field, head) = head(|| {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        Some(*byte)
    })?;
    let value = match head {
        Head::Number(number) => Value::Number(number),
        Head::Fixed(len) => take(bytes, len).map(|_| Value::Fixed)?,
        Head::Bytes(len) => Value::Bytes(take(bytes, len)?),
    };
    Some((field, value))
}

/// A field's value, or how many bytes it has, which come next.
#[derive(Clone, Copy)]
pub(super) enum Head {
    Number(u64),
    Fixed(u64),
    Bytes(u64),
}

/// Reads the number of a field, and the beginning of its value, byte by byte. `None` where it is malformed.
pub(super) fn head(mut byte: impl FnMut() -> Option<u8>) -> Option<(u64, Head)> {
    // C++ cuts a tag off at 32 bits: a higher bit would show it another field than the one seen here.
    let tag = varint(&mut byte, SHORT).filter(|tag| u32::try_from(*tag).is_ok())?;
    let field = tag >> 3;
    // It ends a message at such a field, or refuses it.
    if field == 0 {
        return None;
    }
    let head = match tag & 7 {
        0 => Head::Number(varint(&mut byte, LONG)?),
        1 => Head::Fixed(8),
        2 => Head::Bytes(varint(&mut byte, SHORT)?),
        5 => Head::Fixed(4),
        // Groups are older than ONNX.
        _ => return None,
    };
    Some((field, head))
}

/// Of at most so many bytes. Bits above the 64th are none, as in C++.
fn varint(byte: &mut impl FnMut() -> Option<u8>, most: usize) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7).take(most) {
        let byte = byte()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All fields' numbers, or `None` where the bytes are malformed.
    fn fields(bytes: &[u8]) -> Option<Vec<u64>> {
        Fields(bytes)
            .map(|field| field.map(|(number, _)| number))
            .collect()
    }

    /// Would fail if a field were read as another than protobuf's C++ library takes it for, or refuses.
    #[test]
    fn what_another_parser_reads_otherwise_is_malformed() {
        assert_eq!(fields(&[0x08, 1, 0x12, 1, 7]), Some(vec![1, 2]));
        // A tag may be longer than it has to be.
        assert_eq!(fields(&[0x88, 0x80, 0x00, 1]), Some(vec![1]));
        assert_eq!(
            fields(&[0xf8, 0xff, 0xff, 0xff, 0x0f, 1]),
            Some(vec![(1 << 29) - 1])
        );
        for (bytes, why) in [
            (&[0x88, 0x80, 0x80, 0x80, 0x10, 1][..], "bit 32 of a tag"),
            (
                &[0x88, 0x80, 0x80, 0x80, 0x80, 0x00, 1],
                "six bytes of a tag",
            ),
            (&[0x00, 1], "field 0"),
            (&[0x02, 1, 7], "field 0"),
            (&[0x0b, 0x0c], "a group"),
            (&[0x0c], "the end of a group"),
            (&[0x0e, 1], "no wire type"),
            (&[0x0f, 1], "no wire type"),
            (
                &[0x12, 0x81, 0x80, 0x80, 0x80, 0x80, 0x00, 7],
                "six bytes of a length",
            ),
            (
                &[0x12, 0xff, 0xff, 0xff, 0xff, 0x7f, 7],
                "a length beyond the end",
            ),
            (
                &[
                    0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00,
                ],
                "eleven bytes of a number",
            ),
            (&[0x0d, 1, 2, 3], "three bytes of four"),
            (&[0x09, 1, 2, 3], "three bytes of eight"),
        ] {
            assert_eq!(fields(bytes), None, "{why}");
        }
    }
}
