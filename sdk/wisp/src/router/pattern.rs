//! Paths with parameters.

use std::fmt;

use crate::percent;

/// A path such as `/items/{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Fixed(String),
    Param(String),
    Rest(String),
}

/// What a path has in the places of the parameters, as it stands there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Segment {
    fn new(text: &str) -> Self {
        match text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
        {
            Some(name) => match name.strip_prefix('*') {
                Some(name) => Self::Rest(name.to_owned()),
                None => Self::Param(name.to_owned()),
            },
            None => Self::Fixed(text.to_owned()),
        }
    }

    /// Fixed segments go first.
    fn rank(&self) -> u8 {
        match self {
            Self::Fixed(_) => 0,
            Self::Param(_) => 1,
            Self::Rest(_) => 2,
        }
    }
}

impl Pattern {
    pub(crate) fn new(path: &str) -> Self {
        Self {
            segments: split(path).map(Segment::new).collect(),
        }
    }

    /// The same below `prefix`. A nested `/` is the prefix itself.
    pub(crate) fn below(self, prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/');
        if prefix.is_empty() {
            return self;
        }
        let mut segments = Self::new(prefix).segments;
        if self.segments != [Segment::Fixed(String::new())] {
            segments.extend(self.segments);
        }
        Self { segments }
    }

    /// Why no path, or not the one that was meant, fits; `None` where all is well.
    pub(crate) fn mistake(&self) -> Option<String> {
        let mut names: Vec<&str> = Vec::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let (Segment::Fixed(name) | Segment::Param(name) | Segment::Rest(name)) = segment;
            let is_last = index + 1 == self.segments.len();
            let wrong = match segment {
                Segment::Rest(_) if !is_last => {
                    format!(
                        "`{{*{name}}}` takes all that is left of a path, so it stands at the end"
                    )
                }
                _ if name.contains(['{', '}']) => {
                    format!(
                        "a parameter is a whole segment, as `{{name}}` or `{{*name}}`, and `{name}` isn't one"
                    )
                }
                Segment::Fixed(_) if name.contains(['?', '#']) => {
                    format!("`{name}` has a query or a fragment, which is no part of a path")
                }
                Segment::Fixed(_) => continue,
                _ if name.is_empty() => "a parameter has no name".to_owned(),
                _ if names.contains(&name.as_str()) => {
                    format!("two parameters are called `{name}`")
                }
                _ => {
                    names.push(name);
                    continue;
                }
            };
            return Some(format!("the route `{self}` can't be: {wrong}"));
        }
        None
    }

    /// The parameters' values where `path` fits.
    pub(crate) fn matches(&self, path: &str) -> Option<Params> {
        let mut params = Vec::new();
        let mut given = split(path);
        for segment in &self.segments {
            let text = given.next()?;
            match segment {
                Segment::Fixed(fixed) => {
                    if *fixed != text && percent::decode(text).is_none_or(|text| text != *fixed) {
                        return None;
                    }
                }
                Segment::Param(_) if text.is_empty() => return None,
                Segment::Param(name) => params.push((name.clone(), text.to_owned())),
                Segment::Rest(name) => {
                    let mut rest = text.to_owned();
                    for text in given.by_ref() {
                        rest.push('/');
                        rest.push_str(text);
                    }
                    if rest.is_empty() {
                        return None;
                    }
                    params.push((name.clone(), rest));
                }
            }
        }
        given.next().is_none().then_some(Params(params))
    }

    /// Whether this goes before `other`, which matches the same path.
    pub(crate) fn is_before(&self, other: &Self) -> bool {
        self.segments
            .iter()
            .map(Segment::rank)
            .lt(other.segments.iter().map(Segment::rank))
    }
}

/// The segments of a path. `/` has one, which is empty, so `/a` and `/a/` are two paths.
fn split(path: &str) -> std::str::Split<'_, char> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Fixed(text) => write!(f, "/{text}")?,
                Segment::Param(name) => write!(f, "/{{{name}}}")?,
                Segment::Rest(name) => write!(f, "/{{*{name}}}")?,
            }
        }
        Ok(())
    }
}
