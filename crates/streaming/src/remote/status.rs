//! How it ended, as it is told on the error stream.

use serde_json::json;

use super::Version;

/// How a session ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The process ended with that code, which is not 0.
    Exit(u8),
    /// It could not be done.
    Failed(String),
    /// The process ended well, or there is nothing to be told.
    Success,
}

impl Outcome {
    /// What is written to the error stream: a `Status` object of the Kubernetes API from the fourth version on; before
    /// that a sentence, and nothing when all is well.
    pub(crate) fn message(&self, version: Version) -> Vec<u8> {
        let sentence = match self {
            Self::Success => String::new(),
            Self::Exit(code) => format!("command terminated with non-zero exit code: exit code {code}"),
            Self::Failed(message) => format!("Internal error occurred: {message}"),
        };
        if version < Version::V4 {
            return sentence.into_bytes();
        }
        let status = match self {
            Self::Success => json!({ "metadata": {}, "status": "Success" }),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": sentence,
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": sentence,
                "reason": "InternalError",
                "details": { "causes": [{ "message": message }] },
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(outcome: &Outcome, version: Version) -> String {
        String::from_utf8(outcome.message(version)).unwrap()
    }

    #[test]
    fn clients_find_what_they_look_for() {
        assert_eq!(text(&Outcome::Success, Version::V3), "");
        assert_eq!(text(&Outcome::Success, Version::V4), r#"{"metadata":{},"status":"Success"}"#);
        let exit = text(&Outcome::Exit(7), Version::V5);
        assert!(exit.contains(r#""reason":"NonZeroExitCode""#), "{exit}");
        assert!(exit.contains(r#"{"causes":[{"reason":"ExitCode","message":"7"}]}"#), "{exit}");
        assert!(text(&Outcome::Exit(7), Version::V1).ends_with("exit code 7"));
        let failed = text(&Outcome::Failed("no \"such\" file".into()), Version::V4);
        assert!(
            failed.contains(r#"occurred: no \"such\" file""#) && failed.contains(r#""code":500"#),
            "{failed}"
        );
    }
}
