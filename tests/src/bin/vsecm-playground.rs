//! The system on one machine, for trying it out: see `vsecm-playground --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vsecm_tests::app::main()
}
