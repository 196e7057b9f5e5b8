//! Between clone and execve nothing allocates or frees: a child of the tests that does is aborted, and its test fails.

#![expect(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI32, Ordering};

#[global_allocator]
static WATCHED: Watched = Watched;

/// The process that allocated first. A clone inherits the number, and is another process.
static OWNER: AtomicI32 = AtomicI32::new(0);

struct Watched;

fn check() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let owner = OWNER.load(Ordering::Relaxed);
    if owner == 0 {
        OWNER.store(own, Ordering::Relaxed);
    } else if owner != own {
        // Nothing can be printed here: that could allocate.
        std::process::abort();
    }
}

// SAFETY: hands everything to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}
