//! See `vfio_user_ctrl_fuzz::pool`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vfio_user_ctrl_fuzz::pool::run(data));
