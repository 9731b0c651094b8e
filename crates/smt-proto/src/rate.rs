//! How fast the network delivers to this host (spec 6.10): the most that came per time while senders
//! owed us bytes without a pause, so that an idle application does not pass for a slow link.

use core::time::Duration;

use crate::time::Time;

/// What a packet takes of the link beside its payload, in bytes: Ethernet's gap, preamble, header and
/// check sequence 38, IPv4 20, DATA header 52.
const PACKET_OVERHEAD: u64 = 110;
/// The shortest time that is measured: some 20 packets of 1500 bytes at 10 Gb/s.
const MIN_INTERVAL_NS: u64 = 25_000;
/// A rate is believed when it has been measured so often.
const MIN_SAMPLES: u32 = 8;
/// The maximum is that of the present and the previous window of this length.
const WINDOW: Duration = Duration::from_secs(5);
/// Rates are in bytes per nanosecond, times 2 to this power.
const SHIFT: u32 = 16;

/// Bytes that may be asked for again at once, on the wire.
const REPAIR_BURST: u64 = 32 << 10;
/// Bytes that are asked for again wait for their turn no longer than this.
const MAX_REPAIR_WAIT: Duration = Duration::from_millis(10);

/// However busy the link, silence counts after so many times its length.
const MAX_STRETCH: u32 = 16;

/// When silence began, how much of it is suspicious, and what had come until then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    at: Time,
    wait: Duration,
    total: u64,
}

impl Mark {
    /// The time since it.
    pub(crate) fn age(&self, now: Time) -> Duration {
        now.since(self.at)
    }
}

/// The meter of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// The interval under way.
    open: Option<Interval>,
    /// Bytes on the wire so far.
    total: u64,
    /// Until when the link is booked for bytes asked for again.
    booked: Time,
    /// Highest rates of the window that began at the time, and of the one before.
    best: [u64; 2],
    window: Time,
    samples: u32,
}

/// Packets read at one `now` came before it: those of its first moment do not count, and it ends with
/// the last moment that is over.
#[derive(Clone, Copy, Debug)]
struct Interval {
    since: Time,
    last: Time,
    /// Bytes between `since` and `last`, and those read at `last`.
    before: u64,
    at_last: u64,
}

impl Interval {
    fn new(since: Time) -> Self {
        Interval { since, last: since, before: 0, at_last: 0 }
    }
}

impl Meter {
    /// A packet with `payload` bytes was read.
    pub(crate) fn arrived(&mut self, now: Time, payload: usize) {
        let bytes = payload as u64 + PACKET_OVERHEAD;
        self.total = self.total.wrapping_add(bytes);
        let Some(interval) = &mut self.open else { return };
        let mut sample = None;
        if now > interval.last {
            interval.before += core::mem::take(&mut interval.at_last);
            let spent = interval.last.as_nanos() - interval.since.as_nanos();
            if spent >= MIN_INTERVAL_NS {
                sample = Some((interval.before << SHIFT) / spent);
                *interval = Interval::new(interval.last);
            }
            interval.last = now;
        }
        if now > interval.since {
            interval.at_last += bytes;
        }
        if let Some(rate) = sample {
            self.sample(now, rate);
        }
    }

    /// From `now` on somebody owes us bytes.
    pub(crate) fn start(&mut self, now: Time) {
        self.open = Some(Interval::new(now));
    }

    /// Nobody owes us bytes any more.
    pub(crate) fn stop(&mut self) {
        self.open = None;
    }

    fn sample(&mut self, now: Time, rate: u64) {
        let [current, previous] = &mut self.best;
        if now.since(self.window) >= WINDOW {
            (*previous, *current) = (*current, 0);
            self.window = now;
        }
        *current = (*current).max(rate);
        self.samples = self.samples.saturating_add(1);
    }

    fn rate(&self) -> Option<u64> {
        let [current, previous] = self.best;
        let rate = current.max(previous);
        (self.samples >= MIN_SAMPLES && rate > 0).then_some(rate)
    }

    /// Bytes that come in `span`, if the rate is known.
    pub(crate) fn bytes_in(&self, span: Duration) -> Option<u32> {
        let span = span.as_nanos().min(1_000_000_000) as u64;
        let bytes = self.rate()?.saturating_mul(span) >> SHIFT;
        Some(u32::try_from(bytes).unwrap_or(u32::MAX))
    }

    /// Books the link for `bytes` that are asked for again, and says when to ask: were all that is
    /// missing asked for at once, it would overflow the same queue again. `now` while the rate is not
    /// known, and after at most [`MAX_REPAIR_WAIT`], whatever is booked.
    pub(crate) fn book(&mut self, now: Time, bytes: u32) -> Time {
        let Some(rate) = self.rate() else { return now };
        let span = |bytes: u64| Duration::from_nanos(bytes.saturating_mul(1 << SHIFT) / rate);
        let slot = self.booked.max(now - span(REPAIR_BURST));
        if slot.since(now) > MAX_REPAIR_WAIT {
            return now + MAX_REPAIR_WAIT;
        }
        self.booked = slot + span(bytes.into());
        slot.max(now)
    }

