//! Lines out of the pieces that a guest writes, none longer than a cap.

/// A line that ended, or was ended. `bytes` may be anything, UTF-8 or not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The line without its end, at most the cap long.
    pub(crate) bytes: Vec<u8>,
    /// How many bytes the line was longer than the cap.
    pub(crate) cut: u64,
}

/// Keeps an unfinished line. It never holds more than the cap.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    partial: Vec<u8>,
    cut: u64,
}

impl Assembler {
    /// Takes what the guest wrote and hands each line that it ended to `emit`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], cap: usize, mut emit: impl FnMut(Piece)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            self.extend(line, cap);
            emit(self.end());
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.extend(bytes, cap);
    }

    /// Whether there is no line that was not ended.
    pub(crate) fn is_empty(&self) -> bool {
        self.partial.is_empty() && self.cut == 0
    }

    /// The line that was not ended, if there is any.
    pub(crate) fn finish(&mut self) -> Option<Piece> {
        (!self.is_empty()).then(|| self.end())
    }

    fn extend(&mut self, bytes: &[u8], cap: usize) {
        let room = cap.saturating_sub(self.partial.len()).min(bytes.len());
        let (kept, rest) = bytes.split_at(room);
        self.partial.extend_from_slice(kept);
        self.cut = self.cut.saturating_add(rest.len() as u64);
    }

    fn end(&mut self) -> Piece {
        let mut bytes = std::mem::take(&mut self.partial);
        let cut = std::mem::take(&mut self.cut);
        if cut == 0 && bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Piece { bytes, cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(writes: &[&[u8]], cap: usize) -> Vec<(String, u64)> {
        let mut assembler = Assembler::default();
        let mut lines = Vec::new();
        for write in writes {
            assembler.push(write, cap, |piece| lines.push(piece));
        }
        lines.extend(assembler.finish());
        lines
            .into_iter()
            .map(|piece| (String::from_utf8(piece.bytes).unwrap(), piece.cut))
            .collect()
    }

    #[test]
    fn pieces_become_lines_and_the_last_needs_no_end() {
        assert_eq!(
            lines(&[b"a", b"b\nc\r\n", b"\n", b"d"], 10),
            [
                ("ab".into(), 0),
                ("c".into(), 0),
                (String::new(), 0),
                ("d".into(), 0)
            ]
        );
        assert_eq!(lines(&[b"a\n"], 10), [("a".into(), 0)]);
    }

    #[test]
    fn a_long_line_is_cut_and_counted_and_the_next_one_is_whole() {
        assert_eq!(
            lines(&[b"abc", b"defg", b"h\nij\n"], 4),
            [("abcd".into(), 4), ("ij".into(), 0)]
        );
        assert_eq!(lines(&[b"abcdef"], 4), [("abcd".into(), 2)]);
    }

    proptest::proptest! {
        /// However a text is split into writes, the same lines come out, and no byte is lost or made.
        #[test]
        fn splitting_does_not_matter(text in "[ab\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..5), cap in 1usize..8) {
            let whole = lines(&[text.as_bytes()], cap);
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut writes = Vec::new();
            let mut from = 0;
            for cut in cuts {
                let to = cut.clamp(from, text.len());
                writes.push(&text.as_bytes()[from..to]);
                from = to;
            }
            writes.push(&text.as_bytes()[from..]);
            proptest::prop_assert_eq!(&lines(&writes, cap), &whole);
            let bytes: u64 = whole.iter().map(|(line, cut)| line.len() as u64 + cut).sum();
            let ends = text.matches('\n').count() as u64;
            proptest::prop_assert_eq!(bytes + ends, text.len() as u64);
        }
    }
}
