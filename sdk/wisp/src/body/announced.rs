//! Whether a body has the length that its `content-length` says.

/// Counts a body that is sent.
pub(crate) struct Announced {
    length: Option<u64>,
    sent: u64,
}

/// A body that is no body of its `content-length`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WrongLength {
    #[error("content-length is {length}, its body has {sent} bytes")]
    Short { length: u64, sent: u64 },
    /// The body isn't read further, so nobody knows how many more.
    #[error("content-length is {length}, its body has {sent} bytes or more")]
    Long { length: u64, sent: u64 },
}

impl Announced {
    /// `length` is what the headers say, where they do.
    pub(crate) fn new(length: Option<u64>) -> Self {
        Self { length, sent: 0 }
    }

    /// Before so many bytes more are sent.
    pub(crate) fn more(&mut self, bytes: usize) -> Result<(), WrongLength> {
        self.sent = self
            .sent
            .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        match self.length {
            Some(length) if self.sent > length => Err(WrongLength::Long {
                length,
                sent: self.sent,
            }),
            _ => Ok(()),
        }
    }

    /// After the last of them.
    pub(crate) fn end(&self) -> Result<(), WrongLength> {
        match self.length {
            Some(length) if self.sent < length => Err(WrongLength::Short {
                length,
                sent: self.sent,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a body were cut, or a connection broken, without a word to the function's developer.
    #[test]
    fn a_body_that_is_not_as_long_as_it_says_is_told_with_both_lengths() {
        let told = |length, parts: &[usize]| {
            let mut announced = Announced::new(length);
            let sent = parts.iter().try_for_each(|bytes| announced.more(*bytes));
            sent.and_then(|()| announced.end())
                .map_err(|error| error.to_string())
        };
        assert_eq!(told(None, &[1, 2]), Ok(()));
        assert_eq!(told(Some(3), &[1, 2]), Ok(()));
        assert_eq!(
            told(Some(4), &[1, 2]).unwrap_err(),
            "content-length is 4, its body has 3 bytes"
        );
        assert_eq!(
            told(Some(2), &[1, 2]).unwrap_err(),
            "content-length is 2, its body has 3 bytes or more"
        );
    }
}
