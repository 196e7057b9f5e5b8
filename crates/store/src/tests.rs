//! Tests that need a fake disk, or look inside.
