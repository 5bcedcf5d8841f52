//! `vsecm-sentinel`: what runs in sentinel's pod while nobody runs `safe`. Everything is in the
//! library.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    vsecm_sentinel::wait(env::args_os())
}
