//! Tests of the whole system, in one binary.

mod workspace;
