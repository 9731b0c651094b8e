//! A test harness that makes test hosts possible: it gets the rights before there is a second thread.

use std::process::ExitCode;
use std::{panic, thread};

use libtest_mimic::Arguments;

/// A named test; [`test()`] makes one.
pub use libtest_mimic::Trial;

/// The `main` of a test program with `harness = false`: [`enter`](crate::enter)s, then runs `tests` under the
/// usual arguments of `cargo test` and nextest.
///
/// Where test hosts cannot be made, all tests fail, loudly, with the reason and the remedy; listing the tests
/// works all the same.
pub fn main(tests: Vec<Trial>) -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = crate::enter()
    {
        eprintln!("these tests need network namespaces and cannot run here: {error}");
        return ExitCode::FAILURE;
    }
    libtest_mimic::run(&arguments, tests).exit_code()
}

/// A test that fails by panicking, as `#[test]` functions do.
///
/// It runs on a thread of its own, so it may [`enter`](crate::Namespace::enter) a host without moving the tests
/// after it.
pub fn test(name: &str, body: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, || match thread::spawn(body).join() {
        Ok(()) => Ok(()),
        Err(payload) => panic::resume_unwind(payload),
    })
}
