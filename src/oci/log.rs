//! What is told, and to whom: standard error, and a file in the form that engines read.

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

use vaquita_oci::Error;

use super::args::{Global, LogFormat};
use crate::terminal;

/// Takes over the options about it. Once for the process.
pub(super) fn set_up(name: &'static str, global: &Global) {
    let log = Log { name, file: global.log.clone(), format: global.log_format };
    let _ = LOG.set(log);
}

/// What was asked for could not be done.
pub(super) fn error(what: &str, error: &Error) {
    tell("error", format!("{what}: {error}"));
}

/// What failed beside what was asked for.
pub(super) fn warning(error: &Error) {
    tell("warning", error);
}

struct Log {
    name: &'static str,
    file: Option<PathBuf>,
    format: LogFormat,
}

static LOG: OnceLock<Log> = OnceLock::new();

fn tell(level: &str, message: impl Display) {
    let message = message.to_string();
    // One line, whatever is in it.
    let message = message.trim().replace('\n', " ");
    let Some(log) = LOG.get() else { return };
    let _ = terminal::err(&format!("{}: {message}\n", log.name));
    let Some(file) = log.file.as_ref().filter(|file| file.as_os_str() != "/dev/stderr") else { return };
    let time = jiff::Timestamp::now();
    let line = match log.format {
        LogFormat::Json => {
            let time = format!("{time:.9}");
            format!("{}\n", serde_json::json!({"level": level, "msg": message, "time": time}))
        }
        LogFormat::Text => format!("time=\"{time:.0}\" level={level} msg={message:?}\n"),
    };
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
    if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
        let _ = terminal::err(&format!("{}: --log {}: {error}\n", log.name, file.display()));
    }
}
