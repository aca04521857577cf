//! What is a model made of, as far as that decides how it is computed?
//!
//! Large models are read by ONNX Runtime alone: here, what is long is passed over.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;

use wisp_contract::model_file;

use super::message::Message;
use super::protobuf::{Head, head};
use super::session::Request;

/// The longest name that is looked at: that of a file may be as long.
const LONGEST: u64 = 4096;

/// Operators that choose a scale for all that they are given, as do those whose names begin so: `DynamicQuantizeLinear`,
/// and what ONNX Runtime fuses it into.
const BY_RANGE: &[u8] = b"DynamicQuantize";

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// What makes rows of a batch see each other though numbers needn't show it: those that are normalised before all have
    /// one range, whatever they were.
    pub(super) mixes: Option<String>,
    /// Files that hold some of its numbers, as it names them.
    files: BTreeSet<String>,
}

impl Survey {
    /// `None` where it can't be read, or isn't understood.
    pub(super) fn of(request: &Request) -> Option<Self> {
        match &request.beside {
            Some(path) => {
                let file = File::open(path).ok()?;
                let length = file.metadata().ok()?.len();
                survey(file, length)
            }
            None if model_file::is_ort_format(&request.bytes) => {
                let mut windows = request.bytes.windows(BY_RANGE.len());
                let mixes = windows.any(|window| window == BY_RANGE);
                Some(Self {
                    mixes: mixes.then(|| by_range(BY_RANGE)),
                    ..Self::default()
                })
            }
            None => survey(Cursor::new(&request.bytes[..]), request.bytes.len() as u64),
        }
    }

    /// Bytes of the files beside the model that hold numbers of it.
    ///
    /// # Errors
    /// When one can't be asked for its length.
    pub(super) fn outside(&self, model: &Path) -> io::Result<u64> {
        let folder = model.parent().unwrap_or(Path::new(""));
        let mut files = self.files.iter();
        files.try_fold(0_u64, |sum, name| {
            Ok(sum.saturating_add(fs::metadata(folder.join(name))?.len()))
        })
    }

    /// A message was read to its end.
    fn close(&mut self, frame: &Frame) {
        let name = &frame.text[..];
        let mixes = match frame.message {
            Message::Node if name.starts_with(BY_RANGE) => by_range(name),
            // Its other outputs are the means and variances of what it is given.
            Message::Node if name == b"BatchNormalization" && frame.outputs > 1 => in_training(),
            Message::Attribute if name == b"training_mode" && frame.is_on => in_training(),
            Message::Entry if name == b"location" => {
                self.files
                    .insert(String::from_utf8_lossy(&frame.value).into_owned());
                return;
            }
            _ => return,
        };
        self.mixes.get_or_insert(mixes);
    }
}

fn by_range(operator: &[u8]) -> String {
    format!(
        "`{}` chooses one scale for all rows",
        crate::shown(&String::from_utf8_lossy(operator))
    )
}

fn in_training() -> String {
    "`BatchNormalization` is in training, and normalises by all rows".to_owned()
}

/// A message that is being read.
struct Frame {
    message: Message,
    end: u64,
    /// A node's operator, an attribute's name, an entry's key.
    text: Vec<u8>,
    /// An entry's value.
    value: Vec<u8>,
    /// Whether an attribute's whole number isn't 0.
    is_on: bool,
    /// How many outputs a node has.
    outputs: u64,
}

impl Frame {
    fn new(message: Message, end: u64) -> Self {
        Self {
            message,
            end,
            text: Vec::new(),
            value: Vec::new(),
            is_on: false,
            outputs: 0,
        }
    }

    /// Where the bytes of a field are kept, if they are.
    fn place(&mut self, field: u64) -> Option<&mut Vec<u8>> {
        match (self.message, field) {
            (Message::Node, 4) | (Message::Attribute | Message::Entry, 1) => Some(&mut self.text),
            (Message::Entry, 2) => Some(&mut self.value),
            _ => None,
        }
    }
}

/// How deep messages may lie within each other: as deep as ONNX Runtime's own reader takes them. Each level is remembered, and
/// takes a model a few bytes.
const DEEPEST: usize = 100;

