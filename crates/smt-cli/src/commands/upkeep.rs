//! What a running server looks at once a second beside its sessions: the files it follows, its ticket's file, and how
//! its early data fares.

use std::fmt::Display;
use std::time::{Duration, Instant};

use serde_json::json;
use smt::ticket::EarlyData;
use smt::tls::Watch;

use super::Error;
use super::early::TicketFile;
use crate::output::{Printer, counted, number};

/// How often all that is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// What goes wrong all the time is told once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Looks, and tells what has happened.
pub struct Upkeep {
    printer: Printer,
    watch: Option<Watch>,
    replaced: u64,
    refused: u64,
    early: Option<EarlyData>,
    ticket_file: Option<TicketFile>,
    ticket_trouble: Trouble,
    /// Early requests that the register let down, as told last.
    let_down: u64,
    register_trouble: Trouble,
    looked_at: Instant,
}

impl Upkeep {
    /// Writes the ticket's file for the first time.
    ///
    /// # Errors
    /// It cannot be written: at the beginning that is the user's mistake.
    pub fn new(
        printer: Printer,
        watch: Option<Watch>,
        early: Option<EarlyData>,
        mut ticket_file: Option<TicketFile>,
    ) -> Result<Upkeep, Error> {
        if let (Some(file), Some(early)) = (&mut ticket_file, &early) {
            file.update(early)?;
        }
        Ok(Upkeep {
            printer,
            watch,
            replaced: 0,
            refused: 0,
            early,
            ticket_file,
            ticket_trouble: Trouble::default(),
            let_down: 0,
            register_trouble: Trouble::default(),
            looked_at: Instant::now(),
        })
    }

    /// Looks at everything, if it is time to. What fails is told, and the server goes on.
    ///
    /// # Errors
    /// Nobody reads standard output any more.
    pub fn look(&mut self, now: Instant) -> Result<(), Error> {
        if now.duration_since(self.looked_at) < INTERVAL {
            return Ok(());
        }
        self.looked_at = now;
        self.look_at_files()?;
        self.look_at_ticket(now)?;
        self.look_at_register(now)
    }

    fn look_at_files(&mut self) -> Result<(), Error> {
        let Some(stats) = self.watch.as_ref().map(Watch::stats) else { return Ok(()) };
        if stats.replaced != self.replaced {
            self.replaced = stats.replaced;
            let text = "files changed: new handshakes go by them";
            self.printer.say(text, &json!({"event": "reloaded"}))?;
        }
        if stats.refused != self.refused {
            self.refused = stats.refused;
            let why = stats.last_refusal.unwrap_or_default();
            let text = format!("files changed and cannot be used, the old ones count on: {why}");
            self.warn("reload_failed", text)?;
        }
        Ok(())
    }

    fn look_at_ticket(&mut self, now: Instant) -> Result<(), Error> {
        let (Some(file), Some(early)) = (&mut self.ticket_file, &self.early) else { return Ok(()) };
        match file.update(early) {
            Ok(()) => self.ticket_trouble = Trouble::default(),
            Err(error) if self.ticket_trouble.is_due(now) => {
                let text = format!("the ticket in its file grows old: {}", error.explain());
                self.warn("ticket_file_failed", text)?;
            }
            Err(_) => {}
        }
        Ok(())
    }

    fn look_at_register(&mut self, now: Instant) -> Result<(), Error> {
        let Some(stats) = self.early.as_ref().map(EarlyData::stats) else { return Ok(()) };
        let let_down = stats.register_unavailable + stats.register_full;
        if let_down > self.let_down && self.register_trouble.is_due(now) {
            let count = let_down - self.let_down;
            self.let_down = let_down;
            let text = format!(
                "{} refused, because --register does not answer or is full",
                counted(count, "early request")
            );
            self.warn("register_failed", text)?;
        }
        Ok(())
    }

    /// For people on standard error, for programs on standard output, too.
    fn warn(&self, event: &str, text: impl Display) -> Result<(), Error> {
        eprintln!("smt: {text}");
        Ok(self.printer.object(&json!({"event": event, "text": text.to_string()}))?)
    }
}

/// When something that does not end by itself was told last.
#[derive(Default)]
struct Trouble(Option<Instant>);

impl Trouble {
    /// Whether to tell it now.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.0.is_none_or(|told| now.duration_since(told) >= TELL_AGAIN);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

/// Lines of one kind that anybody can cause: so many are told in a second, the others counted.
pub struct Rate {
    per_second: u32,
    second: Instant,
    told: u32,
    untold: u64,
}

impl Rate {
    /// At most `per_second` lines, from `now` on.
    pub fn new(per_second: u32, now: Instant) -> Rate {
        Rate { per_second, second: now, told: 0, untold: 0 }
    }

    /// How many were not told since the last that was, if another one may be told now.
    pub fn tell(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.told = 0;
        }
        if self.told >= self.per_second {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }

    /// How many have not been told yet.
    pub fn untold(&self) -> u64 {
        self.untold
    }
}

/// What stands behind a line for those not told before it.
pub fn and_before(untold: u64) -> String {
    match untold {
        0 => String::new(),
        _ => format!(" ({} more before it)", number(untold)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_at_a_limited_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(3, start);
        for _ in 0..3 {
            assert_eq!(rate.tell(start), Some(0));
        }
        assert_eq!([rate.tell(start), rate.tell(start)], [None, None]);
        assert_eq!(rate.untold(), 2);
        let later = start + Duration::from_secs(1);
        assert_eq!([rate.tell(later), rate.tell(later)], [Some(2), Some(0)]);
        assert_eq!(and_before(1234), " (1,234 more before it)");
        assert_eq!(and_before(0), "");
    }

    #[test]
    fn lasting_trouble_is_told_now_and_then() {
        let start = Instant::now();
        let mut trouble = Trouble::default();
        assert!(trouble.is_due(start));
        assert!(!trouble.is_due(start + Duration::from_secs(59)));
        assert!(trouble.is_due(start + TELL_AGAIN));
    }
}
