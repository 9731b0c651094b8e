//! stand-in
use super::smt_host::SmtHost;
use crate::net::NetConfig;
pub fn hosts(_net: &NetConfig) -> Vec<SmtHost> {
    Vec::new()
}
pub fn retransmitted(_: &[SmtHost]) -> u64 {
    0
}
