//! Figures of the volume against the bars of the design, as `make bench` prints them.

use std::process::ExitCode;

fn main() -> ExitCode {
    vsecm_tests::bench::main()
}
