//! What a container runs, with which environment and limits.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxIOPriorityBuilder, LinuxSchedulerFlag, PosixRlimitBuilder,
    Process, Scheduler, Spec,
};
use vaquita_nri::api;

use super::{Context, marked, unknown, word};
use crate::{Error, Result};

pub(super) fn adjust(spec: &mut Spec, asked: &api::ContainerAdjustment, context: &Context<'_>) -> Result<()> {
    let process = spec.process_mut().get_or_insert_default();
    environment(process, &asked.env)?;
    // An empty first one says that it replaces what another plugin has said.
    let args: Vec<String> = match asked.args.split_first() {
        Some((first, rest)) if first.is_empty() => rest.to_vec(),
        _ => asked.args.clone(),
    };
    if !args.is_empty() {
        process.set_args(Some(args));
    }
    for limit in &asked.rlimits {
        set_limit(process, limit)?;
    }
    let Some(asked) = &asked.linux else { return Ok(()) };
    if !context.is_built_in && (asked.io_priority.is_some() || asked.scheduler.is_some()) {
        return Err(Error::unsupported(
            "linux: io_priority and scheduler: only the built-in runtime is known to set them: not for pods of another runtime handler",
        ));
    }
    if let Some(asked) = &asked.io_priority {
        process.set_io_priority(io_priority(asked)?);
    }
    if let Some(asked) = &asked.scheduler {
        process.set_scheduler(scheduler(asked)?);
    }
    Ok(())
}

fn environment(process: &mut Process, asked: &[api::KeyValue]) -> Result<()> {
    if asked.is_empty() {
        return Ok(());
    }
    let all = process.env_mut().get_or_insert_default();
    let is = |entry: &str, name: &str| entry.split_once('=').is_some_and(|(other, _)| other == name);
    for gone in asked.iter().filter_map(|pair| pair.key.strip_prefix('-')) {
        all.retain(|entry| !is(entry, gone));
    }
    for pair in asked.iter().filter(|pair| !marked(&pair.key).1) {
        if pair.key.is_empty() || pair.key.contains(['=', '\0']) || pair.value.contains('\0') {
            return Err(Error::invalid(format!("env: {:?} cannot be a variable", pair.key)));
        }
        let made = format!("{}={}", pair.key, pair.value);
        match all.iter_mut().find(|entry| is(entry, &pair.key)) {
            Some(old) => *old = made,
            None => all.push(made),
        }
    }
    Ok(())
}

fn set_limit(process: &mut Process, asked: &api::PosixRlimit) -> Result<()> {
    let kind = word("rlimits", &asked.r#type)?;
    let limit = PosixRlimitBuilder::default().typ(kind).soft(asked.soft).hard(asked.hard).build();
    let limit = limit.map_err(|error| Error::invalid(format!("rlimits: {error}")))?;
    let mut all = process.rlimits().clone().unwrap_or_default();
    all.retain(|other| other.typ() != kind);
    all.push(limit);
    process.set_rlimits(Some(all));
    Ok(())
}

/// No class is none at all.
fn io_priority(asked: &api::LinuxIoPriority) -> Result<Option<LinuxIOPriority>> {
    let field = "linux.io_priority.class";
    let class = match api::IoPrioClass::try_from(asked.class) {
        Ok(api::IoPrioClass::IoprioClassNone) => return Ok(None),
        Ok(class) => word::<IOPriorityClass>(field, class.as_str_name())?,
        Err(_) => return Err(unknown(field, asked.class)),
    };
    let made = LinuxIOPriorityBuilder::default().class(class).priority(asked.priority).build();
    made.map(Some).map_err(|error| Error::invalid(format!("{field}: {error}")))
}

/// No policy is none at all. A 0 is "not given".
fn scheduler(asked: &api::LinuxScheduler) -> Result<Option<Scheduler>> {
    let field = "linux.scheduler.policy";
    let policy = match api::LinuxSchedulerPolicy::try_from(asked.policy) {
        Ok(api::LinuxSchedulerPolicy::SchedNone) => return Ok(None),
        Ok(policy) => word(field, policy.as_str_name())?,
        Err(_) => return Err(unknown(field, asked.policy)),
    };
    let flags = asked.flags.iter().map(|flag| scheduler_flag(*flag)).collect::<Result<Vec<_>>>()?;
    let some = |number: u64| Some(number).filter(|number| *number != 0);
    let mut scheduler = Scheduler::default();
    scheduler
        .set_policy(policy)
        .set_nice(Some(asked.nice).filter(|nice| *nice != 0))
        .set_priority(Some(asked.priority).filter(|priority| *priority != 0))
        .set_flags(Some(flags).filter(|flags| !flags.is_empty()))
        .set_runtime(some(asked.runtime))
        .set_deadline(some(asked.deadline))
        .set_period(some(asked.period));
    Ok(Some(scheduler))
}

fn scheduler_flag(flag: i32) -> Result<LinuxSchedulerFlag> {
    use api::LinuxSchedulerFlag as Asked;
    Ok(match Asked::try_from(flag) {
        Ok(Asked::SchedFlagResetOnFork) => LinuxSchedulerFlag::SchedResetOnFork,
        Ok(Asked::SchedFlagReclaim) => LinuxSchedulerFlag::SchedFlagReclaim,
        Ok(Asked::SchedFlagDlOverrun) => LinuxSchedulerFlag::SchedFlagDLOverrun,
        Ok(Asked::SchedFlagKeepPolicy) => LinuxSchedulerFlag::SchedFlagKeepPolicy,
        Ok(Asked::SchedFlagKeepParams) => LinuxSchedulerFlag::SchedFlagKeepParams,
        Ok(Asked::SchedFlagUtilClampMin) => LinuxSchedulerFlag::SchedFlagUtilClampMin,
        Ok(Asked::SchedFlagUtilClampMax) => LinuxSchedulerFlag::SchedFlagUtilClampMax,
        Err(_) => return Err(unknown("linux.scheduler.flags", flag)),
    })
}
