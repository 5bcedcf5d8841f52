//! `safe`: the operator's hand. Everything is in the library.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    vsecm_sentinel::run(env::args_os())
}
