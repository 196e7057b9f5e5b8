//! Probes and hooks.

use super::spec::Whole;
use crate::kinds::at::At;
use crate::kinds::errors::Errors;
use crate::kinds::forms::{header, port};

const SIGNALS: &[&str] = &[
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

pub(super) fn all(errors: &mut Errors, container: &At<'_>, whole: &Whole<'_>) {
    let lifecycle = container.at("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.at(hook);
        if hook.given() {
            handler(errors, &hook, &["exec", "httpGet", "tcpSocket", "sleep"], whole);
        }
    }
    let signal = lifecycle.at("stopSignal");
    if signal.given() {
        match whole.spec.at("os").at("name").text() {
            "windows" => errors.one_of_if_given(&signal, &["SIGKILL", "SIGTERM"]),
            "" => errors.forbidden(&signal, "may not be set for containers with empty `spec.os.name`"),
            _ => errors.one_of_if_given(&signal, SIGNALS),
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.at(name);
        if !probe.given() {
            continue;
        }
        handler(errors, &probe, &["exec", "httpGet", "tcpSocket", "grpc"], whole);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            errors.not_negative(&probe.at(field));
        }
        let grace = probe.at("terminationGracePeriodSeconds");
        if grace.int().is_some_and(|seconds| seconds <= 0) {
            errors.invalid(&grace, "must be greater than 0");
        }
        let successes = probe.at("successThreshold");
        if name == "readinessProbe" {
            if grace.given() {
                errors.invalid(&grace, "must not be set for readinessProbes");
            }
        } else if successes.number() != 1 {
            errors.invalid_as(&successes, successes.number(), "must be 1");
        }
    }
}

/// One action, and no more.
fn handler(errors: &mut Errors, at: &At<'_>, kinds: &[&str], whole: &Whole<'_>) {
    let mut given = kinds.iter().map(|kind| at.at(kind)).zip(kinds).filter(|(action, _)| action.given());
    let Some((action, kind)) = given.next() else {
        return errors.required(at, "must specify a handler type");
    };
    match *kind {
        "exec" => {
            if action.at("command").is_empty() {
                errors.required(&action.at("command"), "");
            }
        }
        "httpGet" => {
            errors.needs(&action.at("path"));
            port_or_name(errors, &action.at("port"));
            let scheme = action.at("scheme");
            if !["HTTP", "HTTPS"].contains(&scheme.text()) {
                errors.not_supported(&scheme, &["HTTP", "HTTPS"]);
            }
            let headers = action.at("httpHeaders");
            for one in headers.items() {
                let name = one.at("name").text();
                for message in header(name) {
                    errors.invalid_as(&headers, name, message);
                }
            }
        }
        "sleep" => {
            let seconds = action.at("seconds").number();
            if let Some(grace) = whole.spec.at("terminationGracePeriodSeconds").int()
                && !(0..=grace).contains(&seconds)
            {
                let text =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid_as(&action, seconds, text);
            }
        }
        _ => port_or_name(errors, &action.at("port")),
    }
    for (more, _) in given {
        errors.forbidden(&more, "may not specify more than 1 handler type");
    }
}

fn port_or_name(errors: &mut Errors, at: &At<'_>) {
    if at.value().is_string() {
        errors.messages(at, port(at.text()));
    } else if !(1..=65535).contains(&at.number()) {
        errors.invalid_as(at, at.number(), "must be between 1 and 65535, inclusive");
    }
}
