//! Events go an hour after they were last seen, as with a kube-apiserver of default settings.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use vaquita_apiserver::kinds::EVENT;
use vaquita_apiserver::{Cluster, DeleteOptions, ListOptions, Object, Write, time};

const LIFE: SignedDuration = SignedDuration::from_hours(1);
/// How many are looked at before others get their turn.
const PAGE: usize = 200;
/// Looks are no closer than this, so that events which end one by one go in handfuls.
const PAUSE: Duration = Duration::from_secs(60);

/// Deletes events whose time is over, for ever.
pub(super) async fn run(cluster: Cluster) {
    loop {
        let now = Timestamp::now();
        let first = sweep(&cluster, now).await;
        let wait = first.map_or(LIFE, |last| (last + LIFE).duration_since(now));
        tokio::time::sleep(Duration::try_from(wait).unwrap_or_default().max(PAUSE)).await;
    }
}

/// Deletes what is too old at a time; answers when the eldest of the others was last seen.
async fn sweep(cluster: &Cluster, now: Timestamp) -> Option<Timestamp> {
    let write = Write::system("event-expiry");
    let mut eldest: Option<Timestamp> = None;
    let mut options = ListOptions { limit: PAGE, ..ListOptions::default() };
    loop {
        let Ok(list) = cluster.list(&EVENT, None, &options) else { return eldest };
        for event in &list.items {
            let seen = seen(&event.value());
            if now.duration_since(seen) < LIFE {
                eldest = Some(eldest.map_or(seen, |eldest| eldest.min(seen)));
            } else {
                end(cluster, event, &write).await;
            }
        }
        if list.continued.is_empty() {
            return eldest;
        }
        options.continued = list.continued;
        tokio::task::yield_now().await;
    }
}

async fn end(cluster: &Cluster, event: &Object, write: &Write) {
    // One that was seen again meanwhile has another version, and stays.
    let options = DeleteOptions { version: Some(event.revision), ..DeleteOptions::default() };
    if let Err(error) = cluster.delete(&EVENT, event.namespace(), event.name(), &options, write).await {
        tracing::debug!(event = event.name(), error = %error.message, "an old event stays for now");
    }
}

/// When an event was last seen: the latest of the times in it.
fn seen(event: &Value) -> Timestamp {
    let times = [
        &event["lastTimestamp"],
        &event["series"]["lastObservedTime"],
        &event["eventTime"],
        &event["firstTimestamp"],
        &event["metadata"]["creationTimestamp"],
    ];
    times.into_iter().filter_map(time::parse).max().unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vaquita_apiserver::Options;
    use vaquita_store::Store;

    use super::*;

    #[tokio::test]
    async fn what_was_not_seen_for_an_hour_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb"), vaquita_store::Options::default()).unwrap();
        let cluster = Cluster::new(store, Options::default());
        cluster.bootstrap().await.unwrap();
        let begin = Timestamp::now();
        for i in 0..PAGE + 10 {
            let last = if i % 2 == 0 { begin } else { begin + SignedDuration::from_mins(30) };
            let event = json!({
                "metadata": { "name": format!("e{i}") },
                "involvedObject": { "kind": "Pod", "namespace": "default", "name": "p" },
                "lastTimestamp": time::format(last),
            });
            cluster.create(&EVENT, "default", event, &Write::system("test")).await.unwrap();
        }
        let left = || cluster.list(&EVENT, None, &ListOptions::default()).unwrap().items.len();
        assert!(
            sweep(&cluster, begin + SignedDuration::from_mins(59))
                .await
                .is_some_and(|eldest| eldest <= begin + SignedDuration::from_secs(60))
        );
        assert_eq!(left(), PAGE + 10);
        let eldest = sweep(&cluster, begin + SignedDuration::from_mins(65)).await;
        assert!(eldest.is_some_and(|eldest| eldest >= begin + SignedDuration::from_mins(29)), "{eldest:?}");
        assert_eq!(left(), PAGE / 2 + 5);
        assert_eq!(sweep(&cluster, begin + SignedDuration::from_hours(2)).await, None);
        assert_eq!(left(), 0);
    }

    #[test]
    fn an_event_was_seen_at_its_latest_time() {
        let event = json!({
            "metadata": { "creationTimestamp": "2026-11-21T08:00:00Z" },
            "firstTimestamp": null,
            "eventTime": "2026-11-21T09:00:00.000001Z",
            "series": { "count": 3, "lastObservedTime": "2026-11-21T10:00:00.500000Z" },
        });
        assert_eq!(seen(&event), "2026-11-21T10:00:00.5Z".parse().unwrap());
        assert_eq!(seen(&json!({})), Timestamp::UNIX_EPOCH);
    }
}
