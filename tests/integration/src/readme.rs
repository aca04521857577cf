//! What does the README tell people to type?

use std::path::PathBuf;

use anyhow::{Context as _, ensure};

/// The root of the checkout, of the package that cargo runs.
#[must_use]
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR");
    let here = package.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().nth(2).unwrap_or(&here).to_path_buf()
}

/// The README at the root.
#[derive(Debug)]
pub struct Readme {
    text: String,
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    section: String,
    language: String,
    text: String,
}

impl Readme {
    /// Reads it.
    ///
    /// # Errors
    /// When it isn't there, or a code block has no end or no language.
    pub fn read() -> anyhow::Result<Self> {
        let path = repository().join("README.md");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut blocks = Vec::new();
        let mut section = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(title) = line.strip_prefix("## ") {
                section = title.to_owned();
            }
            let Some(language) = line.trim_start().strip_prefix("```") else {
                continue;
            };
            ensure!(!language.is_empty(), "a block of {section} has no language");
            let mut body = String::new();
            loop {
                let line = lines
                    .next()
                    .with_context(|| format!("a block of {section} has no end"))?;
                if line.trim_start() == "```" {
                    break;
                }
                body.push_str(line);
                body.push('\n');
            }
            blocks.push(Block {
                section: section.clone(),
                language: language.to_owned(),
                text: body,
            });
        }
        Ok(Self {
            text: text.to_owned(),
            blocks,
        })
    }

    /// All of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The sections that have a block of this language, in order.
    #[must_use]
    pub fn sections(&self, language: &str) -> Vec<&str> {
        let mut sections: Vec<&str> = self
            .blocks
            .iter()
            .filter(|block| block.language == language)
            .map(|block| &*block.section)
            .collect();
        sections.dedup();
        sections
    }

    /// The blocks of this language in a section.
    #[must_use]
    pub fn blocks(&self, section: &str, language: &str) -> Vec<&str> {
        self.blocks
            .iter()
            .filter(|block| block.section == section && block.language == language)
            .map(|block| &*block.text)
            .collect()
    }

    /// The commands of a section, in order, without their comments; a comment that starts with `or:` is one more.
    #[must_use]
    pub fn commands(&self, section: &str) -> Vec<String> {
        self.blocks(section, "sh")
            .iter()
            .flat_map(|block| block.lines())
            .flat_map(|line| {
                let (command, comment) = line.split_once(" # ").unwrap_or((line, ""));
                [command, comment.trim().strip_prefix("or: ").unwrap_or("")]
            })
            .map(|command| command.trim().to_owned())
            .filter(|command| !command.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_out_in_order() {
        let readme = Readme::parse(
            "# x\n## One\n```sh\na 'b'   # says\nc             # or: d e\n\n```\n```yaml\nk: v\n```\n## Two\n```sh\nf\n```\n",
        )
        .unwrap();
        assert_eq!(readme.commands("One"), ["a 'b'", "c", "d e"]);
        assert_eq!(readme.blocks("One", "yaml"), ["k: v\n"]);
        assert_eq!(readme.sections("sh"), ["One", "Two"]);
        assert!(Readme::parse("```sh\n").is_err());
        assert!(Readme::parse("```\na\n```\n").is_err());
    }
}
