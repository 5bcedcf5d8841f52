//! Compiles the contracts with protox, a protoc in Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let contracts = protox::compile(["proto/csi.proto", "proto/registration.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // it may bring what must reach no log ([I7]), so it cannot be printed
        .skip_debug(["csi.v1.NodePublishVolumeRequest"])
        .compile_fds(contracts)?;
    Ok(())
}
