//! What a request is about, for its span: noted where the request is answered, read where it is observed.

use std::cell::RefCell;

tokio::task_local! {
    static ABOUT: RefCell<About>;
}

/// The objects that a request has named, or made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct About {
    pub(crate) sandbox: Option<String>,
    pub(crate) container: Option<String>,
}

/// The request of the calling task is about this sandbox. Of several the first counts; nothing happens if nobody wants to know.
pub(crate) fn about_sandbox(id: &str) {
    note(|about| about.sandbox.get_or_insert_with(|| id.to_owned()));
}

/// As [`about_sandbox`], for a container.
pub(crate) fn about_container(id: &str) {
    note(|about| about.container.get_or_insert_with(|| id.to_owned()));
}

fn note(change: impl FnOnce(&mut About) -> &mut String) {
    let _ = ABOUT.try_with(|about| {
        change(&mut about.borrow_mut());
    });
}

/// The output of a request, and what it is about.
pub(super) async fn observed<T>(request: impl Future<Output = T>) -> (T, About) {
    let noted = async {
        let output = request.await;
        (output, ABOUT.with(RefCell::take))
    };
    ABOUT.scope(RefCell::default(), noted).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_counts_and_nobody_else_is_meant() {
        about_sandbox("nobody");
        let (output, about) = observed(async {
            about_sandbox("one");
            tokio::task::yield_now().await;
            about_sandbox("two");
            about_container("three");
            7
        })
        .await;
        let expected = About { sandbox: Some("one".into()), container: Some("three".into()) };
        assert_eq!((output, about), (7, expected));
        assert_eq!(observed(async {}).await.1, About::default());
    }
}
