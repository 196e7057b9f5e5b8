//! Containers where limits are those of cgroup v2, and where systemd is: what the machine of `hack/vm` has and a build machine
//! need not have. All are ignored elsewhere; `hack/vm mini system/vm` and `hack/vm systemd system/vm` run them.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod checkpoint;
mod container;

mod devices;
mod labels;
mod limits;
mod owner;
mod refusals;
mod rootless;
mod scopes;
