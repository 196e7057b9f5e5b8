//! Which events a plugin wants to hear of, and how it is told. Pure.

use crate::api::Event;

/// All events that there are: the first is bit 0.
const ALL: i32 = (1 << (Event::Last as i32 - 1)) - 1;

/// A set of events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Events(i32);

impl Events {
    /// What a plugin has subscribed to: nothing said is everything. None for events that there are not.
    pub(crate) fn subscribed(mask: i32) -> Option<Self> {
        match mask {
            0 => Some(Self(ALL)),
            mask if mask & !ALL == 0 => Some(Self(mask)),
            _ => None,
        }
    }

    /// Whether this one is among them.
    pub(crate) fn has(self, event: Event) -> bool {
        match event as i32 {
            0 => false,
            number => self.0 & (1 << (number - 1)) != 0,
        }
    }
}

/// The request that tells of an event.
pub(crate) fn method(event: Event) -> &'static str {
    match event {
        Event::Unknown | Event::Last => "",
        Event::RunPodSandbox => "RunPodSandbox",
        Event::StopPodSandbox => "StopPodSandbox",
        Event::RemovePodSandbox => "RemovePodSandbox",
        Event::CreateContainer => "CreateContainer",
        Event::PostCreateContainer => "PostCreateContainer",
        Event::StartContainer => "StartContainer",
        Event::PostStartContainer => "PostStartContainer",
        Event::UpdateContainer => "UpdateContainer",
        Event::PostUpdateContainer => "PostUpdateContainer",
        Event::StopContainer => "StopContainer",
        Event::RemoveContainer => "RemoveContainer",
        Event::UpdatePodSandbox => "UpdatePodSandbox",
        Event::PostUpdatePodSandbox => "PostUpdatePodSandbox",
        Event::ValidateContainerAdjustment => "ValidateContainerAdjustment",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_one_bit_for_each_event_from_the_first_on() {
        let events = Events::subscribed(0b1001).unwrap();
        assert!(events.has(Event::RunPodSandbox) && events.has(Event::CreateContainer));
        assert!(!events.has(Event::StopPodSandbox) && !events.has(Event::ValidateContainerAdjustment));
        assert!(!events.has(Event::Unknown));
    }

    #[test]
    fn no_mask_is_all_events() {
        assert_eq!(Events::subscribed(0), Events::subscribed(0x3fff));
        assert!(Events::subscribed(0).unwrap().has(Event::ValidateContainerAdjustment));
    }

    #[test]
    fn events_that_there_are_not_are_refused() {
        for mask in [0x4000, -1, i32::MIN, 0x7fff] {
            assert_eq!(Events::subscribed(mask), None, "{mask:#x}");
        }
    }
}
