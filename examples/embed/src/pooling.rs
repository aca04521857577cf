//! From the vectors of a sentence's tokens to one of the sentence.

/// The mean over the first `tokens` rows of `rows` (each `width` long), scaled to length 1.
pub(crate) fn sentence(rows: &[f32], width: usize, tokens: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width.max(1)).take(tokens) {
        for (total, value) in sum.iter_mut().zip(row) {
            *total += value;
        }
    }
    // Dividing by the number of tokens would not change the direction.
    let length = sum
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    sum.iter().map(|value| value / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_does_not_count_and_the_length_is_one() {
        let rows = [3.0, 0.0, 0.0, 4.0, 100.0, 100.0];
        assert_eq!(sentence(&rows, 2, 2), [0.6, 0.8]);
    }

    #[test]
    fn nothing_is_no_number_gone_wrong() {
        assert_eq!(sentence(&[0.0, 0.0], 2, 1), [0.0, 0.0]);
    }
}
