//! How is a name shown that a guest chose?

/// Characters of a name that messages show.
const SHOWN: usize = 100;

/// The name, or its beginning where it is longer than any that a model has: a guest's errors are kept for it, and it
/// chooses how many there are and how long the names in them.
#[must_use]
pub fn shown(name: &str) -> String {
    match name.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_too_long_is_cut_and_between_characters() {
        let longest = "ü".repeat(SHOWN);
        assert_eq!(shown(&longest), longest);
        assert_eq!(shown(&format!("{longest}ü")), format!("{longest}…"));
        assert_eq!(shown(""), "");
    }
}
