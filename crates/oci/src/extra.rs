//! Further descriptors for a program: those of socket activation (sd_listen_fds(3)), and `--preserve-fds`.

use std::os::fd::OwnedFd;

use oci_spec::runtime::Process;

use crate::{Error, Kind};

/// Descriptors that a program gets, from 3 on.
#[derive(Debug, Default)]
pub struct Extra {
    listening: usize,
    fds: Vec<OwnedFd>,
}

impl Extra {
    /// `preserved` descriptors of the caller behind those of socket activation, which `LISTEN_PID` and `LISTEN_FDS` of the
    /// environment announce. To be called first of all, before other files have their numbers.
    ///
    /// # Errors
    /// [`Kind::Invalid`] when one of them is not open.
    pub fn take(preserved: u16) -> Result<Self, Error> {
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
        let is_for_us = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
        let listening =
            number("LISTEN_FDS").filter(|_| is_for_us).and_then(|count| u16::try_from(count).ok());
        let listening = listening.unwrap_or_default();
        let count = i32::from(listening) + i32::from(preserved);
        let fds = (3..3 + count).map(|number| {
            vaquita_sys::process::inherited(number).map_err(|_| {
                let last = 2 + count;
                let message = format!(
                    "descriptor {number} is not open: --preserve-fds {preserved} with {listening} of socket activation means 3 to {last}"
                );
                Error::new(Kind::Invalid, message)
            })
        });
        // Each copy has a higher number than its original: none takes the number of one to come that is not open.
        let fds = fds.rev().collect::<Result<Vec<_>, Error>>()?;
        Ok(Self { listening: usize::from(listening), fds: fds.into_iter().rev().collect() })
    }

    /// Copies of them.
    pub(crate) fn open(&self) -> Result<Vec<OwnedFd>, Error> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| Error::io("fcntl(F_DUPFD_CLOEXEC)", &error));
        self.fds.iter().map(copy).collect()
    }

    /// Tells the program of those of socket activation.
    pub(crate) fn announce(&self, process: &mut Process) {
        if self.listening == 0 {
            return;
        }
        let mut env = process.env().clone().unwrap_or_default();
        env.retain(|line| !line.starts_with("LISTEN_PID=") && !line.starts_with("LISTEN_FDS="));
        env.extend([format!("LISTEN_FDS={}", self.listening), "LISTEN_PID=1".to_owned()]);
        process.set_env(Some(env));
    }
}
