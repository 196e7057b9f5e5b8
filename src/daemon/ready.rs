//! Tells who started a daemon in the background how that went: by one line through a pipe.

use std::io::{Read, Write};

use rustix::fs::{Mode, OFlags};

use super::lock::Busy;

/// What the line says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The socket is open.
    Ready,
    /// Another daemon has the directories.
    Busy(String),
    /// It is not, and will not be.
    Failed(String),
}

impl Outcome {
    /// Waits for the line. A daemon that dies before it wrote one has failed too.
    pub(crate) fn read(mut pipe: impl Read) -> Self {
        let mut line = String::new();
        match pipe.read_to_string(&mut line) {
            Err(error) => Self::Failed(format!("cannot read from the daemon: {error}")),
            Ok(_) => Self::parse(line.trim_end()),
        }
    }

    fn parse(line: &str) -> Self {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("ready", _) => Self::Ready,
            ("busy", why) => Self::Busy(why.to_owned()),
            ("failed", why) => Self::Failed(why.to_owned()),
            _ => Self::Failed("it died while starting".to_owned()),
        }
    }
}

/// The daemon's side: standard output, closed after the line.
#[derive(Debug)]
pub(crate) struct Ready {
    wanted: bool,
}

impl Ready {
    pub(crate) fn new(wanted: bool) -> Self {
        Self { wanted }
    }

    /// The socket is open.
    pub(crate) fn succeeded(&mut self) {
        self.say("ready\n");
    }

    /// It will not be.
    pub(crate) fn failed(&mut self, why: &anyhow::Error) {
        let word = if why.is::<Busy>() { "busy" } else { "failed" };
        self.say(&format!("{word} {why:#}\n"));
    }

    fn say(&mut self, line: &str) {
        if !std::mem::take(&mut self.wanted) {
            return;
        }
        // Who waits may have been killed: a daemon that is up does not end for that.
        let _ = std::io::stdout().write_all(line.as_bytes());
        let _ = std::io::stdout().flush();
        // The reader waits for the end of the pipe: standard output becomes /dev/null.
        if let Ok(null) = rustix::fs::open("/dev/null", OFlags::WRONLY, Mode::empty()) {
            let _ = rustix::stdio::dup2_stdout(null);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_understood() {
        assert_eq!(Outcome::read(&b"ready\n"[..]), Outcome::Ready);
        assert_eq!(Outcome::read(&b"failed no root\n"[..]), Outcome::Failed("no root".to_owned()));
        assert_eq!(Outcome::read(&b"busy pid 7\n"[..]), Outcome::Busy("pid 7".to_owned()));
        assert_eq!(Outcome::read(&b""[..]), Outcome::Failed("it died while starting".to_owned()));
    }
}
