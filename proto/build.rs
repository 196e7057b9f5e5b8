//! Compiles the definitions with a pure-Rust compiler, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sources = ["cri/v1.proto", "vaquita/v1.proto", "health/v1.proto"];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    let descriptors = protox::compile(sources, ["."])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .bytes(".runtime.v1.ExecSyncResponse")
        .skip_debug([".runtime.v1.AuthConfig", ".vaquita.v1.PullImageRequest"])
        .compile_fds(descriptors)?;
    Ok(())
}
