//! Objects by key, with one counter of revisions: kept in one file on disk, listed and watched from memory.
//!
//! Knows keys and bytes, not what they mean.
