//! The border to the kernel: everything in this crate that needs `unsafe`, and the byte layouts
//! (addresses, control messages) that go with it, which do not.

pub(crate) mod address;
pub(crate) mod batch;
pub(crate) mod control;
pub(crate) mod ethtool;
mod fixed;
pub(crate) mod option;
