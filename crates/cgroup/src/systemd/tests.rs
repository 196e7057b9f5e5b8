//! The whole way of a scope, against a systemd of the test's own: it speaks D-Bus, and makes and removes real groups.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use vaquita_sys::process::Idle;
use vaquita_testing::{Leaks, require_root, unique};

use super::wire::{self, Message, Type, field};
use super::*;
use crate::{Driver, Location};

/// What the fake was asked, one line each, and how it shall behave.
#[derive(Default)]
struct Part {
    asked: Mutex<Vec<String>>,
    /// How many times a unit of the name is there already.
    leftovers: Mutex<u32>,
    /// How starting ends.
    result: Mutex<&'static str>,
    /// Where groups are made; elsewhere than asked when set.
    misplace: Mutex<bool>,
}

/// A systemd.
struct Fake {
    part: Arc<Part>,
    bus: Bus,
    _dir: tempfile::TempDir,
}

impl Fake {
    /// `slice` is where its only scope will be.
    fn new(layout: &Layout, slice: &str, unit: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("private");
        let listener = UnixListener::bind(&path).unwrap();
        let part = Arc::new(Part { result: Mutex::new("done"), ..Part::default() });
        let (layout, place) = (layout.clone(), Path::new("/").join(slice).join(unit));
        let known = Arc::clone(&part);
        // It ends with the test's process: the listener is never closed.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&mut stream.unwrap(), &known, &layout, &place);
            }
        });
        Self { part, bus: Bus::Private(path), _dir: dir }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.part.asked.lock().unwrap())
    }
}

fn serve(stream: &mut UnixStream, part: &Part, layout: &Layout, place: &Path) {
    stream.read_exact(&mut [0; 29]).unwrap();
    stream.write_all(b"DATA\r\nOK 00\r\n").unwrap();
    let mut serial = 0;
    loop {
        let mut message = vec![0; 16];
        if stream.read_exact(&mut message).is_err() {
            return;
        }
        message.resize(wire::length(&message).unwrap().unwrap(), 0);
        stream.read_exact(&mut message[16..]).unwrap();
        serial += 1;
        answer(stream, part, layout, place, &message, serial);
    }
}

fn answer(stream: &mut UnixStream, part: &Part, layout: &Layout, place: &Path, call: &[u8], serial: u32) {
    let header = wire::header(call).unwrap();
    let text = String::from_utf8_lossy(call).into_owned();
    let mut reply = |body: &[Value]| {
        let fields = [(field::REPLY_SERIAL, Value::U32(serial))];
        send(stream, Type::Return, &fields, body);
    };
    // The names of the properties, in order: all words that are followed by the type of a variant.
    let names = [
        "Description",
        "Slice",
        "Wants",
        "Delegate",
        "PIDs",
        "DefaultDependencies",
        "TasksMax",
        "MemoryMax",
        "MemoryLimit",
        "CPUWeight",
        "CPUShares",
        "KillSignal",
        "DevicePolicy",
    ];
    let told: Vec<_> = names.into_iter().filter(|name| text.contains(&format!("{name}\0"))).collect();
    part.asked.lock().unwrap().push(format!("{} {}", header.member, told.join(" ")).trim().to_owned());
    let job = Value::ObjectPath("/org/freedesktop/systemd1/job/7".into());
    match header.member.as_str() {
        "Get" => {
            reply(&[Value::str(if text.contains("ControlGroup\0") { "/vquser" } else { "252.1" }).variant()])
        }
        "StartTransientUnit" if std::mem::take(&mut *part.leftovers.lock().unwrap()) > 0 => {
            let name = Value::str("org.freedesktop.systemd1.UnitExists");
            let fields = [(field::REPLY_SERIAL, Value::U32(serial)), (field::ERROR_NAME, name)];
            send(stream, Type::Error, &fields, &[Value::str("Unit was already loaded.")]);
        }
        "StartTransientUnit" => {
            let result = *part.result.lock().unwrap();
            let place =
                if *part.misplace.lock().unwrap() { place.with_extension("slice") } else { place.to_owned() };
            if result == "done" {
                let group = Cgroup::create(layout, &place, &Resources::default()).unwrap();
                if text.contains("PIDs\0") {
                    group.add(pid_of(call)).unwrap();
                }
            }
            reply(std::slice::from_ref(&job));
            removed(stream, job, result);
        }
        "StartUnit" => {
            reply(std::slice::from_ref(&job));
            removed(stream, job, "done");
        }
        "StopUnit" => {
            for place in [place.to_owned(), place.with_extension("slice")] {
                if let Ok(group) = Cgroup::open(layout, &place) {
                    group.kill().unwrap();
                    group.remove().unwrap();
                    group.remove_empty_parents(Path::new("/")).unwrap();
                }
            }
            reply(std::slice::from_ref(&job));
            removed(stream, job, "done");
        }
        _ => reply(&[]),
    }
}

