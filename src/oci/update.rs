//! The changes that `update` was asked for, as an object of the specification.

use std::io::Read as _;
use std::path::Path;

use rustix::io::Errno;
use serde_json::{Value, json};
use vaquita_oci::{Error, Kind};

use super::args::Update;

/// From the options or the file.
pub(super) fn changes(args: &Update) -> Result<Value, Error> {
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        let message = "--l3-cache-schema and --mem-bw-schema are not supported: give the schema in linux.intelRdt at create";
        return Err(Error::new(Kind::Unsupported, message));
    }
    if let Some(path) = &args.resources {
        return read(path);
    }
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
            return Err(Error::new(Kind::Invalid, "no limit to change is given: see --help"));
        }
    }
    Ok(changes)
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
