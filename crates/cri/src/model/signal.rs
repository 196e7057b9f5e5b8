//! Signals: the interface's numbers, the kernel's numbers, the names in images.

use vaquita_proto::cri;

use crate::{Error, Result};

/// The kernel's number. None for "the runtime's default".
pub(crate) fn signal_from_cri(signal: i32) -> Result<Option<i32>> {
    let signal = cri::Signal::try_from(signal)
        .map_err(|_| Error::invalid(format!("stop_signal: {signal} is not a signal of this interface")))?;
    if signal == cri::Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = signal.as_str_name().trim_start_matches("SIGNAL_");
    let name = name.replace("PLUS", "+").replace("MINUS", "-");
    signal_from_image(&name).map(Some)
}

/// The interface's number for a number of the kernel.
pub(crate) fn signal_to_cri(number: i32) -> cri::Signal {
    (1..=65)
        .filter_map(|value| cri::Signal::try_from(value).ok())
        .find(|signal| matches!(signal_from_cri(*signal as i32), Ok(Some(other)) if other == number))
        .unwrap_or(cri::Signal::RuntimeDefault)
}

/// The kernel's number of what an image calls its stop signal: `SIGQUIT`, `quit`, `3`, `SIGRTMIN+3`.
pub(crate) fn signal_from_image(text: &str) -> Result<i32> {
    let unknown = || Error::invalid(format!("stop signal {text:?} is not a signal"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = |rest: &str, base: i32, sign: i32| {
        let offset = match rest {
            "" => 0,
            _ => rest[1..].parse::<i32>().map_err(|_| unknown())?,
        };
        let number = base + sign * offset;
        if (0..=30).contains(&offset) && (34..=64).contains(&number) { Ok(number) } else { Err(unknown()) }
    };
    if let Some(rest) = name.strip_prefix("RTMIN")
        && (rest.is_empty() || rest.starts_with('+'))
    {
        return realtime(rest, 34, 1);
    }
    if let Some(rest) = name.strip_prefix("RTMAX")
        && (rest.is_empty() || rest.starts_with('-'))
    {
        return realtime(rest, 64, -1);
    }
    NAMES.iter().find_map(|(other, number)| (*other == name).then_some(*number)).ok_or_else(unknown)
}

/// Names and numbers on x86-64 and arm64: signal(7).
const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_interface_has_a_number() {
        for value in 1..=65 {
            let number = signal_from_cri(value).unwrap().unwrap();
            assert!((1..=64).contains(&number), "{value}");
            let back = signal_to_cri(number);
            assert_eq!(signal_from_cri(back as i32).unwrap(), Some(number));
        }
        assert_eq!(signal_from_cri(0).unwrap(), None);
        assert!(signal_from_cri(66).is_err());
    }

    #[test]
    fn names_of_images() {
        for (name, number) in
            [("SIGQUIT", 3), ("quit", 3), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-14", 50), ("RTMIN", 34)]
        {
            assert_eq!(signal_from_image(name).unwrap(), number, "{name}");
        }
        for name in ["", "0", "65", "SIG", "SIGFOO", "RTMIN+31", "RTMIN-1", "RTMIN+é", "-1"] {
            assert!(signal_from_image(name).is_err(), "{name}");
        }
    }
}
