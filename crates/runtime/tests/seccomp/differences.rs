//! Where the compiler and libseccomp, used as runc uses it, differ, and why.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use crate::interpreter::Call;
use crate::model::{Abi, Names, answer};

/// Whether two verdicts on a call are equal or differ for a known reason.
pub fn explain(
    profile: &LinuxSeccomp,
    names: &Names,
    call: &Call,
    ours: u32,
    theirs: u32,
) -> Result<(), &'static str> {
    if ours == theirs {
        return Ok(());
    }
    let answer = answer(profile, names, call);
    // 1. ENOSYS for calls newer than the profile: runc puts it before the program of libseccomp, which is compared here
    //    without.
    if answer.is_newer {
        return Ok(());
    }
    // 2. Several conditional rules hold: we take the first of the profile. libseccomp takes one of them by the order of its
    //    tree, in which arguments and values are sorted.
    if answer.holding.contains(&ours) && answer.holding.contains(&theirs) {
        return Ok(());
    }
    // 3. socketcall(2) and ipc(2) of 32-bit x86: with conditions on the inner call's arguments, libseccomp compares them
    //    with what is a pointer (or lets them through). We deny what cannot be examined.
    if answer.through_gate {
        return Ok(());
    }
    // 4. A call that libseccomp does not know, because it is newer than the library.
    let is_unknown = |name: &String| {
        let number = Abi::of_call(call).and_then(|abi| Some(names.number(abi, name)? | abi.bit()));
        Names::is_newer(name) && number == Some(call.number)
    };
    if profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names).any(is_unknown) {
        return Ok(());
    }
    // 5. Several conditional rules, one of which compares by order: libseccomp 2.5.4 merges them into one tree of comparisons
    //    of halves, and loses some. Of `a < 0x8000_0000_0000_0000` and `a < 0` the second hides the first for a = 1.
    let orders = |arg: &LinuxSeccompArg| {
        use LinuxSeccompOperator::{ScmpCmpGe, ScmpCmpGt, ScmpCmpLe, ScmpCmpLt};
        matches!(arg.op(), ScmpCmpGe | ScmpCmpGt | ScmpCmpLe | ScmpCmpLt)
    };
    let alternatives = answer.conditions.iter().map(Vec::len).sum::<usize>();
    if alternatives > 1 && answer.conditions.iter().flatten().any(orders) {
        return Ok(());
    }
    Err("no known difference")
}
