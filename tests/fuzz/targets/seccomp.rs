//! Seccomp profiles: what is compiled means what the model and libseccomp say.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::LinuxSeccompAction;
use vaquita_fuzz::generate::{Choices, calls, profile};
use vaquita_fuzz::interpreter::{check, forgets_number, run};
use vaquita_fuzz::model::{Names, answer};
use vaquita_fuzz::{differences, libseccomp, names};
use vaquita_runtime::seccomp::compile;

/// libseccomp 2.5.4 leaks nodes of its tree where one rule replaces others.
#[unsafe(no_mangle)]
extern "C" fn __lsan_default_suppressions() -> *const std::ffi::c_char {
    c"leak:libseccomp".as_ptr()
}

static NAMES: LazyLock<Names> = LazyLock::new(names);

fuzz_target!(|data: &[u8]| {
    let profile = profile(&mut Choices(data), &NAMES);
    let program = match compile(&profile) {
        Ok(program) => program,
        Err(error) => {
            let notifies = |action| action == LinuxSeccompAction::ScmpActNotify;
            let rules = profile.syscalls().iter().flatten();
            assert!(
                rules.into_iter().any(|rule| notifies(rule.action())) || notifies(profile.default_action()),
                "{error}"
            );
            return;
        }
    };
    check(program.instructions()).expect("the kernel would take it");
    let calls = calls(&profile, &NAMES);
    for call in &calls {
        let (actual, expected) = (run(program.instructions(), call), answer(&profile, &NAMES, call));
        assert_eq!(actual, expected.verdict, "{call:x?}: {actual:#x}, not {expected:x?}\n{profile:?}");
    }
    // libseccomp's time grows exponentially with the conditional rules for one call.
    let additions = |least: usize| -> usize {
        let rules = profile.syscalls().iter().flatten();
        let rules = rules.filter(|rule| rule.args().iter().flatten().count() >= least);
        rules.map(|rule| rule.names().len() * rule.args().iter().flatten().count()).sum()
    };
    if additions(1) > 10 || additions(2) > 6 {
        return;
    }
    // libseccomp refuses some profiles, as with two rules that contradict each other.
    let Ok(theirs) = libseccomp::compile(&profile) else { return };
    check(&theirs).expect("libseccomp's program is one");
    for call in calls.iter().filter(|call| !forgets_number(&theirs, call)) {
        let (ours, theirs) = (run(program.instructions(), call), run(&theirs, call));
        if let Err(why) = differences::explain(&profile, &NAMES, call, ours, theirs) {
            panic!("{call:x?}: {ours:#x}, libseccomp says {theirs:#x}: {why}\n{profile:?}");
        }
    }
});
