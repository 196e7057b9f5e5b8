//! Pods and containers through the CRI, as kubelet makes them.

use std::path::PathBuf;

use tonic::Status;
use vaquita_proto::cri;

use super::{Node, eventually};

/// A sandbox with what its containers need to know.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    node: &'a Node,
    pub(crate) id: String,
    pub(crate) config: cri::PodSandboxConfig,
}

impl<'a> Pod<'a> {
    /// What the tests ask for unless they want something else.
    pub(crate) fn config(node: &Node, name: &str) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: node.path(&format!("logs-{name}")).display().to_string(),
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pid_namespace()),
                    ..cri::LinuxSandboxSecurityContext::default()
                }),
                ..cri::LinuxPodSandboxConfig::default()
            }),
            ..cri::PodSandboxConfig::default()
        }
    }

    /// Runs it.
    #[track_caller]
    pub(crate) fn run(node: &'a Node, name: &str) -> Self {
        Self::run_config(node, Self::config(node, name))
    }

    /// The same with a configuration of the test's own.
    #[track_caller]
    pub(crate) fn run_config(node: &'a Node, config: cri::PodSandboxConfig) -> Self {
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = node.wait(node.cri().run_pod_sandbox(request)).unwrap().into_inner().pod_sandbox_id;
        Self { node, id, config }
    }

    #[track_caller]
    pub(crate) fn status(&self) -> cri::PodSandboxStatus {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        self.node.wait(self.node.cri().pod_sandbox_status(request)).unwrap().into_inner().status.unwrap()
    }

    #[track_caller]
    pub(crate) fn ip(&self) -> String {
        self.status().network.unwrap().ip
    }

    #[track_caller]
    pub(crate) fn stop(&self) {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.node.wait(self.node.cri().stop_pod_sandbox(request)).unwrap();
    }

    #[track_caller]
    pub(crate) fn remove(&self) {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.node.wait(self.node.cri().remove_pod_sandbox(request)).unwrap();
    }

    /// A busybox container that is to run a command.
    pub(crate) fn container_config(name: &str, command: &[&str]) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: super::BUSYBOX.into(), ..cri::ImageSpec::default() }),
            command: command.iter().map(|&word| word.into()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(own_pid_namespace()),
                    ..cri::LinuxContainerSecurityContext::default()
                }),
                ..cri::LinuxContainerConfig::default()
            }),
            ..cri::ContainerConfig::default()
        }
    }

    pub(crate) fn create(&self, config: cri::ContainerConfig) -> Result<Container<'a>, Status> {
        let log = PathBuf::from(&self.config.log_directory).join(&config.log_path);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.node.wait(self.node.cri().create_container(request))?.into_inner().container_id;
        Ok(Container { node: self.node, id, log })
    }

    /// Creates and starts a container with this configuration.
    #[track_caller]
    pub(crate) fn start_config(&self, config: cri::ContainerConfig) -> Container<'a> {
        let container = self.create(config).unwrap();
        container.start().unwrap();
        container
    }

    /// Creates and starts a busybox container.
    #[track_caller]
    pub(crate) fn start(&self, name: &str, command: &[&str]) -> Container<'a> {
        self.start_config(Self::container_config(name, command))
    }

    /// Runs a command in a container of its own; what it wrote, and its exit code.
    #[track_caller]
    pub(crate) fn output(
        &self,
        name: &str,
        config: impl FnOnce(&mut cri::ContainerConfig),
        command: &[&str],
    ) -> (i32, String) {
        let mut wanted = Self::container_config(name, command);
        config(&mut wanted);
        let container = self.start_config(wanted);
        let status = container.exited();
        (status.exit_code, container.output())
    }
}

/// As kubelet asks for it: the default of the interface is a PID namespace that the containers of a pod share.
fn own_pid_namespace() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..cri::NamespaceOption::default() }
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    node: &'a Node,
    pub(crate) id: String,
    log: PathBuf,
}

impl Container<'_> {
    pub(crate) fn start(&self) -> Result<(), Status> {
        let request = cri::StartContainerRequest { container_id: self.id.clone() };
        self.node.wait(self.node.cri().start_container(request)).map(|_| ())
    }

    #[track_caller]
    pub(crate) fn status(&self) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        self.node.wait(self.node.cri().container_status(request)).unwrap().into_inner().status.unwrap()
    }

    #[track_caller]
    pub(crate) fn is_running(&self) -> bool {
        self.status().state() == cri::ContainerState::ContainerRunning
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn exited(&self) -> cri::ContainerStatus {
        eventually("the container to end", || {
            let status = self.status();
            (status.state() == cri::ContainerState::ContainerExited).then_some(status)
        })
    }

    #[track_caller]
    pub(crate) fn stop(&self, timeout: i64) {
        let request = cri::StopContainerRequest { container_id: self.id.clone(), timeout };
        self.node.wait(self.node.cri().stop_container(request)).unwrap();
    }

    #[track_caller]
    pub(crate) fn remove(&self) {
        let request = cri::RemoveContainerRequest { container_id: self.id.clone() };
        self.node.wait(self.node.cri().remove_container(request)).unwrap();
    }

    pub(crate) fn try_exec(&self, command: &[&str], timeout: i64) -> Result<cri::ExecSyncResponse, Status> {
        let request = cri::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.iter().map(|&word| word.into()).collect(),
            timeout,
        };
        self.node.wait(self.node.cri().exec_sync(request)).map(tonic::Response::into_inner)
    }

    /// Runs a command in it; exit code, standard output, standard error.
    #[track_caller]
    pub(crate) fn exec(&self, command: &[&str]) -> (i32, String, String) {
        let answer = self.try_exec(command, 30).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (answer.exit_code, text(&answer.stdout), text(&answer.stderr))
    }

    /// The log file, record by record.
    #[track_caller]
    pub(crate) fn log(&self) -> Vec<Record> {
        let bytes =
            std::fs::read(&self.log).unwrap_or_else(|error| panic!("{}: {error}", self.log.display()));
        let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        if lines.is_empty() {
            return Vec::new();
        }
        lines.split(|&byte| byte == b'\n').map(Record::parse).collect()
    }

    /// Everything that it wrote to standard output.
    #[track_caller]
    pub(crate) fn output(&self) -> String {
        let mut text = String::new();
        for record in self.log().iter().filter(|record| record.stream == "stdout") {
            text += &record.text;
            if !record.partial {
                text.push('\n');
            }
        }
        text
    }

    /// The file.
    pub(crate) fn log_path(&self) -> &std::path::Path {
        &self.log
    }
}

/// A record of a CRI log: `TIME STREAM P|F TEXT`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Record {
    pub(crate) time: String,
    pub(crate) stream: String,
    pub(crate) partial: bool,
    pub(crate) text: String,
}

impl Record {
    #[track_caller]
    fn parse(line: &[u8]) -> Self {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.splitn(4, ' ');
        let mut field = || fields.next().unwrap_or_else(|| panic!("a torn record: {line:?}")).to_owned();
        let (time, stream, tag, text) = (field(), field(), field(), field());
        assert!(
            time.parse::<jiff::Timestamp>().is_ok() && ["stdout", "stderr"].contains(&&*stream),
            "{line:?}"
        );
        assert!(["P", "F"].contains(&&*tag), "{line:?}");
        Self { time, stream, partial: tag == "P", text }
    }
}
