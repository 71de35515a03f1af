//! What must not compile: values that leave their thread, or are used twice.

use std::process::Command;

/// The compiler whose words the files beside the cases hold; another's may differ.
const COMPILER: &str = "rustc 1.95.0 ";

#[test]
fn values_that_leave_their_thread_or_are_used_twice_do_not_compile() {
    let version = Command::new("rustc").arg("--version").output().expect("a compiler");
    let version = String::from_utf8_lossy(&version.stdout);
    if !version.starts_with(COMPILER) {
        eprintln!("not checked: the expected messages are of {COMPILER}, this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
