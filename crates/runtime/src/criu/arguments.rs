//! What CRIU is told, as arguments of criu(8).

use std::path::Path;

use super::{Criu, Dump, Restore};

/// `criu dump` or `criu pre-dump`.
pub(super) fn dump(criu: &Criu, how: &Dump<'_>) -> Vec<String> {
    let mut arguments = vec![if how.pre_dump { "pre-dump" } else { "dump" }.to_owned()];
    arguments.extend(["--tree".to_owned(), how.pid.to_string()]);
    if let Some(root) = how.root {
        arguments.extend(["--root".to_owned(), text(root)]);
    }
    arguments.extend(common(criu, "dump.log"));
    if how.leave_running {
        arguments.push("--leave-running".to_owned());
    }
    if let Some(parent) = how.parent {
        arguments.extend(["--prev-images-dir".to_owned(), text(parent)]);
    }
    if how.pre_dump || how.parent.is_some() {
        arguments.push("--track-mem".to_owned());
    }
    if let Some(freezer) = how.freezer {
        arguments.extend(["--freeze-cgroup".to_owned(), text(freezer)]);
    }
    arguments
}

/// `criu restore`.
pub(super) fn restore(criu: &Criu, how: &Restore<'_>) -> Vec<String> {
    let mut arguments =
        vec!["restore".to_owned(), "--restore-detached".to_owned(), "--evasive-devices".to_owned()];
    arguments.extend(["--root".to_owned(), text(how.root), "--pidfile".to_owned(), text(how.pid_file)]);
    if let Some(cgroup) = how.cgroup {
        arguments.extend(["--cgroup-root".to_owned(), text(cgroup)]);
    }
    arguments.extend(common(criu, "restore.log"));
    arguments
}

fn common(criu: &Criu, log: &str) -> Vec<String> {
    let mut arguments = vec!["--images-dir".to_owned(), text(&criu.images), "-v4".to_owned()];
    arguments.extend(["--log-file".to_owned(), log.to_owned()]);
    if let Some(work) = &criu.work {
        arguments.extend(["--work-dir".to_owned(), text(work)]);
    }
    arguments.push(format!("--manage-cgroups={}", criu.cgroups));
    arguments.extend(criu.options.iter().cloned());
    arguments
}

pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn criu() -> Criu {
        Criu {
            program: PathBuf::from("criu"),
            images: PathBuf::from("/images"),
            work: Some(PathBuf::from("/work")),
            options: vec!["--tcp-established".to_owned()],
            cgroups: "soft".to_owned(),
        }
    }

    #[test]
    fn a_dump() {
        let root = Some(Path::new("/rootfs"));
        let how = Dump { pid: 42, root, leave_running: true, ..Dump::default() };
        assert_eq!(
            dump(&criu(), &how).join(" "),
            "dump --tree 42 --root /rootfs --images-dir /images -v4 --log-file dump.log --work-dir /work \
             --manage-cgroups=soft --tcp-established --leave-running"
        );
        let parent = Some(Path::new("../one"));
        let arguments = dump(&criu(), &Dump { pid: 42, pre_dump: true, parent, ..Dump::default() }).join(" ");
        assert!(arguments.starts_with("pre-dump "), "{arguments}");
        assert!(arguments.ends_with("--prev-images-dir ../one --track-mem"), "{arguments}");
        let freezer = Some(Path::new("/sys/fs/cgroup/x"));
        let arguments = dump(&criu(), &Dump { freezer, ..Dump::default() }).join(" ");
        assert!(arguments.ends_with(" --freeze-cgroup /sys/fs/cgroup/x"), "{arguments}");
    }
}