    /// Books the link if `bytes` may be asked for again at once.
    pub(crate) fn book_now(&mut self, now: Time, bytes: u32) -> bool {
        let before = self.booked;
        let free = self.book(now, bytes) <= now;
        if !free {
            self.booked = before;
        }
        free
    }

    /// From `now` on silence counts that is suspicious at `due`.
    pub(crate) fn mark(&self, now: Time, due: Time) -> Mark {
        Mark { at: now, wait: due.since(now), total: self.total }
    }

    /// Whether the link has been idle for half of the time since `mark`, at least.
    pub(crate) fn is_idle_since(&self, now: Time, mark: Mark) -> bool {
        self.busy_since(mark.total) <= mark.age(now) / 2
    }

    /// When a message has been silent for so long, counting only the time in which nothing else came:
    /// while the link brings other bytes, one that waits behind them is not lost. However busy the
    /// link, the wait is no longer than some times what it was.
    pub(crate) fn silent_at(&self, mark: Mark) -> Time {
        mark.at + (mark.wait + self.busy_since(mark.total)).min(mark.wait * MAX_STRETCH)
    }

    /// For how long the link was busy with what came since the total was `total`; zero while the rate
    /// is not known.
    fn busy_since(&self, total: u64) -> Duration {
        let bytes = self.total.wrapping_sub(total);
        let nanos = self.rate().map_or(0, |rate| (u128::from(bytes) << SHIFT) / u128::from(rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 1250 - PACKET_OVERHEAD as usize;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn repairs_take_turns_at_the_rate_of_the_link() {
        let mut meter = Meter::default();
        assert_eq!(meter.book(at(5), 1 << 30), at(5));
        // One byte a nanosecond.
        (meter.best, meter.samples) = ([1 << SHIFT, 0], MIN_SAMPLES);
        let now = at(1_000_000);
        // A burst goes at once, then each when the others' bytes have had their time.
        assert_eq!(meter.book(now, 32 << 10), now);
        assert_eq!(meter.book(now, 10_000), now);
        assert_eq!(meter.book(now, 10_000), now + Duration::from_nanos(10_000));
        assert_eq!(meter.book(now, 1), now + Duration::from_nanos(20_000));
        // Nobody books the link for ever.
        assert!(!meter.book_now(now, 1));
        assert!(meter.book_now(now + Duration::from_nanos(20_001), 1));
        meter.book(now, u32::MAX);
        assert_eq!(meter.book(now, 1), now + MAX_REPAIR_WAIT);
        let later = now + Duration::from_secs(10);
        assert_eq!(meter.book(later, 1), later);
    }

    #[test]
    fn a_busy_link_is_measured_and_a_pause_is_not() {
        let mut meter = Meter::default();
        meter.start(at(0));
        // 10 Gb/s: 1250 bytes in each microsecond.
        for i in 0..1000u64 {
            meter.arrived(at(1000 * i), PACKET);
        }
        assert_eq!(meter.bytes_in(Duration::from_micros(8)), Some(10_000));
        meter.stop();
        // Nothing is owed: few packets in a long time mean nothing.
        meter.arrived(at(50_000_000), PACKET);
        meter.start(at(60_000_000));
        for i in 0..1000u64 {
            meter.arrived(at(60_000_000 + 1000 * i), PACKET);
        }
        assert_eq!(meter.bytes_in(Duration::from_micros(8)), Some(10_000));
        let mark = meter.mark(at(100_000_000), at(100_030_000));
        assert_eq!(meter.silent_at(mark), at(100_030_000));
        for _ in 0..10 {
            meter.arrived(at(100_030_000), PACKET);
        }
        assert_eq!(meter.silent_at(mark), at(100_040_000));
        for _ in 0..1000 {
            meter.arrived(at(100_040_000), PACKET);
        }
        assert_eq!(meter.silent_at(mark), at(100_480_000));
    }

    #[test]
    fn packets_read_in_bursts_give_the_rate_they_came_at() {
        let mut meter = Meter::default();
        meter.start(at(0));
        // The driver wakes up every 7 microseconds, once after 500.
        for i in 0..1000u64 {
            let late = if i > 500 { 500_000 } else { 0 };
            let packets = if i == 501 { 507 } else { 7 };
            for _ in 0..packets {
                meter.arrived(at(7000 * i + late), PACKET);
            }
        }
        assert_eq!(meter.bytes_in(Duration::from_micros(8)), Some(10_000));
    }

    #[test]
    fn a_rate_is_forgotten_when_it_is_not_reached_for_two_windows() {
        let mut meter = Meter::default();
        let mut now = 0;
        for step in [1000u64, 2000] {
            meter.start(at(now));
            for _ in 0..12_000_000_000 / step / 100 {
                now += 100 * step;
                for _ in 0..100 {
                    meter.arrived(at(now), PACKET);
                }
            }
            let expected = if step == 1000 { 10_000 } else { 5000 };
            assert_eq!(meter.bytes_in(Duration::from_micros(8)), Some(expected));
        }
    }
}
