//! Kills of every part of the node under readers: see `vsecm-chaos --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vsecm_tests::chaos::main()
}
