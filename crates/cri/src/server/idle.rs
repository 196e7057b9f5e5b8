//! Noticing that nobody is there any more.

use std::time::{Duration, Instant};

/// How long nobody has to be there.
const IDLE: Duration = Duration::from_secs(2);

/// How often that is looked at.
const PERIOD: Duration = Duration::from_millis(200);

/// Ends when `nobody` has been true for two seconds without a break.
pub(super) async fn wait(nobody: impl Fn() -> bool) {
    let mut since: Option<Instant> = None;
    loop {
        tokio::time::sleep(PERIOD).await;
        match (nobody(), since) {
            (false, _) => since = None,
            (true, None) => since = Some(Instant::now()),
            (true, Some(start)) if start.elapsed() >= IDLE => return,
            (true, Some(_)) => {}
        }
    }
}
