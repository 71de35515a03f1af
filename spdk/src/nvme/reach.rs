//! Tells whether anybody is at an address.

use std::ffi::CString;
use std::net::IpAddr;
use std::time::Duration;

use spdk_sys as sys;

use crate::Errno;

/// Asks over RDMA whether anybody listens there as an NVMe target does: a connection is made and given up again. Blocks
/// for up to `timeout`, so that it is not for a reactor.
///
/// # Errors
/// `NODEV` when no RDMA device leads there, `ECONNREFUSED` when nobody listens, `TIMEDOUT` when nobody answers, or
/// another error number that says why there is no way.
pub fn rdma_reach(address: IpAddr, port: u16, timeout: Duration) -> Result<(), Errno> {
    let text = |text: String| CString::new(text).map_err(|_| Errno::INVAL);
    let (address, port) = (text(address.to_string())?, text(port.to_string())?);
    let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: both strings end with a NUL and live until the call returns.
    Errno::check(unsafe { sys::courier_shim_rdma_reach(address.as_ptr(), port.as_ptr(), timeout) })
}
