//! Many RPCs at a time, whatever carries them: each that is over is followed by the next.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::BULK_BYTES;
use crate::baseline::{Pipeline, RECEIPT_BYTES};
use crate::commands::Error;
use crate::times::Times;

/// How long the last RPCs may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to load a pipeline with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Bytes of the requests that are echoed.
    pub(super) size: usize,
    /// How many of them are outstanding.
    pub(super) outstanding: usize,
    /// Messages of [`BULK_BYTES`] that are outstanding beside them, to be acknowledged.
    pub(super) bulk: usize,
    /// For how long nothing is counted.
    pub(super) warm_up: Duration,
    /// For how long RPCs are counted.
    pub(super) time: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// RPCs that were over within `elapsed`.
    pub(super) count: u64,
    /// Messages of [`BULK_BYTES`] that were acknowledged within it.
    pub(super) bulk: u64,
    pub(super) elapsed: Duration,
    /// How long the echoed RPCs took, where there is bulk beside them.
    pub(super) times: Times,
}

/// Keeps the pipeline loaded; returns when all RPCs are over.
///
/// # Errors
/// An RPC fails, or has a response of the wrong length.
pub(super) fn run(pipeline: &mut dyn Pipeline, load: &Load) -> Result<Done, Error> {
    let [small, large] = [load.size, BULK_BYTES]
        .map(|size| (0..=250_u8).cycle().take(size).collect::<Vec<u8>>())
        .map(|body| pipeline.request(&body));
    let mut running = Running {
        pipeline,
        load,
        small,
        large,
        begun: vec![Instant::now(); if load.bulk > 0 { load.outstanding } else { 0 }],
        left: 0,
        over: Vec::new(),
        done: Done::default(),
    };
    (0..load.outstanding + load.bulk).try_for_each(|tag| running.begin(tag))?;
    running.until(load.warm_up)?;
    running.done = Done::default();
    let elapsed = running.until(load.time)?;
    let done = Done { elapsed, ..std::mem::take(&mut running.done) };
    running.drain()?;
    Ok(done)
}

struct Running<'a> {
    pipeline: &'a mut dyn Pipeline,
    load: &'a Load,
    small: Bytes,
    large: Bytes,
    /// When each of the echoed RPCs began, if that matters.
    begun: Vec<Instant>,
    /// RPCs that are not over.
    left: usize,
    over: Vec<(usize, usize)>,
    done: Done,
}

impl Running<'_> {
    /// RPCs below `load.outstanding` are echoed, those above are bulk.
    fn begin(&mut self, tag: usize) -> Result<(), Error> {
        if let Some(begun) = self.begun.get_mut(tag) {
            *begun = Instant::now();
        }
        self.left += 1;
        let request = if tag < self.load.outstanding { &self.small } else { &self.large };
        self.pipeline.call(request, tag)
    }

    /// Goes on for `time`; returns how long it was.
    fn until(&mut self, time: Duration) -> Result<Duration, Error> {
        let start = Instant::now();
        loop {
            self.turn(true)?;
            let elapsed = start.elapsed();
            if elapsed >= time {
                return Ok(elapsed);
            }
        }
    }

    /// Lets the RPCs end.
    fn drain(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        while self.left > 0 {
            self.turn(false)?;
            if start.elapsed() > PATIENCE {
                return Err(Error::Failed(format!("{} RPCs do not end", self.left)));
            }
        }
        Ok(())
    }

    fn turn(&mut self, again: bool) -> Result<(), Error> {
        self.pipeline.turn(&mut self.over)?;
        for (tag, bytes) in std::mem::take(&mut self.over) {
            let is_bulk = tag >= self.load.outstanding;
            if bytes != if is_bulk { RECEIPT_BYTES } else { self.load.size } {
                return Err(Error::Failed("a response is not of the right length".to_owned()));
            }
            self.left -= 1;
            if is_bulk {
                self.done.bulk += 1;
            } else {
                self.done.count += 1;
                if let Some(begun) = self.begun.get(tag) {
                    self.done.times.add(begun.elapsed());
                }
            }
            if again {
                self.begin(tag)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers everything with the next turn.
    #[derive(Default)]
    struct Instantly {
        calls: Vec<(usize, usize)>,
        wrong: bool,
    }

    impl Pipeline for Instantly {
        fn request(&self, body: &[u8]) -> Bytes {
            Bytes::copy_from_slice(body)
        }

        fn call(&mut self, request: &Bytes, tag: usize) -> Result<(), Error> {
            let bytes = if request.len() == BULK_BYTES { RECEIPT_BYTES } else { request.len() };
            self.calls.push((tag, bytes + usize::from(self.wrong)));
            Ok(())
        }

        fn turn(&mut self, over: &mut Vec<(usize, usize)>) -> Result<(), Error> {
            over.append(&mut self.calls);
            Ok(())
        }
    }

    const LOAD: Load = Load {
        size: 64,
        outstanding: 3,
        bulk: 1,
        warm_up: Duration::ZERO,
        time: Duration::from_millis(2),
    };

    #[test]
    fn all_kinds_are_counted_and_none_is_left() {
        let mut pipeline = Instantly::default();
        let done = run(&mut pipeline, &LOAD).unwrap();
        assert_eq!(done.count, 3 * done.bulk);
        assert_eq!(done.times.count(), done.count);
        assert!(done.elapsed >= LOAD.time && pipeline.calls.is_empty());
    }

    #[test]
    fn a_response_of_the_wrong_length_is_noticed() {
        let mut pipeline = Instantly { wrong: true, ..Instantly::default() };
        assert!(run(&mut pipeline, &LOAD).is_err());
    }
}
