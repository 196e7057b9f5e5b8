//! The command line that others see.

use rustix::io::Errno;

use super::wait::parse_number;
use crate::{Error, Result};

/// Where the kernel reads the command line of this process from: the memory that its arguments were put into when it was
/// executed, which stays the process's own to write.
#[derive(Debug)]
pub struct CommandLine {
    start: usize,
    length: usize,
}

impl CommandLine {
    /// That of this process (fields 48 and 49 of proc_pid_stat(5)). It is the same place in a copy of it.
    ///
    /// # Errors
    /// `EDEADLK` if the process has more than one thread: another could be reading its arguments. Else those of reading procfs.
    pub fn of_self() -> Result<Self> {
        super::fork::one_thread("the command line")?;
        let call = || "read(\"/proc/self/stat\")";
        let stat = std::fs::read("/proc/self/stat").map_err(|error| {
            Error::new(call(), error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
        })?;
        let field = |number| parse_number(&stat, number).and_then(|value| usize::try_from(value).ok());
        match (field(48), field(49)) {
            (Some(start), Some(end)) if start > 0 && end > start => Ok(Self { start, length: end - start }),
            _ => Err(Error::refused(call(), Errno::INVAL, "fields 48 and 49 are not a range of memory")),
        }
    }

    /// Shows these words instead. What does not fit into the room that the arguments had is left out.
    pub fn show(&mut self, words: &[&[u8]]) {
        let mut line: Vec<u8> = words.iter().flat_map(|word| word.iter().copied().chain([0])).collect();
        // It ends with a zero byte, or the kernel looks for one in the environment.
        line.truncate(self.length - 1);
        line.resize(self.length, 0);
        // SAFETY: the kernel put the arguments there, on the stack of the only thread (checked when this was made), and
        // nothing moves or frees them. The standard library and the C library, whose pointers lead there, read strings
        // that end with a zero byte, of which the last one stays.
        unsafe { core::ptr::copy_nonoverlapping(line.as_ptr(), self.start as *mut u8, self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_may_be_reading_it() {
        let wait = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| wait.wait());
            assert_eq!(CommandLine::of_self().unwrap_err().errno(), Errno::DEADLK);
            wait.wait();
        });
    }
}
