use std::collections::BTreeMap;

/// Who made a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user's name, as `system:serviceaccount:default:default`.
    pub name: String,
    /// The user's uid; empty where the way of authentication has none.
    pub uid: String,
    /// The groups that the user is in.
    pub groups: Vec<String>,
    /// What else the way of authentication tells.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A part of this process: may do everything.
    #[must_use]
    pub fn system(part: &str) -> Self {
        Self {
            name: format!("system:{part}"),
            groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            ..Self::default()
        }
    }
}
