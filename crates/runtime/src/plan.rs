//! The pure half: an OCI specification becomes a list of prepared steps.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::Error;

/// What a plan depends on besides the specification.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The directory that relative paths in the specification (mount sources) are relative to.
    pub bundle: PathBuf,
    /// Raise a requested `oomScoreAdj` to the lowest value that this process may set, instead of failing. For hosts that lack `CAP_SYS_RESOURCE`.
    pub restrict_oom_score_adj: bool,
}

/// A validated container: all that [`crate::create`] needs to know, prepared so that nothing is computed after clone.
#[derive(Debug)]
pub struct Plan {}

impl Plan {
    /// Validates `spec` and prepares every step.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] and [`crate::Kind::Unsupported`] name the offending property. A property that this runtime does not implement is an error, never ignored.
    pub fn new(spec: &Spec, context: &Context) -> Result<Self, Error> {
        let _ = (spec, context);
        Err(Error::unsupported("not there yet"))
    }
}
