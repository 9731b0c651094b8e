//! The register in memory.

use super::*;

const WINDOW_MS: u64 = 10_000;

fn strike(key: u8, time_ms: u64, now_ms: u64) -> Strike {
    Strike { key: [key; STRIKE_LEN], time_ms, now_ms, window_ms: WINDOW_MS }
}

/// A register started at 1 s since 1970.
fn register_of(capacity: usize) -> MemoryRegister {
    MemoryRegister::started_at(capacity, UNIX_EPOCH + seconds(1))
}

#[test]
fn each_claim_is_fresh_once() {
    let register = register_of(10);
    assert_eq!(register.claim(&strike(1, 20_000, 20_000)), Ok(Claim::Fresh));
    assert_eq!(register.claim(&strike(1, 20_000, 20_000)), Ok(Claim::Seen));
    assert_eq!(register.claim(&strike(2, 20_000, 20_000)), Ok(Claim::Fresh));
    // Held as long as its time would pass, to the millisecond.
    assert_eq!(register.claim(&strike(1, 20_000, 30_000)), Ok(Claim::Seen));
    assert_eq!(register.claim(&strike(3, 30_001, 30_001)), Ok(Claim::Fresh));
    assert_eq!(register.len(), 1);
}

#[test]
fn nothing_that_may_be_older_than_the_register_is_fresh() {
    let register = register_of(10);
    let at_the_edge = strike(1, 1_000 + WINDOW_MS, 1_000 + WINDOW_MS);
    assert_eq!(register.claim(&at_the_edge), Err(RegisterError::Restarted));
    let past_it = strike(1, 1_001 + WINDOW_MS, 1_000 + WINDOW_MS);
    assert_eq!(register.claim(&past_it), Ok(Claim::Fresh));
}

#[test]
fn a_full_register_refuses_and_recovers() {
    let register = register_of(3);
    for key in 0..3 {
        assert_eq!(register.claim(&strike(key, 20_000, 20_000)), Ok(Claim::Fresh));
    }
    assert_eq!(register.claim(&strike(3, 20_000, 20_000)), Err(RegisterError::Full));
    assert_eq!(register.claim(&strike(2, 20_000, 20_000)), Ok(Claim::Seen));
    assert_eq!(register.claim(&strike(3, 30_001, 30_001)), Ok(Claim::Fresh));
    assert_eq!(register.len(), 1);
}

/// Two threads decide on the same offer; the one that was decided on first claims last, when another
/// claim has moved the time on.
#[test]
fn a_claim_that_comes_too_late_is_not_fresh() {
    let register = register_of(10);
    assert_eq!(register.claim(&strike(1, 20_000, 20_000)), Ok(Claim::Fresh));
    assert_eq!(register.claim(&strike(2, 30_001, 30_001)), Ok(Claim::Fresh));
    assert_eq!(register.claim(&strike(1, 20_000, 30_000)), Err(RegisterError::TooLate));
    assert_eq!(register.claim(&strike(3, 20_001, 30_001)), Ok(Claim::Fresh));
    // Servers with other windows share the register.
    let wide = Strike { window_ms: 60_000, ..strike(1, 20_000, 30_000) };
    assert!(register.claim(&wide).is_err());
}

#[test]
fn one_of_many_threads_wins() {
    let register = register_of(1000);
    for key in 0..50 {
        let fresh: usize = std::thread::scope(|scope| {
            let claim = || register.claim(&strike(key, 20_000, 20_000)) == Ok(Claim::Fresh);
            let claims: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
            claims.into_iter().map(|claim| usize::from(claim.join().unwrap())).sum()
        });
        assert_eq!(fresh, 1);
    }
}
