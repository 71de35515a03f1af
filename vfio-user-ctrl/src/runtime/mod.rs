//! Controllers on SPDK's reactors.
