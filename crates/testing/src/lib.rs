//! Helpers for tests that need a real host.
