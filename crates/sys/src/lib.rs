//! The kernel surface: every system call that needs unsafe code, with errors that print as the call.
