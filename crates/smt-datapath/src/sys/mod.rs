//! The border to the kernel: everything in this crate that needs `unsafe`, and the byte layouts
//! (addresses, control messages) that go with it, which do not.

pub(crate) mod address;
pub(crate) mod batch;
pub(crate) mod bpf;
pub(crate) mod control;
pub(crate) mod device;
pub(crate) mod ethtool;
mod fixed;
pub(crate) mod option;
mod pool;
pub(crate) mod ring;
pub(crate) mod umem;
pub(crate) mod xsk;
