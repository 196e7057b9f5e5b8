//! Further processes in a container.

use std::path::Path;

use serde_json::json;

use super::bundle::Bundle;
use crate::support::eventually;

fn running() -> Bundle {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.change(|spec| {
        spec["process"]["capabilities"]["inheritable"] = json!([]);
        spec["process"]["env"] = json!(["PATH=/bin", "A=1"]);
    });
    bundle.good(["run", "-d", "c1"]);
    bundle
}

#[test]
fn a_process_is_like_the_containers_own_but_for_what_is_changed() {
    let bundle = running();
    assert_eq!(bundle.good(["exec", "c1", "id", "-u"]), "0\n");
    assert_eq!(bundle.good(["exec", "-u", "1000", "c1", "sh", "-c", "id -u; id -g"]), "1000\n0\n");
    let shown =
        bundle.good(["exec", "--user", "1000:1001", "-g", "7", "--additional-gids", "8", "c1", "id", "-G"]);
    assert_eq!(shown, "1001 7 8\n");
    assert_eq!(bundle.good(["exec", "-e", "A=2", "--env", "B=3", "c1", "env"]), "PATH=/bin\nA=2\nB=3\n");
    assert_eq!(bundle.good(["exec", "--cwd", "/bin", "c1", "pwd"]), "/bin\n");
    let status = |args: &[&str], line: &str| {
        let all: Vec<&str> =
            ["exec"].iter().chain(args).chain(&["c1", "cat", "/proc/self/status"]).copied().collect();
        let shown = bundle.good(all);
        shown.lines().find_map(|shown| shown.strip_prefix(line)).unwrap().trim().to_owned()
    };
    assert_eq!(status(&[], "CapEff:"), "0000000020000420");
    assert_eq!(status(&["--cap", "CAP_NET_RAW", "-c", "chown"], "CapEff:"), "0000000020002421");
    assert_eq!(status(&["--cap", "CAP_NET_RAW"], "CapBnd:"), "0000000020002420");
    assert_eq!(status(&[], "NoNewPrivs:"), "1");
    assert_eq!(status(&["--no-new-privs=false"], "NoNewPrivs:"), "0");
    // Options after the id too, up to the program.
    assert_eq!(bundle.good(["exec", "c1", "-u", "5", "id", "-u"]), "5\n");
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn the_exit_code_is_that_of_the_process() {
    let bundle = running();
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        assert_eq!(bundle.oci(["exec", "c1", "sh", "-c", script]).status.code(), Some(code), "{script}");
    }
    let said = bundle.bad(255, ["exec", "c1", "nothing"]);
    assert!(said.contains("\"nothing\"") && said.contains("No such file or directory"), "{said}");
    let said = bundle.bad(255, ["exec", "c1", "/proc/self/status"]);
    assert!(said.contains("Permission denied"), "{said}");
    assert!(bundle.bad(255, ["exec", "-u", "root", "c1", "id"]).contains("--user \"root\""));
    assert!(bundle.bad(255, ["exec", "-c", "CAP_NONE", "c1", "id"]).contains("no such capability"));
    assert!(bundle.bad(255, ["exec", "-d", "-t", "c1", "id"]).contains("--console-socket"));
    assert!(bundle.bad(255, ["exec", "--cgroup", "../other", "c1", "id"]).contains("--cgroup"));
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn a_process_from_a_file_detached() {
    let bundle = running();
    let process = json!({
        "args": ["sh", "-c", "echo $B; exec sleep 1000"],
        "cwd": "/", "env": ["PATH=/bin", "B=from a file"], "user": {"uid": 4, "gid": 5},
    });
    std::fs::write(bundle.path("process.json"), process.to_string()).unwrap();
    let (file, pid_file) = (bundle.path("process.json"), bundle.path("pid"));
    let shown = bundle.good([
        "exec",
        "--detach",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "--process",
        file.to_str().unwrap(),
        "c1",
    ]);
    let pid: i32 = std::fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    eventually("the program", || {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        (comm == "sleep\n").then_some(())
    });
    assert!(shown.is_empty() || shown == "from a file\n");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t4\t4\t4\t4\n") && status.contains("Gid:\t5\t5\t5\t5\n"), "{status}");
    // The end of the first process is the end of all.
    bundle.good(["delete", "-f", "c1"]);
    eventually("its end", || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        state.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_paused_container_takes_a_process_only_on_request() {
    let bundle = running();
    bundle.good(["pause", "c1"]);
    assert_eq!(bundle.status("c1"), "paused");
    assert!(bundle.bad(1, ["pause", "c1"]).contains("paused already"));
    assert!(bundle.bad(255, ["exec", "c1", "true"]).contains("--ignore-paused"));
    bundle.good(["resume", "c1"]);
    assert_eq!(bundle.status("c1"), "running");
    bundle.good(["exec", "c1", "true"]);
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn a_created_container_takes_a_process() {
    let bundle = Bundle::new("exit 0");
    bundle.good(["create", "c1"]);
    assert_eq!(bundle.good(["exec", "c1", "ls", "/bin/true"]), "/bin/true\n");
    assert_eq!(bundle.status("c1"), "created");
    bundle.good(["delete", "c1"]);
}

/// Groups below the container's, made by the test in some hierarchies: they go with the container.
struct Below<'a> {
    bundle: &'a Bundle,
}

impl Below<'_> {
    /// The mount points of the hierarchies, with the controllers of v1 ones, or nothing for v2.
    fn hierarchies() -> Vec<(String, String)> {
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let groups = lines.filter(|fields| fields[2].starts_with("cgroup"));
        groups
            .map(|fields| {
                let own = if fields[2] == "cgroup2" { "" } else { fields[1].rsplit('/').next().unwrap() };
                (fields[1].to_owned(), own.to_owned())
            })
            .collect()
    }

    fn make(&self, mount: &str, name: &str) {
        std::fs::create_dir(Path::new(mount).join(&self.bundle.tag).join(name)).unwrap();
    }

    /// A new set of CPUs of v1 is empty.
    fn fill(&self, mount: &str, name: &str) {
        let own = Path::new(mount).join(&self.bundle.tag);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            std::fs::write(own.join(name).join(file), std::fs::read(own.join(file)).unwrap()).unwrap();
        }
    }

    /// Where a process that is added is, by the controllers of the hierarchy; "" is v2.
    fn places(&self, args: &[&str]) -> Vec<(String, String)> {
        let all: Vec<&str> =
            ["exec"].iter().chain(args).chain(&["c1", "cat", "/proc/self/cgroup"]).copied().collect();
        let said = self.bundle.good(all);
        let lines = said.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
        lines.map(|fields| (fields[1].to_owned(), fields[2].to_owned())).collect()
    }
}

#[test]
fn a_process_enters_the_groups_that_it_is_given() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.change(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        // So that the paths are the host's.
        namespaces.retain(|namespace| namespace["type"] != "cgroup");
    });
    bundle.good(["run", "-d", "c1"]);
    let below = Below { bundle: &bundle };
    let own = format!("/{}", bundle.tag);
    let hierarchies = Below::hierarchies();
    for (mount, _) in &hierarchies {
        below.make(mount, "all");
    }
    // An own one for the two controllers, where they have hierarchies to themselves.
    let apart: Vec<_> = hierarchies.iter().filter(|(_, name)| name == "memory" || name == "pids").collect();
    for (mount, _) in &apart {
        below.make(mount, "some");
    }
    if let Some((mount, _)) = hierarchies.iter().find(|(_, name)| name == "cpuset") {
        let said = bundle.bad(255, ["exec", "--cgroup", "all", "c1", "true"]);
        assert!(said.contains("has no CPUs"), "{said}");
        below.fill(mount, "all");
    }
    assert!(below.places(&[]).iter().all(|(_, path)| *path == own));
    for asked in ["all", "/all", "./all"] {
        let places = below.places(&["--cgroup", asked]);
        assert!(places.iter().all(|(_, path)| *path == format!("{own}/all")), "{places:?}");
    }
    if apart.len() == 2 {
        let wanted = |name: &str| match name {
            "memory" | "pids" => format!("{own}/some"),
            "freezer" => format!("{own}/all"),
            _ => own.clone(),
        };
        let places = below.places(&["--cgroup", "memory,pids:some", "--cgroup", "freezer:/all"]);
        assert!(places.len() > 3 && places.iter().all(|(name, path)| *path == wanted(name)), "{places:?}");
        // In one hierarchy alone it would be without the limits of the others.
        let said = bundle.bad(255, ["exec", "--cgroup", "some", "c1", "true"]);
        assert!(
            said.contains("there is no group some below") && said.contains("name the controllers"),
            "{said}"
        );
        let said = bundle.bad(255, ["exec", "--cgroup", "imaginary:some", "c1", "true"]);
        assert!(said.contains("no controller \"imaginary\"") && said.contains("memory"), "{said}");
    } else {
        let said = bundle.bad(255, ["exec", "--cgroup", "memory:all", "c1", "true"]);
        assert!(said.contains("give the path without a controller"), "{said}");
    }
    for (asked, part) in [
        (&["all/../.."][..], "does not lead to a group below"),
        (&["memory:../../.."], "--cgroup memory:../../..:"),
        (&["missing"], "there is no group missing below"),
        (&["all", "all"], "each needs its controllers"),
        (&["memory:all", "memory:all"], "memory is there twice"),
    ] {
        let flags = asked.iter().flat_map(|path| ["--cgroup", path]);
        let all: Vec<&str> = ["exec"].into_iter().chain(flags).chain(["c1", "true"]).collect();
        let said = bundle.bad(255, all);
        assert!(said.contains(part), "{said}");
    }
    bundle.good(["delete", "-f", "c1"]);
}
