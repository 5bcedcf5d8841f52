//! Compiles the contracts that the harness speaks, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let contracts = ["proto/workload.proto", "proto/delegatedidentity.proto", "proto/csi.proto"];
    let descriptors = protox::compile(contracts, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
