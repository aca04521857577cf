//! Text to token ids: BERT's uncased WordPiece, <https://arxiv.org/abs/1810.04805>, as Hugging Face's `BertNormalizer`,
//! `BertPreTokenizer` and `WordPiece` do it, but for one thing: special tokens in the text, such as `[SEP]`, stay text.

use std::collections::HashMap;

use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// Words of more characters than this are unknown as a whole.
const MAX_WORD: usize = 100;

/// A vocabulary, ready to look up.
pub(crate) struct Tokenizer {
    starts: HashMap<&'static str, i64>,
    continuations: HashMap<&'static str, i64>,
    unknown: i64,
    start: i64,
    end: i64,
}

impl Tokenizer {
    /// Takes a vocabulary of one token per line, whose line number is its id.
    pub(crate) fn new(vocabulary: &'static str) -> Self {
        let mut starts = HashMap::with_capacity(32_000);
        let mut continuations = HashMap::with_capacity(8_000);
        for (token, id) in vocabulary.lines().zip(0..) {
            match token.strip_prefix("##") {
                Some(rest) if !rest.is_empty() => continuations.insert(rest, id),
                _ => starts.insert(token, id),
            };
        }
        let special = |token| starts.get(token).copied().unwrap_or_default();
        let (unknown, start, end) = (special("[UNK]"), special("[CLS]"), special("[SEP]"));
        Self {
            starts,
            continuations,
            unknown,
            start,
            end,
        }
    }

    /// The ids of a text between `[CLS]` and `[SEP]`, at most `max` of them with these two; what is beyond is cut off.
    pub(crate) fn encode(&self, text: &str, max: usize) -> Vec<i64> {
        let text = normalise(text);
        let mut ids = vec![self.start];
        for word in words(&text) {
            self.pieces(word, &mut ids);
            if ids.len() + 1 >= max {
                break;
            }
        }
        ids.truncate(max.saturating_sub(1));
        ids.push(self.end);
        ids
    }

    /// The longest pieces first, from left to right; the whole word is unknown where that leads nowhere.
    fn pieces(&self, word: &str, ids: &mut Vec<i64>) {
        let before = ids.len();
        let mut rest = word;
        if word.chars().count() > MAX_WORD {
            ids.push(self.unknown);
            return;
        }
        while !rest.is_empty() {
            let known = if rest.len() == word.len() {
                &self.starts
            } else {
                &self.continuations
            };
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
            let longest = ends.rev().find_map(|end| {
                let (piece, tail) = rest.split_at(end);
                known.get(piece).map(|id| (*id, tail))
            });
            let Some((id, tail)) = longest else {
                ids.truncate(before);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            rest = tail;
        }
    }
}

/// Without control characters and accents, in lower case, with ideographs set apart.
fn normalise(text: &str) -> String {
    text.chars()
        .filter(|&c| !is_dropped(c))
        .flat_map(|c| {
            let (before, c, after) = match c {
                c if c.is_whitespace() => (None, ' ', None),
                c if is_ideograph(c) => (Some(' '), c, Some(' ')),
                c => (None, c, None),
            };
            before.into_iter().chain([c]).chain(after)
        })
        .nfd()
        .filter(|&c| get_general_category(c) != GeneralCategory::NonspacingMark)
        .flat_map(char::to_lowercase)
        .collect()
}

/// Runs of what is neither white space nor punctuation, and each punctuation character by itself.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(char::is_whitespace).flat_map(|run| {
        run.split_inclusive(is_punctuation).flat_map(|part| {
            let last = part.char_indices().next_back();
            let at = last
                .filter(|(_, c)| is_punctuation(*c))
                .map_or(part.len(), |(at, _)| at);
            let (word, punctuation) = part.split_at(at);
            [word, punctuation].into_iter().filter(|s| !s.is_empty())
        })
    })
}

fn is_dropped(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse, Surrogate};
    match c {
        '\t' | '\n' | '\r' => false,
        '\u{fffd}' => true,
        c => matches!(
            get_general_category(c),
            Control | Format | PrivateUse | Surrogate
        ),
    }
}

fn is_punctuation(c: char) -> bool {
    use GeneralCategory::{
        ClosePunctuation, ConnectorPunctuation, DashPunctuation, FinalPunctuation,
        InitialPunctuation, OpenPunctuation, OtherPunctuation,
    };
    c.is_ascii_punctuation()
        || matches!(
            get_general_category(c),
            ClosePunctuation
                | ConnectorPunctuation
                | DashPunctuation
                | FinalPunctuation
                | InitialPunctuation
                | OpenPunctuation
                | OtherPunctuation
        )
}

/// CJK Unified Ideographs and their extensions and compatibility forms, as BERT lists them: written without spaces.
fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x2_0000..=0x2_A6DF | 0x2_A700..=0x2_B73F | 0x2_B740..=0x2_B81F
        | 0x2_B920..=0x2_CEAF | 0xF900..=0xFAFF | 0x2_F800..=0x2_FA1F)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// Written by `model.py --reference` with Hugging Face's tokenizer.
    const REFERENCE: &str = include_str!("../testdata/reference.json");

    #[derive(Deserialize)]
    struct Reference {
        tokens: Vec<Tokens>,
        characters: Vec<(u32, u32, u32)>,
    }

    #[derive(Deserialize)]
    struct Tokens {
        text: String,
        ids: Vec<i64>,
    }

    fn setup() -> (Tokenizer, Reference) {
        (
            Tokenizer::new(include_str!("../vocab.txt")),
            serde_json::from_str(REFERENCE).unwrap(),
        )
    }

    #[test]
    fn agrees_with_the_reference_on_texts() {
        let (tokenizer, reference) = setup();
        assert!(reference.tokens.len() > 10);
        for Tokens { text, ids } in reference.tokens {
            assert_eq!(tokenizer.encode(&text, 256), ids, "{text:?}");
        }
    }

    /// Every character between two letters, in runs of them, compared by FNV-1a over the ids.
    #[test]
    fn agrees_with_the_reference_on_every_character() {
        let (tokenizer, reference) = setup();
        let mut characters = 0;
        for (first, last, expected) in reference.characters {
            let words: Vec<_> = (first..=last)
                .filter_map(char::from_u32)
                .map(|c| format!("a{c}b"))
                .collect();
            characters += words.len();
            let ids = tokenizer.encode(&words.join(" "), usize::MAX);
            let bytes = ids
                .iter()
                .flat_map(|id| u32::try_from(*id).unwrap().to_le_bytes());
            let got = bytes.fold(0x811c_9dc5_u32, |h, byte| {
                (h ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
            assert_eq!(got, expected, "one of U+{first:04X} to U+{last:04X}");
        }
        assert!(characters > 50_000, "only {characters} were compared");
    }

    #[test]
    fn cuts_at_the_limit_and_keeps_the_end() {
        let (tokenizer, _) = setup();
        let ids = tokenizer.encode(&"word ".repeat(1000), 256);
        assert_eq!(ids.len(), 256);
        assert_eq!((ids[0], ids[255]), (101, 102));
    }

    #[test]
    fn special_tokens_in_the_text_are_text() {
        let (tokenizer, _) = setup();
        let ids = tokenizer.encode("a [SEP] b", 256);
        assert_eq!(ids.iter().filter(|id| **id == 102).count(), 1);
    }
}
