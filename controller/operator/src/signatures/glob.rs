//! Patterns of names, as ClusterImagePolicy has them.

/// `*` stands for any characters but `/`, `**` for any at all, and everything else for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(String);

impl Glob {
    /// A pattern of `registry/repository`.
    ///
    /// # Errors
    /// What is wrong with it: one that could match nothing is a mistake.
    pub(super) fn of_images(text: &str) -> Result<Self, String> {
        let last = text.rsplit('/').next().unwrap_or_default();
        let first = text.split('/').next().unwrap_or_default();
        if text.contains('@') || (text.contains('/') && last.contains(':')) {
            return Err("expected a registry and a repository, without tag and digest".to_owned());
        }
        if !(first.contains(['.', ':', '*']) || first == "localhost") {
            return Err(format!(
                "expected the registry first, such as `docker.io/{text}`, or `**` for all"
            ));
        }
        if !(text.contains('/') || text.contains("**")) {
            return Err(format!(
                "it matches no repository: expected `{text}/**` for all of a registry"
            ));
        }
        let is_known =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "*./:_-[]".contains(c);
        Self::of(text, is_known)
    }

    /// A pattern of a namespace's name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of_namespaces(text: &str) -> Result<Self, String> {
        Self::of(text, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || "*-".contains(c)
        })
    }

    fn of(text: &str, is_known: impl Fn(char) -> bool) -> Result<Self, String> {
        match text.chars().find(|c| !is_known(*c)) {
            None if text.is_empty() => Err("it is empty".to_owned()),
            None => Ok(Self(text.to_owned())),
            Some(c) => Err(format!("no name has a {c:?}")),
        }
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        // Where to go on when it turns out that the last star stands for more: in the pattern, and in the name.
        let mut single: Option<(&str, &str)> = None;
        let mut double: Option<(&str, &str)> = None;
        let (mut pattern, mut rest) = (self.0.as_str(), name);
        loop {
            if let Some(after) = pattern.strip_prefix("**") {
                pattern = after.trim_start_matches('*');
                double = Some((pattern, rest));
                single = None;
                continue;
            }
            if let Some(after) = pattern.strip_prefix('*') {
                pattern = after;
                single = Some((pattern, rest));
                continue;
            }
            match (pattern.chars().next(), rest.chars().next()) {
                (None, None) => return true,
                (Some(wanted), Some(found)) if wanted == found => {
                    pattern = skip(pattern);
                    rest = skip(rest);
                    continue;
                }
                _ => {}
            }
            let longer = single.filter(|(_, rest)| !rest.is_empty() && !rest.starts_with('/'));
            if let Some((after, taken)) = longer {
                (pattern, rest) = (after, skip(taken));
                single = Some((pattern, rest));
            } else if let Some((after, taken)) = double.filter(|(_, rest)| !rest.is_empty()) {
                (pattern, rest) = (after, skip(taken));
                double = Some((pattern, rest));
                single = None;
            } else {
                return false;
            }
        }
    }
}

fn skip(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}
