//! Plugins that are small scripts, in a test's own directories.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use vaquita_cri::NetworkChoice;
pub(crate) use vaquita_testing::cni::GOOD;

use crate::support::Node;

pub(crate) struct Plugins(PathBuf);

impl Plugins {
    /// A place for a server whose pods get their network from plugins in the same place.
    pub(crate) fn node() -> (Node, Self) {
        let mut node = Node::without_server();
        let dir = node.config.root.parent().unwrap().join("cni");
        for name in ["bin", "conf"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        node.config.cni.choice = NetworkChoice::Cni;
        node.config.cni.conf_dir = dir.join("conf");
        node.config.cni.bin_dirs = vec![dir.join("bin")];
        (node, Self(dir))
    }

    pub(crate) fn install(&self, name: &str, script: &str) {
        vaquita_testing::cni::install(&self.0, name, script);
    }

    pub(crate) fn configure(&self, version: &str, plugins: &str) {
        let text = format!(r#"{{"cniVersion": "{version}", "name": "net", "plugins": [{plugins}]}}"#);
        self.write("conf/10-net.conflist", &text);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).unwrap();
    }

    /// What was run, in order: `ADD bridge <id>`.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// What a plugin was last told on its standard input.
    pub(crate) fn told(&self, plugin: &str, command: &str) -> Value {
        let text = std::fs::read(self.path(&format!("{plugin}.{command}.stdin"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// A variable of the environment that a plugin last had.
    pub(crate) fn variable(&self, plugin: &str, command: &str, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(&format!("{plugin}.{command}.env"))).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap().to_owned()
    }

    /// Makes a pipe that a plugin waits on.
    pub(crate) fn fifo(&self, name: &str) {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, self.path(name), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }

    /// Lets go who waits.
    pub(crate) async fn open(&self, name: &str) {
        let path = self.path(name);
        tokio::task::spawn_blocking(move || std::fs::write(path, "go")).await.unwrap().unwrap();
    }
}

/// Waits for what will be.
pub(crate) async fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came to be");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
