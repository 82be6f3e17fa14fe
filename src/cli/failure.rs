//! An error as it is shown: for people in lines, for scripts as JSON.

use std::error::Error as StdError;

use serde::{Serialize, Serializer};

use cuttle::{Error, ErrorKind};

/// What an error says, to be kept, shown and serialised.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    #[serde(serialize_with = "named")]
    pub kind: ErrorKind,
    pub message: String,
    pub causes: Vec<String>,
    pub help: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let message = error.to_string();
        let mut causes: Vec<String> = Vec::new();
        let mut cause = error.source();
        while let Some(e) = cause {
            let text = e.to_string();
            // Many errors repeat their cause in their own message.
            let told = std::iter::once(&message).chain(&causes).any(|t| t.contains(&text));
            if !told && !text.is_empty() {
                causes.push(text);
            }
            cause = e.source();
        }
        Self { kind: error.kind(), message, causes, help: error.help_text().map(str::to_owned) }
    }
}

/// Kinds as JSON names them.
// serde hands a field by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn named<S: Serializer>(kind: &ErrorKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match kind {
        ErrorKind::NotFound => "not_found",
        ErrorKind::NoRepository => "no_repository",
        ErrorKind::Corrupt => "corrupt",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Busy => "busy",
        ErrorKind::WrongKey => "wrong_key",
        ErrorKind::Denied => "denied",
        ErrorKind::NoSpace => "no_space",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Invalid => "invalid",
        ErrorKind::Unsupported => "unsupported",
        ErrorKind::Interrupted => "interrupted",
        ErrorKind::Internal => "internal",
    })
}

#[cfg(test)]
mod tests {
    use super::Failure;
    use cuttle::{Error, ErrorKind};

    #[test]
    fn causes_are_told_once() {
        let inner = Error::invalid("the middle").caused_by(std::io::Error::other("the root"));
        let outer = Error::corrupt("the top: the middle").caused_by(inner).help("do this");
        let failure = Failure::from(&outer);
        assert_eq!(failure.causes, ["the root"]);
        assert_eq!((failure.kind, failure.help.as_deref()), (ErrorKind::Corrupt, Some("do this")));
    }
}