/// The process in `PIDs`, whose value is an array of one number: found by its bytes.
fn pid_of(call: &[u8]) -> i32 {
    let at = call.windows(5).position(|bytes| bytes == b"PIDs\0").unwrap() + 5;
    let at = at + call[at..].windows(4).position(|bytes| bytes == b"\x02au\0").unwrap() + 4;
    let at = at.next_multiple_of(4) + 4;
    i32::from_le_bytes(call[at..at + 4].try_into().unwrap())
}

fn removed(stream: &mut UnixStream, job: Value, result: &str) {
    let fields = [
        (field::PATH, Value::ObjectPath("/org/freedesktop/systemd1".into())),
        (field::INTERFACE, Value::str("org.freedesktop.systemd1.Manager")),
        (field::MEMBER, Value::str("JobRemoved")),
    ];
    send(stream, Type::Signal, &fields, &[Value::U32(7), job, Value::str("unit"), Value::str(result)]);
}

fn send(stream: &mut UnixStream, kind: Type, fields: &[(u8, Value)], body: &[Value]) {
    stream.write_all(&Message { kind, serial: 1, fields, body }.encode().unwrap()).unwrap();
}

/// A fake with a location for it, in a slice of the test's own.
fn scene() -> (Layout, Fake, Location, Leaks) {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqsd");
    let leaks = Leaks::of(&tag);
    let slice = format!("{tag}.slice");
    let fake = Fake::new(&layout, &slice, "vaquita-c1.scope");
    let path = PathBuf::from(format!("{slice}:vaquita:c1"));
    let location = Location::in_systemd(fake.bus.clone(), Some(&path), "c1").unwrap();
    (layout, fake, location, leaks)
}

#[test]
fn a_scope_goes_from_the_making_to_the_removal() {
    let (layout, fake, mut location, _leaks) = scene();
    assert_eq!((location.driver(), location.unit()), (Driver::Systemd, Some("vaquita-c1.scope")));
    let limits = Resources {
        pids_limit: Some(1),
        memory_limit: Some(64 << 20),
        cpu_shares: Some(512),
        devices: Some(Vec::new()),
        ..Resources::default()
    };
    let annotations: HashMap<String, String> =
        [("org.systemd.property.KillSignal".to_owned(), "37".to_owned())].into();
    let mut placed = location.create(&layout, &limits, &annotations).unwrap();
    let limit_names = match layout.is_v2() {
        true => "TasksMax MemoryMax CPUWeight KillSignal",
        false => "TasksMax MemoryLimit CPUShares KillSignal DevicePolicy",
    };
    assert_eq!(
        fake.asked(),
        [
            "Get",
            &format!("StartTransientUnit Description Slice Delegate PIDs DefaultDependencies {limit_names}")
        ]
    );
    let location: Location = serde_json::from_str(&serde_json::to_string(&location).unwrap()).unwrap();
    let group = location.open(&layout).unwrap().unwrap();
    let limit = || group.stats().unwrap().pids.unwrap();
    // The child that holds the scope open takes no place from the container.
    assert_eq!((limit().current, limit().limit), (1, Some(2)));
    let first = Idle::new().unwrap();
    placed.cgroup().unwrap().add(first.pid()).unwrap();
    placed.settle(first.pid()).unwrap();
    assert_eq!(group.procs().unwrap(), [first.pid()]);
    assert_eq!(limit().limit, Some(1));
    assert_eq!(group.stats().unwrap().memory.unwrap().limit, Some(64 << 20));
    assert_eq!(fake.asked(), [] as [&str; 0]);

    location.update(&layout, &Resources { pids_limit: Some(5), ..Resources::default() }).unwrap();
    assert_eq!(limit().limit, Some(5));
    assert_eq!(fake.asked(), ["Get", "SetUnitProperties TasksMax"]);

    let dead = std::thread::scope(|scope| {
        let removal = scope.spawn(|| location.remove(&layout));
        drop(first);
        removal.join().unwrap()
    });
    dead.unwrap();
    assert_eq!(fake.asked(), ["StopUnit", "ResetFailedUnit"]);
    location.remove(&layout).unwrap();
}

