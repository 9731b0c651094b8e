//! Compiles C programs against the header and the static library.

// Each test program uses some of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the static library needs of the system.
pub(crate) const SYSTEM_LIBRARIES: &[&str] =
    &["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];

/// A path below the top of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// The static library, which cargo puts beside the tests.
pub(crate) fn static_library() -> PathBuf {
    let program = std::env::current_exe().expect("the path of the test");
    let library = program.with_file_name("libsmt_capi.a");
    assert!(library.exists(), "no {}: build the crate's static library", library.display());
    library
}

/// `cc`, as strict as the header must stand.
pub(crate) fn cc() -> Command {
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-I"]).arg(repository("include"));
    cc
}

/// Runs a command that must succeed, and returns its output.
pub(crate) fn run(command: &mut Command) -> String {
    let program = command.get_program().to_owned();
    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot start {program:?}: {error}; a C compiler is in the package `gcc`")
    });
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

/// A file for this test's programs; the directory is cargo's.
pub(crate) fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}