/// Reads a model of so many bytes, from one field to the next.
fn survey(model: impl Read + Seek, length: u64) -> Option<Survey> {
    let mut reader = Reader {
        model: BufReader::new(model),
        at: 0,
    };
    let mut found = Survey::default();
    let mut open = vec![Frame::new(Message::Model, length)];
    loop {
        let depth = open.len();
        let Some(frame) = open.last_mut() else { break };
        if reader.at == frame.end {
            found.close(frame);
            open.pop();
            continue;
        }
        let (field, head) = head(|| reader.byte())?;
        let length = match head {
            Head::Number(number) => {
                if (frame.message, field) == (Message::Attribute, 3) {
                    frame.is_on = number != 0;
                }
                0
            }
            Head::Fixed(length) | Head::Bytes(length) => length,
        };
        let end = reader.at.checked_add(length)?;
        if end > frame.end {
            return None;
        }
        if !matches!(head, Head::Bytes(_)) {
            reader.skip(length)?;
            continue;
        }
        if (frame.message, field) == (Message::Node, 2) {
            frame.outputs += 1;
        }
        match frame.message.child(field) {
            Some(_) if depth > DEEPEST => return None,
            Some(child) => open.push(Frame::new(child, end)),
            None => match frame.place(field).filter(|_| length <= LONGEST) {
                Some(place) => *place = reader.take(length)?,
                None => reader.skip(length)?,
            },
        }
    }
    Some(found)
}

struct Reader<R> {
    model: BufReader<R>,
    at: u64,
}

impl<R: Read + Seek> Reader<R> {
    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        self.model.read_exact(&mut byte).ok()?;
        self.at = self.at.checked_add(1)?;
        Some(byte[0])
    }

    fn take(&mut self, length: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.model.read_exact(&mut bytes).ok()?;
        self.at = self.at.checked_add(length)?;
        Some(bytes)
    }

    fn skip(&mut self, length: u64) -> Option<()> {
        self.model.seek_relative(i64::try_from(length).ok()?).ok()?;
        self.at = self.at.checked_add(length)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(name: &str) -> (std::path::PathBuf, Vec<u8>) {
        let file = crate::onnx::fixture::file(name);
        let bytes = fs::read(&file).unwrap();
        (file, bytes)
    }

    fn of(bytes: &[u8]) -> Option<Survey> {
        survey(Cursor::new(bytes), bytes.len() as u64)
    }

    /// Would fail if an operator that looks at all rows were overlooked, in the graph or in one within, or others taken for
    /// such.
    #[test]
    fn operators_that_look_at_all_rows_are_found() {
        for (name, word) in [
            ("quantised", Some("DynamicQuantizeLinear")),
            ("quantised-within", Some("DynamicQuantizeLinear")),
            ("training", Some("BatchNormalization")),
            ("network", None),
            ("endless", None),
            ("outside", None),
        ] {
            let found = of(&data(name).1).unwrap().mixes;
            match (&found, word) {
                (Some(why), Some(word)) => assert!(why.contains(word), "{name}: {why}"),
                (None, None) => {}
                _ => panic!("{name}: {found:?}"),
            }
        }
    }

    /// Would fail if weights in files beside the model weighed nothing, or a file that isn't there.
    #[test]
    fn files_beside_a_model_are_weighed() {
        let (path, bytes) = data("outside");
        let outside = of(&bytes).unwrap();
        assert_eq!(outside.outside(&path).unwrap(), 8);
        assert!(
            outside
                .outside(Path::new("elsewhere/outside.onnx"))
                .is_err()
        );
        let (path, bytes) = data("add");
        assert_eq!(of(&bytes).unwrap().outside(&path).unwrap(), 0);
    }

    /// Would fail if a model that isn't understood passed for one without such operators.
    #[test]
    fn what_is_malformed_is_not_understood() {
        let (_, add) = data("add");
        assert_eq!(of(&add[..add.len() - 1]), None);
        assert_eq!(of(&[0x0b, 0x0c]), None);
        // A graph that says it is longer than the model, and a node that is longer than its graph.
        assert_eq!(of(&[0x3a, 5, 0x0a]), None);
        assert_eq!(of(&[0x3a, 2, 0x0a, 4, 0x22, 2, b'A', b'd']), None);
        // Graphs in attributes of nodes in graphs, deeper than anybody reads.
        let within = |bytes: Vec<u8>, tag: u8| {
            let length = [0x80 | (bytes.len() & 127), bytes.len() >> 7];
            let length = length.map(|half| u8::try_from(half).unwrap());
            [&[tag][..], &length, &bytes].concat()
        };
        let nested = |levels: usize| {
            let tags = [0x32, 0x2a, 0x0a].into_iter().cycle().take(levels);
            of(&within(tags.fold(Vec::new(), within), 0x3a))
        };
        assert!(nested(30).is_some());
        assert_eq!(nested(300), None);
    }
}
