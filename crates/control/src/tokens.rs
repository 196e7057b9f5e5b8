//! Tokens of service accounts.

use std::pin::Pin;

use serde_json::Value;
use vaquita_apiserver::Status;

/// Who gives tokens to pods.
pub trait Tokens: Send + Sync {
    /// Answers a TokenRequest (`authentication.k8s.io/v1`) for a service account, as the API's `serviceaccounts/token` does.
    ///
    /// # Errors
    /// As that.
    fn request<'a>(
        &'a self,
        namespace: &'a str,
        service_account: &'a str,
        request: Value,
    ) -> Pin<Box<dyn Future<Output = Result<Value, Status>> + Send + 'a>>;
}
