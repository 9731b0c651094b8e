//! Secure Message Transport.
#![forbid(unsafe_code)]

pub mod tls;
