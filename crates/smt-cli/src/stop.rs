//! Ending cleanly on Ctrl-C.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// How long loops wait at most before they look at [`Stop::is_set`] again.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Set by SIGINT (Ctrl-C) and SIGTERM. A second one ends the process at once, with status 1.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// From now on the signals set the flag instead of ending the process.
    ///
    /// # Errors
    /// The host refuses signal handlers.
    pub fn on_signals() -> io::Result<Stop> {
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order the first signal finds the flag not yet set.
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop.flag))?;
            flag::register(signal, Arc::clone(&stop.flag))?;
        }
        Ok(stop)
    }

    /// Whether it is time to end.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}
