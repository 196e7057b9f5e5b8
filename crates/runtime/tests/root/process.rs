//! What a process is, besides who: how it is scheduled, where its memory comes from, what labels it has.

use serde_json::{Value, json};
use vaquita_runtime::Kind;

use crate::harness::Bundle;

#[test]
fn it_is_scheduled_as_asked() {
    for (scheduler, shown) in [
        (json!({"policy": "SCHED_OTHER", "nice": 7}), "policy 0 flags 0 nice 7 priority 0"),
        (json!({"policy": "SCHED_BATCH", "nice": 3}), "policy 3 flags 0 nice 3 priority 0"),
        (json!({"policy": "SCHED_IDLE"}), "policy 5 flags 0 nice 0 priority 0"),
        (
            json!({"policy": "SCHED_RR", "priority": 5, "flags": ["SCHED_RESET_ON_FORK"]}),
            "policy 2 flags 1 nice 0 priority 5",
        ),
        (json!({"policy": "SCHED_FIFO", "priority": 9}), "policy 1 flags 0 nice 0 priority 9"),
    ] {
        let outcome = Bundle::new("scheduling").set("/process/scheduler", scheduler).run();
        assert!(outcome.of("scheduling").starts_with(shown), "{}", outcome.of("scheduling"));
    }
    // The kernel takes a deadline only from who may use every processor (sched(7)).
    let may_use_all = {
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let own =
            own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned();
        own == std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap().trim()
    };
    // This one cannot make threads, as the test runner in the container does.
    let scheduler = json!({"policy": "SCHED_DEADLINE", "runtime": 1_000_000, "deadline": 20_000_000,
        "period": 30_000_000, "flags": ["SCHED_RESET_ON_FORK"]});
    let mut bundle = Bundle::new("scheduling").set("/process/scheduler", scheduler);
    if may_use_all {
        let outcome = bundle.run();
        let shown = "policy 6 flags 1 nice 0 priority 0 times [1000000, 20000000, 30000000]";
        assert!(outcome.of("scheduling").starts_with(shown), "{}", outcome.of("scheduling"));
    } else {
        let error = bundle.create().unwrap().start().unwrap_err();
        assert!(error.to_string().starts_with("setting the scheduler: sched_setattr: EPERM"), "{error}");
    }
    let mut bundle = Bundle::new("scheduling").set(
        "/process/scheduler",
        json!({"policy": "SCHED_DEADLINE", "runtime": 3, "deadline": 2, "period": 1}),
    );
    let error = bundle.create().unwrap().start().unwrap_err();
    assert!(error.to_string().starts_with("setting the scheduler: sched_setattr: EINVAL"), "{error}");
}

#[test]
fn io_priority_and_personality() {
    let outcome = Bundle::new("scheduling")
        .set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}))
        .set("/linux/personality", json!({"domain": "LINUX32"}))
        .run();
    assert!(outcome.of("scheduling").ends_with("io 0x4006 persona 0x8"), "{}", outcome.of("scheduling"));
    let error = Bundle::new("pid")
        .set("/linux/personality", json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}))
        .plan()
        .unwrap_err();
    assert!(error.to_string().starts_with("linux.personality.flags"), "{error}");
}

