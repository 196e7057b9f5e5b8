//! Memory from the kernel directly, which goes back to it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use rustix::io::Errno;

use crate::{Error, Result};

/// A zeroed buffer in pages of its own, outside the heap: untouched pages cost nothing, and what was used can be given
/// back while the buffer is kept. For large buffers of small processes that live long, where the allocator would hold
/// on to the pages.
#[derive(Default)]
pub struct Pages {
    start: Option<NonNull<u8>>,
    length: usize,
}

impl Pages {
    /// A buffer of `length` bytes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(length: usize) -> Result<Self> {
        if length == 0 {
            return Ok(Self::default());
        }
        // SAFETY: a new private mapping, at an address that the kernel chooses, aliases nothing.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(Error::new(format!("mmap(NULL, {length}, .., MAP_ANONYMOUS)"), last_errno()));
        }
        Ok(Self { start: NonNull::new(start.cast()), length })
    }

    /// Gives the memory back to the kernel. The buffer reads as zeroes afterwards.
    pub fn release(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: the whole mapping is ours and private; MADV_DONTNEED makes it zero-filled. `&mut self` proves that
            // nobody looks at it meanwhile.
            unsafe { libc::madvise(start.as_ptr().cast(), self.length, libc::MADV_DONTNEED) };
        }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let Some(start) = self.start else { return &[] };
        // SAFETY: the mapping is `length` readable, initialised (zeroed) bytes, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        let Some(start) = self.start else { return &mut [] };
        // SAFETY: as for deref; `&mut self` makes it the only reference.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: the mapping is ours, of this length, and nothing can refer to it any more.
            unsafe { libc::munmap(start.as_ptr().cast(), self.length) };
        }
    }
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pages({} bytes)", self.length)
    }
}

// SAFETY: the mapping is owned, and bound to no thread.
unsafe impl Send for Pages {}
// SAFETY: shared references only read.
unsafe impl Sync for Pages {}

/// Gives pages of the heap that hold nothing back to the kernel. The allocator keeps them by itself, in case; for a
/// process that lives long after a busy moment that is waste.
pub fn trim_heap() {
    // SAFETY: it touches free memory of the allocator only, under the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives the pages of the stack that are below the caller's frame back to the kernel: a start needs more of it than what comes
/// later. Does nothing but in the thread that the program began with, whose stack alone has nothing below it.
#[inline(never)]
pub fn trim_stack() {
    /// As much as the kernel has mapped when a program begins.
    const DEPTH: usize = 128 << 10;
    /// The kernel leaves at least 128 MiB below the top of the stack to it, so what is this near is the stack.
    const NEAR: usize = 1 << 20;
    let frame = 0_u8;
    let here = &raw const frame as usize;
    // SAFETY: it reads what the kernel has told the process: where random bytes lie, at the top of the stack.
    let top = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    if top.checked_sub(here).is_none_or(|distance| distance > NEAR) {
        return;
    }
    let page = page_size();
    // A page is left for the call itself, and for what leaf functions keep below the stack's end.
    let end = here.saturating_sub(page) / page * page;
    let start = end.saturating_sub(DEPTH);
    // SAFETY: nothing below the frame of a function that runs is in use, and the call needs less than a page. No handler of a
    // signal can be there: one that interrupts this thread begins and ends between two of its instructions.
    unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
}

fn page_size() -> usize {
    // SAFETY: it reads what the kernel has told the process. Never zero: all architectures tell.
    (unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize).max(4096)
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::NOMEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_until_it_is_released() {
        let mut pages = Pages::new(100_000).unwrap();
        assert_eq!(pages.len(), 100_000);
        pages[99_999] = 7;
        assert_eq!(pages[99_999], 7);
        pages.release();
        assert!(pages.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn nothing_is_fine() {
        assert!(Pages::new(0).unwrap().is_empty());
        assert!(Pages::default().is_empty());
    }

    #[test]
    fn the_heap_survives_a_trim() {
        let kept = vec![1u8; 10_000];
        drop(vec![2u8; 100_000]);
        trim_heap();
        assert!(kept.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn other_threads_keep_their_stacks() {
        let kept = [7_u8; 3 * 4096];
        trim_stack();
        assert!(kept.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn too_much_is_an_error() {
        assert_eq!(Pages::new(usize::MAX / 2).unwrap_err().errno(), Errno::NOMEM);
    }
}
