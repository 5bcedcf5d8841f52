//! Compiles the contract by protox: no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let contract = protox::compile(["safe.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // values must not be printable
        .skip_debug([
            "vsecm.safe.v1.PutRequest",
            "vsecm.safe.v1.Snapshot",
            "vsecm.safe.v1.State",
            "vsecm.safe.v1.FetchResponse",
            "vsecm.safe.v1.WatchResponse",
        ])
        .compile_fds(contract)?;
    Ok(())
}
