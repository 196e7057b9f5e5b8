//! Compiles the definitions with a pure-Rust compiler, so that no `protoc` is needed.

/// The messages that the daemon keeps in its records, as JSON.
const RECORDED: &[&str] = &[
    "CDIDevice",
    "Capability",
    "ContainerConfig",
    "ContainerMetadata",
    "DNSConfig",
    "Device",
    "HugepageLimit",
    "IDMapping",
    "ImageSpec",
    "Int64Value",
    "KeyValue",
    "LinuxContainerConfig",
    "LinuxContainerResources",
    "LinuxContainerSecurityContext",
    "LinuxContainerUser",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "Mount",
    "NamespaceOption",
    "PodSandboxConfig",
    "PodSandboxMetadata",
    "PortMapping",
    "SELinuxOption",
    "SecurityProfile",
    "UserNamespace",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sources =
        ["cri/v1.proto", "vaquita/v1.proto", "health/v1.proto", "nri/v1alpha1.proto", "otlp/trace.proto"];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    let descriptors = protox::compile(sources, ["."])?;
    let mut config = tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .bytes(".runtime.v1.ExecSyncResponse")
        .btree_map(".")
        // 400 bytes, which an empty one, of two bytes on the wire, would take too.
        .boxed(".nri.pkg.api.v1alpha1.ContainerUpdate.linux")
        .field_attribute(".runtime.v1.ContainerConfig.windows", "#[serde(skip)]")
        .field_attribute(".runtime.v1.PodSandboxConfig.windows", "#[serde(skip)]")
        .skip_debug([".runtime.v1.AuthConfig", ".vaquita.v1.PullImageRequest"]);
    for message in RECORDED {
        config = config.message_attribute(
            format!(".runtime.v1.{message}"),
            "#[derive(serde::Serialize, serde::Deserialize)] #[serde(default)]",
        );
    }
    config.compile_fds(descriptors)?;
    Ok(())
}
