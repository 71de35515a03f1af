//! The vfio-user protocol.
#![forbid(unsafe_code)]
