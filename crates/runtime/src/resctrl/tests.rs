use std::fs;

use super::*;

/// A directory that looks like the filesystem, as far as files can.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for class in ["", "gold"] {
            fs::create_dir_all(dir.path().join(class).join("mon_groups")).unwrap();
            fs::write(dir.path().join(class).join("tasks"), "").unwrap();
            fs::write(dir.path().join(class).join("schemata"), "    L3:0=7f0;1=01f\n    MB:0= 20;1= 70\n")
                .unwrap();
        }
        fs::create_dir(dir.path().join("info")).unwrap();
        fs::write(dir.path().join("info/last_cmd_status"), "ok\n").unwrap();
        Self(dir)
    }

    fn tree(&self) -> Tree {
        Tree(Root::open_host(self.0.path()).unwrap())
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    fn is_there(&self, path: &str) -> bool {
        self.0.path().join(path).exists()
    }
}

fn class(json: &str) -> Result<Class, Error> {
    let context = Context { id: Some("box".to_owned()), ..Context::default() };
    Class::new(&serde_json::from_str(json).unwrap(), &context)
}

fn pid() -> rustix::process::Pid {
    rustix::process::getpid()
}

#[test]
fn a_container_without_a_class_gets_its_own() {
    let fake = Fake::new();
    let class = class(r#"{"l3CacheSchema":"L3:0=f","memBwSchema":"MB:0=10","schemata":["L2:0=1","L2:1=2"]}"#)
        .unwrap();
    let mut made = fake.tree().make(&class).unwrap();
    assert_eq!(fake.read("box/schemata"), "L3:0=f\nMB:0=10\nL2:0=1\nL2:1=2\n");
    made.assign(pid()).unwrap();
    assert_eq!(fake.read("box/tasks"), format!("{}\n", pid().as_raw_nonzero()));
    made.keep();
    drop(made);
    assert!(fake.is_there("box"));
    // Somebody else's of that name is not taken over.
    let error = fake.tree().make(&class).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EXIST), "{error}");
    // The kernel's directories go with what is in them.
    for file in ["schemata", "tasks"] {
        fs::remove_file(fake.0.path().join("box").join(file)).unwrap();
    }
    fake.tree().remove(&class, class.is_own).unwrap();
    assert!(!fake.is_there("box"));
    fake.tree().remove(&class, class.is_own).unwrap();
}

#[test]
fn a_class_that_is_there_is_used_as_it_is() {
    let fake = Fake::new();
    let before = fake.read("gold/schemata");
    for json in [
        r#"{"closID":"gold"}"#,
        r#"{"closID":"gold","l3CacheSchema":"L3:1=1f"}"#,
        r#"{"closID":"gold","l3CacheSchema":"L3:0=7f0;1=1f","memBwSchema":"MB:0=20;1=70"}"#,
        r#"{"closID":"/","memBwSchema":"MB:1=70"}"#,
    ] {
        let class = class(json).unwrap();
        drop(fake.tree().make(&class).unwrap());
        assert!(!class.is_own && fake.is_there("gold") && fake.read("gold/schemata") == before, "{json}");
    }
    for json in [
        r#"{"closID":"gold","l3CacheSchema":"L3:0=7f1"}"#,
        r#"{"closID":"gold","memBwSchema":"MB:2=20"}"#,
        r#"{"closID":"gold","l3CacheSchema":"L2:0=1"}"#,
        r#"{"closID":"silver"}"#,
    ] {
        let error = fake.tree().make(&class(json).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("linux.intelRdt.closID: "), "{error}");
    }
    // What is made and not kept goes again; what was there stays.
    let silver = class(r#"{"closID":"silver","schemata":[],"memBwSchema":"MB:0=30"}"#).unwrap();
    let made = fake.tree().make(&silver).unwrap();
    assert_eq!(fake.read("silver/schemata"), "MB:0=30\n");
    fs::remove_file(fake.0.path().join("silver/schemata")).unwrap();
    drop(made);
    assert!(!fake.is_there("silver"));
}

#[test]
fn monitoring_has_a_group_in_the_class() {
    let fake = Fake::new();
    for (json, group) in [
        (r#"{"closID":"gold","enableMonitoring":true}"#, "gold/mon_groups/box"),
        (r#"{"closID":"/","enableMonitoring":true}"#, "mon_groups/box"),
    ] {
        let class = class(json).unwrap();
        let made = fake.tree().make(&class).unwrap();
        made.assign(pid()).unwrap();
        assert_eq!(fake.read(&format!("{group}/tasks")), format!("{}\n", pid().as_raw_nonzero()));
        fs::remove_file(fake.0.path().join(group).join("tasks")).unwrap();
        drop(made);
        assert!(!fake.is_there(group) && fake.is_there("gold"));
    }
}

#[test]
fn what_the_kernel_says_is_told() {
    let fake = Fake::new();
    fs::write(fake.0.path().join("info/last_cmd_status"), "out of CLOSIDs\n").unwrap();
    fs::remove_dir_all(fake.0.path().join("gold/mon_groups")).unwrap();
    let class = class(r#"{"closID":"gold","enableMonitoring":true}"#).unwrap();
    let error = fake.tree().make(&class).unwrap_err().to_string();
    assert!(
        error.starts_with("linux.intelRdt: mkdir(<resctrl>/gold/mon_groups/box) (out of CLOSIDs): ENOENT"),
        "{error}"
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (json, field) in [
        (r#"{"closID":".."}"#, "closID"),
        (r#"{"closID":"a/b"}"#, "closID"),
        (r#"{"closID":"a","memBwSchema":"L3:0=1"}"#, "memBwSchema"),
        (r#"{"closID":"a","l3CacheSchema":"L3:0=1\nL3:1=1"}"#, "l3CacheSchema"),
        (r#"{"closID":"a","schemata":["a\nb"]}"#, "schemata"),
        (r#"{"closID":"a","enableCmt":true}"#, "enableCMT"),
    ] {
        let error = class(json).unwrap_err().to_string();
        assert!(error.starts_with(&format!("linux.intelRdt.{field}")), "{error}");
    }
    let nameless = Class::new(&LinuxIntelRdt::default(), &Context::default()).unwrap_err();
    assert!(nameless.to_string().contains("gives the container no id"), "{nameless}");
    if !vaquita_sys::mount::mountinfo().unwrap().iter().any(|mount| mount.fs_type == "resctrl") {
        let error = class(r#"{"closID":"a"}"#).unwrap().make().unwrap_err();
        assert!(error.to_string().starts_with("linux.intelRdt: no resctrl filesystem is mounted"), "{error}");
    }
}

#[test]
fn a_class_gets_other_schemas() {
    let fake = Fake::new();
    let change = class(r#"{"l3CacheSchema":"L3:0=3","memBwSchema":"MB:0=40"}"#).unwrap();
    let gold = class(r#"{"closID":"gold"}"#).unwrap();
    fake.tree().update(Some(&gold), &change, &[]).unwrap();
    assert!(fake.read("gold/schemata").ends_with("L3:0=3\nMB:0=40\n"), "{}", fake.read("gold/schemata"));
    assert!(!fake.is_there("box"));
    // A container without a class enters one of its own.
    fake.tree().update(None, &change, &[7, 8]).unwrap();
    assert_eq!(fake.read("box/schemata"), "L3:0=3\nMB:0=40\n");
    assert_eq!(fake.read("box/tasks"), "7\n8\n");
}
