//! Credentials that come from elsewhere than pull secrets.

use std::pin::Pin;
use std::sync::Arc;

use vaquita_proto::cri::AuthConfig;

/// Looks for the credentials of an image, by its name as a manifest has it.
#[derive(Clone)]
pub struct Keyring(Arc<dyn Look>);

trait Look: Send + Sync {
    fn look(&self, image: String)
    -> Pin<Box<dyn Future<Output = Result<Option<AuthConfig>, String>> + Send>>;
}

impl<F, L> Look for L
where
    F: Future<Output = Result<Option<AuthConfig>, String>> + Send + 'static,
    L: Fn(String) -> F + Send + Sync,
{
    fn look(
        &self,
        image: String,
    ) -> Pin<Box<dyn Future<Output = Result<Option<AuthConfig>, String>> + Send>> {
        Box::pin(self(image))
    }
}

impl Keyring {
    /// A keyring that asks `look`. Its error is one sentence, and that of the pull.
    pub fn new<F>(look: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Option<AuthConfig>, String>> + Send + 'static,
    {
        Self(Arc::new(look))
    }

    pub(super) async fn find(&self, image: &str) -> Result<Option<AuthConfig>, String> {
        self.0.look(image.to_owned()).await
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring(…)")
    }
}
