//! The changes that `update` was asked for, as an object of the specification.

use std::io::Read as _;
use std::path::Path;

use rustix::io::Errno;
use serde_json::{Value, json};
use vaquita_oci::{Error, Kind};

use super::args;

/// From the options, or the file and those that no file can have.
pub(super) fn changes(args: args::Update) -> Result<vaquita_oci::Update, Error> {
    let resources = match &args.resources {
        Some(path) => read(path)?,
        None => resources(&args),
    };
    if resources.is_null() && args.l3_cache_schema.is_none() && args.mem_bw_schema.is_none() {
        return Err(Error::new(Kind::Invalid, "no limit to change is given: see --help"));
    }
    Ok(vaquita_oci::Update {
        resources,
        l3_cache_schema: args.l3_cache_schema,
        mem_bw_schema: args.mem_bw_schema,
    })
}

/// From the options; null without any.
fn resources(args: &args::Update) -> Value {
    let mut changes = json!({
        "memory": {
            "limit": args.memory,
            "reservation": args.memory_reservation,
            "swap": args.memory_swap,
            "kernel": args.kernel_memory,
            "kernelTCP": args.kernel_memory_tcp,
        },
        "cpu": {
            "shares": args.cpu_share,
            "quota": args.cpu_quota,
            "period": args.cpu_period,
            "burst": args.cpu_burst,
            "realtimeRuntime": args.cpu_rt_runtime,
            "realtimePeriod": args.cpu_rt_period,
            "cpus": args.cpuset_cpus,
            "mems": args.cpuset_mems,
            "idle": args.cpu_idle,
        },
        "blockIO": {"weight": args.blkio_weight},
        "pids": {"limit": args.pids_limit},
    });
    if let Some(sections) = changes.as_object_mut() {
        for section in sections.values_mut().filter_map(Value::as_object_mut) {
            section.retain(|_, value| !value.is_null());
        }
        sections.retain(|_, section| section.as_object().is_some_and(|section| !section.is_empty()));
        if sections.is_empty() {
            return Value::Null;
        }
    }
    changes
}

fn read(path: &Path) -> Result<Value, Error> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        let limit = vaquita_runtime::document::MAX_SIZE as u64 + 1;
        std::io::stdin().take(limit).read_to_end(&mut bytes).map_err(|error| {
            Error::kernel("read(<standard input>)", Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })?;
    } else {
        bytes = vaquita_runtime::document::read(path)?;
    }
    let name = path.file_name().map_or_else(|| "resources".into(), |name| name.to_string_lossy());
    Ok(vaquita_runtime::document::parse(&name, &bytes)?)
}
