//! As much of DER (ITU-T X.690) as a public key takes.

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The content of the algorithm's identifier, and the key's bytes, of a `SubjectPublicKeyInfo`.
pub(super) fn public_key(info: &[u8]) -> Option<(&[u8], &[u8])> {
    let (info, rest) = value(info, SEQUENCE)?;
    let (algorithm, key) = value(info, SEQUENCE)?;
    let (key, end) = value(key, BIT_STRING)?;
    // A key is of whole bytes: no bit of the last is unused.
    let (unused, key) = key.split_first()?;
    (rest.is_empty() && end.is_empty() && *unused == 0).then_some((algorithm, key))
}

/// The content of the value at the start of `input`, which has this tag, and what follows it.
fn value(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = input.split_first()?;
    if *first != tag {
        return None;
    }
    let (short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(*short), rest),
        0x81 | 0x82 => {
            let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            let length = long
                .iter()
                .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
