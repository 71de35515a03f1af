//! Data of which no two blocks are alike, and checksums.

use std::path::Path;
use std::process::Command;

/// Returns the checksum of a file.
#[track_caller]
pub(crate) fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum can be run");
    assert!(output.status.success(), "sha256sum {}", path.display());
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned()
}

/// Returns bytes of which no two blocks are alike.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let mut numbers = Numbers::new(0);
    while bytes.len() < len {
        bytes.extend_from_slice(&numbers.draw().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Numbers without order that are the same every time (xorshift).
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed << 1))
    }

    pub(crate) fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
