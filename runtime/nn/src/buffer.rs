//! Where are tensors joined and split?

use crate::backend::BackendError;
use crate::{DType, Tensor};

/// Bytes that begin at an address which suits every element type.
pub(crate) struct Buffer {
    words: Vec<u64>,
    len: usize,
}

impl Buffer {
    /// One after another.
    pub(crate) fn concat<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let len = parts.clone().map(<[u8]>::len).sum::<usize>();
        let count = len.div_ceil(size_of::<u64>());
        // Megabytes needn't be cleared first where all parts are words at suitable addresses, which they mostly are.
        let mut words = Vec::new();
        if parts.clone().all(|part| as_words(part).is_some()) {
            words.reserve_exact(count);
            for part in parts.filter_map(as_words) {
                words.extend_from_slice(part);
            }
            return Self { words, len };
        }
        words.resize(count, 0_u64);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let mut at = 0;
        for part in parts {
            // There is room for all of them: the length is their sum.
            if let Some(place) = bytes.get_mut(at..at + part.len()) {
                place.copy_from_slice(part);
            }
            at += part.len();
        }
        Self { words, len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        bytes.get(..self.len).unwrap_or_default()
    }
}

/// The same bytes as words; `None` where they begin or end within one.
fn as_words(bytes: &[u8]) -> Option<&[u64]> {
    bytemuck::try_cast_slice(bytes).ok()
}

/// Cuts a joined output into each item's own, copied, so that none keeps another's bytes in memory.
///
/// # Errors
/// When dimension 0 isn't the sum of the items' rows: then the model doesn't treat it as a batch.
pub(crate) fn split(
    name: &str,
    dtype: DType,
    shape: &[u64],
    bytes: &[u8],
    rows: &[u64],
) -> Result<Vec<Tensor>, BackendError> {
    let tensor = |shape: Vec<u64>, bytes: &[u8]| {
        Tensor::new(dtype, shape, bytes::Bytes::copy_from_slice(bytes))
            .map_err(|error| BackendError(format!("output `{name}`: {error}")))
    };
    if rows.len() == 1 {
        return Ok(vec![tensor(shape.to_vec(), bytes)?]);
    }
    let total = rows.iter().sum::<u64>();
    let Some((first, inner)) = shape.split_first().filter(|(first, _)| **first == total) else {
        return Err(BackendError(format!(
            "output `{name}` has shape {shape:?} for a batch of {total}"
        )));
    };
    let row_len = (bytes.len() as u64).checked_div(*first).unwrap_or(0);
    let mut rest = bytes;
    let mut parts = Vec::with_capacity(rows.len());
    for count in rows {
        let len = usize::try_from(count.saturating_mul(row_len)).unwrap_or(usize::MAX);
        let (head, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        let shape = std::iter::once(*count)
            .chain(inner.iter().copied())
            .collect();
        parts.push(tensor(shape, head)?);
        rest = tail;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_holds_the_parts_in_order_and_is_aligned() {
        let buffer = Buffer::concat([&[1_u8, 2, 3][..], &[], &[4, 5]].into_iter());
        assert_eq!(buffer.bytes(), [1, 2, 3, 4, 5]);
        assert_eq!(buffer.bytes().as_ptr().align_offset(8), 0);
    }

    /// Would fail if words were put together in another order than bytes, or if one that isn't where words begin were left out.
    #[test]
    fn words_are_joined_as_bytes_are() {
        let words = [1_u64, 2, 3, 4];
        let bytes: &[u8] = bytemuck::cast_slice(&words);
        for parts in [
            [&bytes[..8], &bytes[16..], &[]],
            [&bytes[..8], &bytes[8..8], &bytes[8..24]],
            [&bytes[..8], &bytes[3..11], &bytes[8..16]],
            [&bytes[..7], &bytes[8..16], &bytes[..1]],
        ] {
            let buffer = Buffer::concat(parts.into_iter());
            assert_eq!(buffer.bytes(), parts.concat());
            assert_eq!(buffer.bytes().as_ptr().align_offset(8), 0);
        }
    }

    #[test]
    fn rows_go_back_to_their_items() {
        let parts = split(
            "y",
            DType::U16,
            &[3, 2],
            &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
            &[1, 2],
        )
        .unwrap();
        assert_eq!(
            parts[0],
            Tensor::new(DType::U16, [1, 2], vec![0, 1, 2, 3]).unwrap()
        );
        assert_eq!(
            parts[1],
            Tensor::new(DType::U16, [2, 2], vec![4, 5, 6, 7, 8, 9, 10, 11]).unwrap()
        );
    }

    #[test]
    fn an_output_that_is_no_batch_is_refused() {
        let error = split("y", DType::U8, &[4], &[0; 4], &[1, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "output `y` has shape [4] for a batch of 3"
        );
    }
}
