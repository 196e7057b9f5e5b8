//! A directory with configurations, plugins and records of a test's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use vaquita_cni::{Attachment, Capabilities, Cni, Config};
use vaquita_testing::TempDir;
pub(crate) use vaquita_testing::cni::GOOD;

pub(crate) struct Place {
    dir: TempDir,
    pub(crate) timeout: Duration,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = vaquita_testing::temp_dir();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::create_dir(dir.path().join("conf")).unwrap();
        Self { dir, timeout: Duration::from_secs(60) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Installs a plugin.
    pub(crate) fn plugin(&self, name: &str, script: &str) {
        vaquita_testing::cni::install(self.dir.path(), name, script);
    }

    /// Writes the configuration: these plugins in this version, with more in its head.
    pub(crate) fn configure(&self, version: &str, more: &str, plugins: &str) {
        let text = format!(r#"{{"cniVersion": "{version}", "name": "net"{more}, "plugins": [{plugins}]}}"#);
        std::fs::write(self.path("conf").join("10-net.conflist"), text).unwrap();
    }

    pub(crate) fn cni(&self) -> Cni {
        Cni::open(Config {
            conf_dir: self.path("conf"),
            bin_dirs: vec![self.path("none"), self.path("bin")],
            cache: self.cache(),
            timeout: self.timeout,
        })
        .unwrap()
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// What was run, in order: `ADD bridge one`.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    pub(crate) fn forget_log(&self) {
        let _ = std::fs::remove_file(self.path("log"));
    }

    /// What a plugin was last told on its standard input.
    pub(crate) fn told(&self, plugin: &str, command: &str) -> Value {
        let text = std::fs::read(self.path(&format!("{plugin}.{command}.stdin"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// A variable of the environment that a plugin last had.
    pub(crate) fn variable(&self, plugin: &str, command: &str, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.path(&format!("{plugin}.{command}.env"))).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    }

    /// Waits for a file that a plugin writes.
    pub(crate) async fn written(&self, name: &str) -> String {
        loop {
            match std::fs::read_to_string(self.path(name)) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    }
}

/// A pod.
pub(crate) fn pod(id: &str) -> Attachment {
    Attachment {
        id: id.into(),
        interface: "eth0".into(),
        netns: "/proc/self/ns/net".into(),
        args: vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_NAME".into(), "web".into())],
        capabilities: Capabilities::default(),
    }
}

/// Whether a process is there and runs.
pub(crate) fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits for the end of a process.
pub(crate) async fn ended(pid: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while runs(pid) {
        assert!(std::time::Instant::now() < deadline, "process {pid} runs on");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
