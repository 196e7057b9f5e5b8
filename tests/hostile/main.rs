//! `vaquita-oci` when things go wrong: system calls that fail, kernels that lack some, kills in the middle, containers
//! that attack whoever enters them.
//!
//! The runtime is run under a tracer ([`vaquita_testing::trace`]) that follows it until a container's program runs.
//! `VAQUITA_TEST_RUNTIME` names another program to be put to the same tests. All need root.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod attacks;
mod counts;
mod crash;
mod errors;
mod kernels;
mod paths;
mod scene;
