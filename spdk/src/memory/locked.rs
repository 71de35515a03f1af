//! How much memory the kernel lets this process lock for devices.

use std::fs;

/// The capability that lifts the limit (`linux/capability.h`).
const CAP_IPC_LOCK: u32 = 14;

/// Returns whether devices may lock so many bytes more. Where the kernel does not tell, they are let try.
pub(super) fn may_lock(bytes: usize) -> bool {
    let limit = fs::read_to_string("/proc/self/limits");
    let status = fs::read_to_string("/proc/self/status");
    limit.ok().zip(status.ok()).is_none_or(|(limits, status)| fits(&limits, &status, bytes as u64))
}

/// Returns the same, of the kernel's `limits` and `status`.
fn fits(limits: &str, status: &str, bytes: u64) -> bool {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let capabilities = field("CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok());
    if capabilities.is_none_or(|all| all >> CAP_IPC_LOCK & 1 == 1) {
        return true;
    }
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    // "unlimited", or the soft limit in bytes.
    let Some(limit) = limit.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()) else { return true };
    let pinned = field("VmPin:").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    pinned.saturating_mul(1024).saturating_add(bytes) <= limit
}

#[cfg(test)]
mod tests {
    use super::fits;

    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
                          Max locked memory         1048576              unlimited            bytes\n\
                          Max address space         unlimited            unlimited            bytes\n";
    const PLAIN: &str = "Name:\tx\nVmPin:\t     512 kB\nCapEff:\t0000000000000000\n";

    #[test]
    fn what_is_pinned_and_what_is_asked_for_must_be_below_the_limit() {
        assert!(fits(LIMITS, PLAIN, 512 << 10));
        assert!(!fits(LIMITS, PLAIN, (512 << 10) + 1));
        assert!(!fits(LIMITS, PLAIN, u64::MAX));
    }

    #[test]
    fn no_limit_holds_with_the_capability_or_without_a_number() {
        assert!(fits(LIMITS, &PLAIN.replace("CapEff:\t0000000000000000", "CapEff:\t0000000000004000"), u64::MAX));
        assert!(fits(&LIMITS.replace("1048576", "unlimited"), PLAIN, u64::MAX));
        assert!(fits("", "", u64::MAX));
    }
}
