//! Telling a plugin of everything that is there already.

use std::time::Duration;

use prost::Message as _;

use crate::api::{Container, ContainerUpdate, PodSandbox, SynchronizeRequest, SynchronizeResponse};
use crate::connection::{Connection, LONGEST};
use crate::plugin::encode;

/// What a message may have beside its payload.
const ENVELOPE: usize = 256;

/// Tells the plugin of all of these, in as many parts as it takes, and returns the updates that it wants. Each part may take `limit`.
///
/// # Errors
/// Why it cannot be told.
pub(crate) async fn synchronize(
    connection: &Connection,
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
    limit: Duration,
) -> Result<Vec<ContainerUpdate>, String> {
    for part in parts(pods, containers, LONGEST - ENVELOPE) {
        let answer = connection.call("Synchronize", encode(&part), limit).await;
        let answer: SynchronizeResponse = answer.map_err(|failure| failure.why(connection, "Synchronize"))?;
        if !part.more {
            return Ok(answer.update);
        }
        if !answer.more || !answer.update.is_empty() {
            return Err(
                "so many pods and containers are told in parts, which it does not understand".to_owned()
            );
        }
    }
    Ok(Vec::new())
}

/// All in one if it fits, else as few as may be, of at most `limit` bytes (one of a single thing may have more). At least one.
fn parts(pods: Vec<PodSandbox>, containers: Vec<Container>, limit: usize) -> Vec<SynchronizeRequest> {
    // Tag and length come before each.
    let framed = |length: usize| length + 6;
    let mut parts = vec![SynchronizeRequest::default()];
    let mut used = 2;
    let mut room = |parts: &mut Vec<SynchronizeRequest>, length: usize| -> usize {
        if used + length > limit && used > 2 {
            parts.push(SynchronizeRequest::default());
            used = 2;
        }
        used += length;
        parts.len() - 1
    };
    for pod in pods {
        let at = room(&mut parts, framed(pod.encoded_len()));
        parts[at].pods.push(pod);
    }
    for container in containers {
        let at = room(&mut parts, framed(container.encoded_len()));
        parts[at].containers.push(container);
    }
    let last = parts.len() - 1;
    parts[..last].iter_mut().for_each(|part| part.more = true);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(id: usize) -> PodSandbox {
        PodSandbox { id: format!("pod{id:02}"), name: "x".repeat(50), ..PodSandbox::default() }
    }

    fn container(id: usize) -> Container {
        Container { id: format!("container{id:02}"), ..Container::default() }
    }

    #[test]
    fn little_is_told_at_once() {
        let parts = parts(vec![pod(1)], vec![container(1), container(2)], 1000);
        assert_eq!(parts.len(), 1);
        assert!(!parts[0].more);
        assert_eq!(super::parts(Vec::new(), Vec::new(), 1000), [SynchronizeRequest::default()]);
    }

    #[test]
    fn much_is_told_in_parts_that_fit_and_of_which_only_the_last_says_that_it_is() {
        let (pods, containers): (Vec<_>, Vec<_>) =
            ((0..20).map(pod).collect(), (0..30).map(container).collect());
        for limit in [1, 100, 200, 300] {
            let parts = parts(pods.clone(), containers.clone(), limit);
            let (last, others) = parts.split_last().unwrap();
            assert!(!last.more && others.iter().all(|part| part.more));
            for part in &parts {
                let things = part.pods.len() + part.containers.len();
                assert!(things == 1 || things > 1 && part.encoded_len() <= limit, "{things} within {limit}");
            }
            assert_eq!(parts.iter().flat_map(|part| part.pods.clone()).collect::<Vec<_>>(), pods);
            let told: Vec<_> = parts.into_iter().flat_map(|part| part.containers).collect();
            assert_eq!(told, containers);
        }
    }
}
