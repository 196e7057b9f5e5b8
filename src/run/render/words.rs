//! Words for what an event says by number.

use std::time::Duration;

use vaquita_kube::event::{HookKind, ProbeKind};

use crate::size;
use crate::terminal::{Style, printable};

/// How a container ended, in clear words.
pub(super) fn ended(code: i32, reason: &str, memory_limit: Option<&str>) -> String {
    match reason {
        "OOMKilled" => {
            let why = memory_limit.map_or_else(
                || "memory ran out".to_owned(),
                |limit| format!("it needed more memory than its limit of {limit}"),
            );
            format!("killed because {why} (OOMKilled, exit {code})")
        }
        "" | "Completed" | "Error" => format!("exit {}", exit(code)),
        reason => format!("{reason}, exit {}", exit(code)),
    }
}

/// `143 (SIGTERM)`: shells and kubelets add 128 to the number of the signal.
fn exit(code: i32) -> String {
    let signal = match code {
        129 => "SIGHUP",
        130 => "SIGINT",
        131 => "SIGQUIT",
        132 => "SIGILL",
        134 => "SIGABRT",
        135 => "SIGBUS",
        136 => "SIGFPE",
        137 => "SIGKILL",
        139 => "SIGSEGV",
        141 => "SIGPIPE",
        143 => "SIGTERM",
        159 => "SIGSYS",
        _ => return code.to_string(),
    };
    format!("{code} ({signal})")
}

pub(super) fn probe(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Liveness => "liveness",
        ProbeKind::Readiness => "readiness",
        ProbeKind::Startup => "startup",
    }
}

pub(super) fn hook(kind: HookKind) -> &'static str {
    match kind {
        HookKind::PostStart => "postStart",
        HookKind::PreStop => "preStop",
    }
}

/// Why an image could not be had, naming it once.
pub(super) fn pull_failure(image: &str, message: &str) -> String {
    let message = plain(message.trim_start_matches("PullImage: "));
    if message.contains(image) { message } else { format!("{}: {message}", plain(image)) }
}

/// Text from outside, in one line.
pub(super) fn plain(text: &str) -> String {
    printable(&text.replace('\n', " "), Style::PLAIN)
}

/// A duration that an event gives in seconds.
pub(super) fn seconds(count: f64) -> String {
    size::duration(Duration::try_from_secs_f64(count.max(0.0)).unwrap_or(Duration::MAX))
}
