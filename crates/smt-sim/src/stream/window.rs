//! The congestion window of a connection: slow start, congestion avoidance, and what marks and
//! losses do to it.

use super::config::{Control, StreamConfig};

/// The weight of the newest window in the estimate of marks (RFC 8257, 4.2).
const GAIN: f64 = 1.0 / 16.0;

/// A congestion window.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Bytes that may be in the network.
    bytes: f64,
    /// Above it the window grows by a segment each round trip.
    slow_start_below: f64,
    /// The share of bytes that were marked, smoothed.
    alpha: f64,
    /// Bytes acknowledged, and those of them that were marked, since the estimate was made last.
    acked: u64,
    marked: u64,
    /// The estimate is made next when all below this is acknowledged.
    round_end: u64,
    /// A mark changes the window again when all below this is acknowledged.
    reacted_until: u64,
}

/// What an acknowledgment means for the window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Bytes newly acknowledged in order.
    pub(super) acked: u64,
    /// They were marked.
    pub(super) marked: bool,
    /// All below this is acknowledged.
    pub(super) below: u64,
    /// All below this has been sent.
    pub(super) sent: u64,
    /// Bytes that were in the network before.
    pub(super) in_flight: u64,
    /// Losses are being repaired: the window stays as it is.
    pub(super) recovering: bool,
}

impl Window {
    pub(super) fn new(config: &StreamConfig) -> Self {
        Window {
            bytes: f64::from(config.initial_window.max(1)) * f64::from(config.mss),
            slow_start_below: f64::INFINITY,
            alpha: 1.0,
            acked: 0,
            marked: 0,
            round_end: 0,
            reacted_until: 0,
        }
    }

    /// Bytes that may be in the network.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// An acknowledgment has come.
    pub(super) fn acknowledged(&mut self, config: &StreamConfig, progress: Progress) {
        self.acked += progress.acked;
        if progress.marked {
            self.marked += progress.acked;
            self.react(config, progress);
        }
        if progress.below >= self.round_end {
            self.estimate(progress.sent);
        }
        let reacting = progress.below < self.reacted_until;
        if !progress.recovering && !reacting && !progress.marked {
            self.grow(config, progress);
        }
    }

    /// A loss was noticed, the first of its round trip.
    pub(super) fn lost(&mut self, config: &StreamConfig) {
        self.shrink(config, 0.5);
    }

    /// Nothing was acknowledged for long: the network may hold nothing any more.
    pub(super) fn timed_out(&mut self, config: &StreamConfig, in_flight: u64) {
        let mss = f64::from(config.mss);
        self.slow_start_below = (in_flight as f64 / 2.0).max(2.0 * mss);
        self.bytes = mss;
    }

    fn react(&mut self, config: &StreamConfig, progress: Progress) {
        if progress.recovering || progress.below < self.reacted_until {
            return;
        }
        self.reacted_until = progress.sent;
        match config.control {
            Control::Reno => self.shrink(config, 0.5),
            Control::Dctcp => self.shrink(config, 1.0 - self.alpha / 2.0),
        }
    }

    fn estimate(&mut self, sent: u64) {
        if self.acked > 0 {
            let share = self.marked as f64 / self.acked as f64;
            self.alpha += GAIN * (share - self.alpha);
        }
        (self.acked, self.marked) = (0, 0);
        self.round_end = sent;
    }

    fn shrink(&mut self, config: &StreamConfig, factor: f64) {
        self.bytes = (self.bytes * factor).max(2.0 * f64::from(config.mss));
        self.slow_start_below = self.bytes;
    }

    /// Only a window that is used says that the network can take more.
    fn grow(&mut self, config: &StreamConfig, progress: Progress) {
        let mss = f64::from(config.mss);
        let (acked, in_flight) = (progress.acked as f64, progress.in_flight as f64);
        if self.bytes < self.slow_start_below {
            if in_flight * 2.0 > self.bytes {
                self.bytes += acked.min(2.0 * mss);
            }
        } else if in_flight + mss > self.bytes {
            self.bytes += mss * acked / self.bytes;
        }
        self.bytes = self.bytes.min(f64::from(config.max_window_bytes).max(mss));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u64 = 1460;

    fn progress(window: &Window, below: u64, marked: bool) -> Progress {
        let in_flight = window.bytes();
        Progress {
            acked: MSS,
            marked,
            below,
            sent: below + in_flight,
            in_flight,
            recovering: false,
        }
    }

    /// Acknowledges segment by segment a window's worth of bytes from `below` on.
    fn round(window: &mut Window, config: &StreamConfig, below: &mut u64, marked: bool) {
        for _ in 0..window.bytes() / MSS {
            *below += MSS;
            window.acknowledged(config, progress(window, *below, marked));
        }
    }

    #[test]
    fn slow_start_doubles_and_avoidance_adds_one() {
        let config = StreamConfig::default();
        let (mut window, mut below) = (Window::new(&config), 0);
        round(&mut window, &config, &mut below, false);
        assert_eq!(window.bytes(), 20 * MSS);
        window.lost(&config);
        assert_eq!(window.bytes(), 10 * MSS);
        round(&mut window, &config, &mut below, false);
        assert!((10 * MSS + MSS / 2..=11 * MSS).contains(&window.bytes()), "{window:?}");
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let config = StreamConfig::default();
        let mut window = Window::new(&config);
        for i in 1..100 {
            let idle = Progress { in_flight: MSS, ..progress(&window, i * MSS, false) };
            window.acknowledged(&config, idle);
        }
        assert_eq!(window.bytes(), 10 * MSS);
    }

    #[test]
    fn dctcp_shrinks_by_the_share_of_marks_and_reno_by_half() {
        let shrunk = |control| {
            let config = StreamConfig { control, initial_window: 100, ..StreamConfig::default() };
            let (mut window, mut below) = (Window::new(&config), 0);
            window.slow_start_below = 0.0;
            for _ in 0..40 {
                round(&mut window, &config, &mut below, false);
            }
            let before = window.bytes;
            window.acknowledged(&config, progress(&window, below + MSS, true));
            window.bytes / before
        };
        assert!(shrunk(Control::Dctcp) > 0.9, "nothing was marked for long");
        assert!((shrunk(Control::Reno) - 0.5).abs() < 0.01);
    }

    #[test]
    fn marks_all_the_time_shrink_once_a_round() {
        let config = StreamConfig { initial_window: 64, ..StreamConfig::default() };
        let (mut window, mut below) = (Window::new(&config), 0);
        round(&mut window, &config, &mut below, true);
        let after = window.bytes() / MSS;
        assert!((16..=32).contains(&after), "{after}");
        for _ in 0..20 {
            round(&mut window, &config, &mut below, true);
        }
        assert_eq!(window.bytes(), 2 * MSS);
    }

    #[test]
    fn a_timeout_leaves_one_segment() {
        let config = StreamConfig::default();
        let mut window = Window::new(&config);
        window.timed_out(&config, window.bytes());
        assert_eq!(window.bytes(), MSS);
        assert!((window.slow_start_below - 5.0 * 1460.0).abs() < 1.0);
    }
}
