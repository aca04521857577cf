//! How far are a model's outputs from what they should be?

/// The greatest difference in percent of the greatest expected number, and how many have another likeliest class.
/// Infinite where a number is none, or one is missing.
pub(crate) fn difference(found: &[Vec<f32>], expected: &[Vec<f32>]) -> (f64, f64) {
    let lengths = |all: &[Vec<f32>]| all.iter().map(Vec::len).collect::<Vec<_>>();
    let all = found.iter().chain(expected).flatten();
    if lengths(found) != lengths(expected) || !all.clone().all(|value| value.is_finite()) {
        return (f64::INFINITY, f64::INFINITY);
    }
    let pairs = found.iter().flatten().zip(expected.iter().flatten());
    let most = pairs.map(|(found, expected)| (found - expected).abs());
    let scale = expected.iter().flatten().map(|value| value.abs());
    let greatest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    let (most, scale) = (greatest(&mut { most }), greatest(&mut { scale }));
    let class = |logits: &Vec<f32>| {
        let classes = logits.iter().enumerate();
        classes
            .max_by(|a, b| a.1.total_cmp(b.1))
            .map(|(class, _)| class)
    };
    let others = found.iter().zip(expected);
    let others = others.filter(|(found, expected)| class(found) != class(expected));
    (f64::from(most / scale) * 100.0, others.count() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_in_percent_and_no_number_is_no_match() {
        let expected = [vec![1.0, -4.0, 2.0], vec![0.5, 0.0, 0.0]];
        assert_eq!(difference(&expected, &expected), (0.0, 0.0));
        let other = [vec![1.0, -4.0, 2.0], vec![0.5, 1.0, 0.0]];
        assert_eq!(difference(&other, &expected), (25.0, 1.0));
        let none = [vec![1.0, f32::NAN, 2.0], vec![0.5, 0.0, 0.0]];
        assert_eq!(difference(&none, &expected).0, f64::INFINITY);
        assert_eq!(difference(&expected[..1], &expected).0, f64::INFINITY);
    }
}
