//! What is a guest told when something fails?

use wisp_contract::log::chain;
use wisp_nn::{DType, LoadError, RunError, UnknownModel, sentence};

use crate::bindings::wasi::nn::errors::ErrorCode;

/// The resource behind wasi:nn's `error`: a code, and a sentence for whoever wrote the guest.
pub struct Error {
    pub(crate) code: ErrorCode,
    pub(crate) data: String,
}

impl Error {
    /// The sentence is cut off where it is long: it may repeat what a guest says, who may keep many.
    pub(crate) fn new(code: ErrorCode, data: impl AsRef<str>) -> Self {
        Self {
            code,
            data: sentence(data.as_ref()),
        }
    }

    pub(crate) fn invalid(data: String) -> Self {
        Self::new(ErrorCode::InvalidArgument, data)
    }

    pub(crate) fn too_large(data: String) -> Self {
        Self::new(ErrorCode::TooLarge, data)
    }

    pub(crate) fn unsupported(data: String) -> Self {
        Self::new(ErrorCode::UnsupportedOperation, data)
    }

    pub(crate) fn unnamed_type(what: &str, dtype: DType) -> Self {
        Self::unsupported(format!(
            "{what} is {dtype}, which wasi:nn has no name for: it knows f16, f32, f64, bf16, u8, i32 and i64; \
             cast it in the model"
        ))
    }
}

impl From<UnknownModel> for Error {
    fn from(error: UnknownModel) -> Self {
        Self::new(ErrorCode::NotFound, error.to_string())
    }
}

impl From<RunError> for Error {
    fn from(error: RunError) -> Self {
        let code = match &error {
            RunError::UnknownInput { .. }
            | RunError::MissingInput { .. }
            | RunError::DuplicateInput { .. }
            | RunError::Mismatch { .. } => ErrorCode::InvalidArgument,
            RunError::QueueFull { .. } | RunError::Failed { .. } | RunError::Stopped { .. } => {
                ErrorCode::RuntimeError
            }
        };
        Self::new(code, error.to_string())
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        let code = match &error {
            LoadError::Format { .. } | LoadError::Refused { .. } => ErrorCode::InvalidEncoding,
            LoadError::ExternalData { .. } => ErrorCode::Security,
            LoadError::TooMany { .. } => ErrorCode::TooLarge,
            LoadError::Gpu { .. } | LoadError::Library { .. } => ErrorCode::UnsupportedOperation,
            LoadError::Duplicate(_)
            | LoadError::Read { .. }
            | LoadError::Sha256 { .. }
            | LoadError::Thread { .. }
            | LoadError::Interrupted { .. } => ErrorCode::RuntimeError,
        };
        Self::new(code, chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a guest's errors, of which it may keep many, were as long as the names in its model.
    #[test]
    fn no_sentence_is_longer_than_anybody_reads() {
        let error = Error::from(LoadError::Refused {
            model: "m".to_owned(),
            reason: "x".repeat(1 << 20),
        });
        assert!(error.data.starts_with("model `m` was refused: xxx"));
        assert!(error.data.len() < 10_000, "{} bytes", error.data.len());
        let short = Error::invalid("an ONNX model is one buffer".to_owned());
        assert_eq!(short.data, "an ONNX model is one buffer");
    }
}
