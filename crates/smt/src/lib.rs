//! Secure Message Transport.