#[test]
fn memory_comes_from_where_it_was_asked_to() {
    for (policy, shown) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "bind=static:0"),
        (
            json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_RELATIVE_NODES"]}),
            "interleave=relative:0",
        ),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}), "prefer"),
        (json!({"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "0"}), "weighted"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        let mut bundle = Bundle::new("policy\nns mnt\nwait").set("/linux/memoryPolicy", policy.clone());
        let mut running = bundle.create().unwrap();
        running.start().unwrap();
        assert!(running.read_until("policy").starts_with(shown), "{policy}");
        for outcome in running.exec_probes("policy", |_| {}) {
            assert!(outcome.of("policy").starts_with(shown), "exec: {policy}");
        }
    }
    // No machine has this node.
    let mut bundle =
        Bundle::new("policy").set("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "1023"}));
    let error = bundle.create().unwrap().start().unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("setting the memory policy MPOL_BIND of the nodes 1023: set_mempolicy: EINVAL"),
        "{error}"
    );
}

/// For processes that are added; the specification has no meaning for it in the first one.
#[test]
fn an_added_process_runs_on_the_cpus_asked_for() {
    let mut bundle = Bundle::new("status Cpus_allowed_list\nns mnt\nwait")
        .set("/process/execCPUAffinity", json!({"initial": "0"}));
    bundle.with_cgroup = true;
    let mut running = bundle.create().unwrap();
    running.start().unwrap();
    let all = running.read_until("status Cpus_allowed_list");
    for (affinity, shown) in
        [(json!({"initial": "0", "final": "1"}), "1"), (json!({"final": "0-1"}), "0-1"), (Value::Null, &*all)]
    {
        let outcomes = running.exec_probes("status Cpus_allowed_list\ncat /proc/self/cgroup", |process| {
            process["execCPUAffinity"] = affinity.clone();
        });
        for outcome in outcomes {
            assert_eq!(outcome.of("status Cpus_allowed_list"), shown, "{affinity}");
            assert!(outcome.of("cat /proc/self/cgroup").contains("vqrt"));
        }
    }
    // What becomes of the first ones in the cgroup is the kernel's affair: newer ones keep them (Linux 6.2).
    let outcome = running.exec_probe("status Cpus_allowed_list", |process| {
        process["execCPUAffinity"] = json!({"initial": "1"});
    });
    assert!(
        ["1", &*all].contains(&outcome.of("status Cpus_allowed_list")),
        "{outcome:?}",
        outcome = outcome.output
    );
    let plan = running.exec_plan(|process| process["execCPUAffinity"] = json!({"initial": "1023"})).unwrap();
    let error = running.exec(&plan).err().unwrap();
    assert!(error.to_string().contains("execCPUAffinity: sched_setaffinity: EINVAL"), "{error}");
}

/// A kernel that runs the security module is asked for a label that it does not know.
#[test]
fn labels_are_refused_by_name() {
    let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled");
    let apparmor = apparmor.is_ok_and(|answer| answer.starts_with(b"Y"));
    let selinux = vaquita_sys::selinux::is_enabled();
    for (field, value, module, runs) in [
        ("selinuxLabel", json!("nobody_knows_this:1"), "SELinux", selinux),
        ("apparmorProfile", json!("nobody-knows-this"), "AppArmor", apparmor),
    ] {
        let mut bundle = Bundle::new("ns mnt\nwait").set(&format!("/process/{field}"), value.clone());
        if runs && field == "selinuxLabel" {
            let error = bundle.create().err().unwrap();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains("is no label of the SELinux policy"), "{error}");
            continue;
        }
        if runs {
            let error = bundle.create().unwrap().start().unwrap_err();
            assert!(error.to_string().contains(" to /proc/self/attr/"), "{error}");
            continue;
        }
        let error = bundle.create().err().unwrap();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.to_string().starts_with(&format!("process.{field}: {value} needs {module}")),
            "{error}"
        );

        bundle.spec["process"].as_object_mut().unwrap().remove(field);
        let mut running = bundle.create().unwrap();
        running.start().unwrap();
        let plan = running.exec_plan(|process| process[field] = value).unwrap();
        assert_eq!(running.exec(&plan).err().unwrap().kind(), Kind::Unsupported);
    }
    Bundle::new("pid").set("/process/apparmorProfile", json!("unconfined")).run();
}

#[test]
fn capabilities_that_the_kernel_would_refuse_are_named() {
    for (set, value, text) in [
        (
            "effective",
            json!(["CAP_CHOWN", "CAP_SYS_ADMIN"]),
            "effective: {CAP_SYS_ADMIN} must be in permitted",
        ),
        ("inheritable", json!(["CAP_SYS_ADMIN"]), "inheritable: {CAP_SYS_ADMIN} must be in bounding"),
        ("ambient", json!(["CAP_KILL"]), "ambient: {CAP_KILL} must be in inheritable"),
    ] {
        let error =
            Bundle::new("pid").set(&format!("/process/capabilities/{set}"), value).plan().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(text), "{error}");
    }
    let outcome = Bundle::new("status CapInh\nstatus CapPrm\nstatus CapEff\nstatus CapBnd\nstatus CapAmb")
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set(
            "/process/capabilities",
            json!({
                "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_FOWNER", "CAP_SETUID"],
                "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_FOWNER"],
                "effective": ["CAP_CHOWN", "CAP_KILL"],
                "inheritable": ["CAP_CHOWN", "CAP_KILL"],
                "ambient": ["CAP_CHOWN"],
            }),
        )
        .run();
    // Of a user other than root an execve keeps what is ambient (capabilities(7)).
    assert_eq!(outcome.of("status CapAmb"), "0000000000000001");
    assert_eq!(outcome.of("status CapPrm"), "0000000000000001");
    assert_eq!(outcome.of("status CapEff"), "0000000000000001");
    assert_eq!(outcome.of("status CapInh"), "0000000000000021");
    assert_eq!(outcome.of("status CapBnd"), "00000000000000a9");
}
