//! Giving memory back that the daemon needed once.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use vaquita_sys::memory;

/// How often. Mapping again what is in use takes some 0.1 ms.
const EVERY: Duration = Duration::from_secs(5);
/// Each how many times the heap is searched, too.
const HEAP: usize = 12;

/// Has the kernel unmap the program's code, of which a start needs most and a node at work little, now and every five
/// seconds, and gives pages of the heap back every minute. Never returns.
pub(super) async fn rest() {
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for turn in 0..HEAP {
            clock.tick().await;
            memory::release_program();
            if turn == 0 {
                memory::trim_heap();
            }
        }
    }
}
