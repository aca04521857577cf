//! How is shown what a guest chose, or its model says?
//!
//! A guest's errors are kept for it, and it chooses how many there are.

use std::fmt::{Display, Write as _};

/// Characters of a name that messages show.
const SHOWN: usize = 100;

/// Characters of a sentence.
const SENTENCE: usize = 4000;

/// The name, or its beginning where it is longer than any that a model has.
#[must_use]
pub fn shown(name: &str) -> String {
    cut(name, SHOWN)
}

/// The sentence, or its beginning where it is longer than anybody reads: it may repeat what a model says.
#[must_use]
pub fn sentence(text: &str) -> String {
    cut(text, SENTENCE)
}

/// One after another, as many as a sentence has room for.
pub(crate) fn listed<T: Display>(items: impl Iterator<Item = T>) -> String {
    let mut list = String::new();
    for item in items {
        let separator = if list.is_empty() { "" } else { ", " };
        // Writing to a String doesn't fail.
        let _ = write!(list, "{separator}`{item}`");
        if list.len() > SENTENCE {
            break;
        }
    }
    sentence(&list)
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
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
        let longest = "ü".repeat(SENTENCE);
        assert_eq!(sentence(&longest), longest);
        assert_eq!(sentence(&format!("{longest}ü")), format!("{longest}…"));
    }

    /// Would fail if a list were as long as its items make it.
    #[test]
    fn a_list_ends() {
        assert_eq!(listed(["a", "b"].iter()), "`a`, `b`");
        assert_eq!(listed([""; 0].iter()), "");
        let endless = listed(std::iter::repeat("a name"));
        assert!(endless.starts_with("`a name`, `a name`") && endless.ends_with('…'));
        assert_eq!(endless.chars().count(), SENTENCE + 1);
        let long = listed(std::iter::once("ü".repeat(1 << 20)));
        assert_eq!(long.chars().count(), SENTENCE + 1);
    }
}