#[test]
fn a_slice_is_there_until_it_is_removed() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqsd");
    let _leaks = Leaks::of(&tag);
    let path = PathBuf::from(format!("/{tag}.slice"));
    let fake = Fake::new(&layout, "", &format!("{tag}.slice"));
    let mut location = Location::at_on(fake.bus.clone(), &path);
    assert_eq!(location.unit(), Some(format!("{tag}.slice").as_str()));
    let limits = Resources { pids_limit: Some(9), ..Resources::default() };
    let slice = location.create(&layout, &limits, &HashMap::new()).unwrap().into_cgroup().unwrap();
    let limit = || slice.stats().unwrap().pids.unwrap().limit;
    assert_eq!((slice.path(), limit()), (&*path, Some(9)));
    assert_eq!(fake.asked(), ["Get", "StartTransientUnit Description Wants DefaultDependencies TasksMax"]);
    // Another server, or the same one after a restart: with processes inside.
    let inside = Idle::new().unwrap();
    slice.add(inside.pid()).unwrap();
    *fake.part.leftovers.lock().unwrap() = 1;
    let limits = Resources { pids_limit: Some(7), ..Resources::default() };
    location.create(&layout, &limits, &HashMap::new()).unwrap();
    assert_eq!(limit(), Some(7));
    let asked: Vec<_> = fake.asked().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(asked, ["Get", "StartTransientUnit", "StartUnit", "SetUnitProperties"]);
    location.update(&layout, &Resources { pids_limit: Some(5), ..Resources::default() }).unwrap();
    assert_eq!(
        (limit(), fake.asked()),
        (Some(5), vec!["Get".to_owned(), "SetUnitProperties TasksMax".to_owned()])
    );
    drop(inside);
    location.remove(&layout).unwrap();
    assert_eq!(location.open(&layout).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(fake.asked(), ["StopUnit", "ResetFailedUnit"]);
}

#[test]
fn the_shape_of_a_path_says_who_makes_its_group() {
    let unit = |path: &str| Location::at(path.as_ref()).unit().map(str::to_owned);
    assert_eq!(unit("/a.slice/a-b.slice/cri-vaquita-1.scope").as_deref(), Some("cri-vaquita-1.scope"));
    assert_eq!(unit("/a.slice/a-b.slice").as_deref(), Some("a-b.slice"));
    assert_eq!(unit("/a.scope").as_deref(), Some("a.scope"));
    for path in
        ["/", "/vaquita/1/1", "/kubepods/burstable/pod1", "/b.slice/a-b.slice", "/a/x.scope", "/a.slice/x"]
    {
        assert_eq!(unit(path), None, "{path}");
        assert_eq!(Location::at(path.as_ref()).driver(), Driver::Cgroupfs, "{path}");
    }
}

#[test]
fn a_container_that_is_not_begun_leaves_no_scope() {
    let (layout, fake, mut location, _leaks) = scene();
    let placed = location.create(&layout, &Resources::default(), &HashMap::new()).unwrap();
    drop(placed);
    assert_eq!(location.open(&layout).unwrap().unwrap().procs().unwrap(), [] as [i32; 0]);
    location.remove(&layout).unwrap();
    // A limit that cannot be is found before systemd is asked, one that only the kernel refuses afterwards.
    fake.asked();
    let wrong = Resources { memory_limit: Some(2), memory_swap: Some(1), ..Resources::default() };
    assert_eq!(location.create(&layout, &wrong, &HashMap::new()).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(fake.asked(), [] as [&str; 0]);
    let wrong = Resources { cpuset_cpus: Some("9999".into()), ..Resources::default() };
    let error = location.create(&layout, &wrong, &HashMap::new()).unwrap_err();
    assert!(error.to_string().contains("\"cpuset.cpus\", \"9999\""), "{error}");
    assert_eq!(fake.asked()[2..], ["StopUnit", "ResetFailedUnit"]);
    // T30
    let exec: HashMap<String, String> =
        [("org.systemd.property.ExecStopPost".to_owned(), "@a(sasb) []".to_owned())].into();
    let error = location.create(&layout, &Resources::default(), &exec).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied);
    assert_eq!(fake.asked(), [] as [&str; 0]);
}

#[test]
fn a_unit_left_over_is_reset_once() {
    let (layout, fake, mut location, _leaks) = scene();
    *fake.part.leftovers.lock().unwrap() = 1;
    drop(location.create(&layout, &Resources::default(), &HashMap::new()).unwrap());
    let asked: Vec<_> = fake.asked().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(asked, ["Get", "StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]);
    location.remove(&layout).unwrap();
}

#[test]
fn a_start_that_fails_says_so_and_leaves_nothing() {
    let (layout, fake, mut location, _leaks) = scene();
    *fake.part.result.lock().unwrap() = "failed";
    let error = location.create(&layout, &Resources::default(), &HashMap::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Systemd);
    assert_eq!(error.to_string(), "systemd did not start vaquita-c1.scope: the job ended with \"failed\"");
    *fake.part.result.lock().unwrap() = "done";
    *fake.part.misplace.lock().unwrap() = true;
    let error = location.create(&layout, &Resources::default(), &HashMap::new()).unwrap_err();
    assert!(error.to_string().contains("has not put process"), "{error}");
}
