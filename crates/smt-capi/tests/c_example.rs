//! The example in C: OpenSSL's handshake, SMT's sessions on its secrets, in two processes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cc;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use smt_testbed::{Trial, loopback, test};

fn main() -> ExitCode {
    let tests: Vec<Trial> = vec![
        test("over_udp", || run_example("secrets-udp", &[])),
        test("over_its_own_protocol", || run_example("secrets-raw", &["--raw"])),
    ];
    smt_testbed::main(tests)
}

fn compile(program: &Path) {
    let header = "-include openssl/ssl.h -E -o /dev/null -x c /dev/null";
    let openssl = Command::new("cc").args(header.split(' ')).stderr(Stdio::null()).status();
    assert!(
        openssl.is_ok_and(|status| status.success()),
        "this test needs OpenSSL's headers and library (3.0 or later): install the package \
         `libssl-dev`, with `apt-get install libssl-dev` for instance"
    );
    let mut cc = cc::cc();
    cc.args(["-std=c11", "-g", "-o"]).arg(program).arg(cc::repository("examples/c/secrets.c"));
    cc.arg(cc::static_library()).args(["-lssl", "-lcrypto"]).args(cc::SYSTEM_LIBRARIES);
    cc::run(&mut cc);
}

fn run_example(name: &str, args: &[&str]) {
    let program = cc::scratch(name);
    compile(&program);
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "120"]).arg(&program).args(args);
    // The host's own configuration may forbid suites or name other providers.
    command.env("OPENSSL_CONF", "/dev/null");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let host = loopback().expect("a host of its own");
    let output = host.command(command).expect("the example starts").wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{text}{errors}", output.status);
    let count = |line: &str| text.lines().filter(|text| text.contains(line)).count();
    for (line, times) in [
        ("client: session on the secrets of TLS_", 2),
        ("server: session on the secrets of TLS_", 2),
        ("client: \"hello\" -> \"HELLO\"", 2),
        ("client: TLS KeyUpdate sent", 1),
        ("server: TLS KeyUpdate received", 1),
        ("client: \"hello under a new key\" -> \"HELLO UNDER A NEW KEY\"", 2),
        ("client: \"and once more\" -> \"AND ONCE MORE\"", 2),
        ("client: 2 key updates", 1),
    ] {
        assert_eq!(count(line), times, "{line}\n{text}{errors}");
    }
}
