//! Many RPCs at a time, whatever carries them: each that is over is followed by the next, or they begin at a fixed rate,
//! whether or not earlier ones are over.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::baseline::{ECHO_UP_TO, Pipeline, RECEIPT_BYTES};
use crate::commands::Error;
use crate::times::Times;

/// How long the last RPCs may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to load a pipeline with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Bytes of the requests whose times are taken.
    pub(super) size: usize,
    /// How many of them are outstanding, at most where there is a rate.
    pub(super) outstanding: usize,
    /// How many of them begin each second; `None`: each when another is over.
    pub(super) rate: Option<u32>,
    /// Messages that are outstanding beside them, to be acknowledged, and their bytes.
    pub(super) beside: (usize, usize),
    /// For how long nothing is counted.
    pub(super) warm_up: Duration,
    /// For how long RPCs are counted.
    pub(super) time: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// RPCs that were over within `elapsed`; with a rate all that were to begin within it.
    pub(super) count: u64,
    /// Messages beside them that were acknowledged within it.
    pub(super) beside: u64,
    pub(super) elapsed: Duration,
    /// How long the RPCs took, with a rate from when they were to begin.
    pub(super) times: Times,
    /// RPCs that were to begin and could not, for want of room. Their times until they were given up are in `times`.
    pub(super) not_begun: u64,
}

/// Keeps the pipeline loaded; returns when all RPCs are over. With a rate the pipeline must not nap.
///
/// # Errors
/// An RPC fails, or has a response of the wrong length.
pub(super) fn run(pipeline: &mut dyn Pipeline, load: &Load) -> Result<Done, Error> {
    let [small, large] = [load.size, load.beside.1]
        .map(|size| (0..=250_u8).cycle().take(size).collect::<Vec<u8>>())
        .map(|body| pipeline.request(&body));
    let now = Instant::now();
    let all = load.outstanding + load.beside.0;
    let mut running = Running {
        pipeline,
        load,
        small,
        large,
        begun: vec![now; all],
        free: Vec::new(),
        now,
        left: 0,
        over: Vec::new(),
        done: Done::default(),
    };
    match load.rate {
        None => (0..all).try_for_each(|tag| running.begin(tag, now))?,
        Some(_) => {
            running.free = (0..load.outstanding).rev().collect();
            (load.outstanding..all).try_for_each(|tag| running.begin(tag, now))?;
        }
    }
    running.until(load.warm_up)?;
    if load.rate.is_some() {
        // What the warm-up began is not counted.
        running.drain()?;
    }
    running.done = Done::default();
    running.done.elapsed = running.until(load.time)?;
    if load.rate.is_some() {
        running.drain()?;
    }
    let done = std::mem::take(&mut running.done);
    running.drain()?;
    Ok(done)
}

struct Running<'a> {
    pipeline: &'a mut dyn Pipeline,
    load: &'a Load,
    small: Bytes,
    large: Bytes,
    /// When each of the RPCs began, or was to begin.
    begun: Vec<Instant>,
    /// RPCs that may begin, where there is a rate.
    free: Vec<usize>,
    /// The clock is read once a turn.
    now: Instant,
    /// RPCs that are not over.
    left: usize,
    over: Vec<(usize, usize)>,
    done: Done,
}

impl Running<'_> {
    /// RPCs below `load.outstanding` are those measured, those above are beside them.
    fn begin(&mut self, tag: usize, since: Instant) -> Result<(), Error> {
        if let Some(begun) = self.begun.get_mut(tag) {
            *begun = since;
        }
        self.left += 1;
        let request = if tag < self.load.outstanding { &self.small } else { &self.large };
        self.pipeline.call(request, tag)
    }

    /// Goes on for `time`; returns how long it was.
    fn until(&mut self, time: Duration) -> Result<Duration, Error> {
        let start = Instant::now();
        self.now = start;
        let Some(rate) = self.load.rate else {
            // From one end of an RPC to another: long ones would otherwise be counted in part.
            loop {
                let before = self.done.count;
                self.turn(true)?;
                let elapsed = self.now - start;
                if elapsed >= time && self.done.count > before {
                    return Ok(elapsed);
                }
                if elapsed > time + PATIENCE {
                    return Err(Error::Failed("no RPC ends".to_owned()));
                }
            }
        };
        let every = Duration::from_secs(1) / rate.max(1);
        let mut due = start;
        loop {
            self.turn(true)?;
            while due <= self.now && due < start + time {
                let Some(tag) = self.free.pop() else { break };
                self.begin(tag, due)?;
                due += every;
            }
            if self.now >= start + time && (due >= start + time || self.now > start + 2 * time) {
                break;
            }
        }
        // Nobody shall look better for what could not even begin.
        while due < start + time {
            self.done.times.add(self.now - due);
            self.done.not_begun += 1;
            due += every;
        }
        Ok(time)
    }

    /// Lets the RPCs end.
    fn drain(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        while self.left > 0 {
            self.turn(false)?;
            if self.now.saturating_duration_since(start) > PATIENCE {
                return Err(Error::Failed(format!("{} RPCs do not end", self.left)));
            }
        }
        Ok(())
    }

    fn turn(&mut self, again: bool) -> Result<(), Error> {
        self.pipeline.turn(&mut self.over)?;
        self.now = Instant::now();
        let mut over = std::mem::take(&mut self.over);
        for (tag, bytes) in over.drain(..) {
            let is_beside = tag >= self.load.outstanding;
            let size = if is_beside { self.load.beside.1 } else { self.load.size };
            if bytes != if size > ECHO_UP_TO { RECEIPT_BYTES } else { size } {
                return Err(Error::Failed("a response is not of the right length".to_owned()));
            }
            self.left -= 1;
            if is_beside {
                self.done.beside += 1;
            } else {
                self.done.count += 1;
                if let Some(begun) = self.begun.get(tag) {
                    self.done.times.add(self.now.saturating_duration_since(*begun));
                }
            }
            if self.load.rate.is_some() && !is_beside {
                self.free.push(tag);
            } else if again {
                self.begin(tag, self.now)?;
            }
        }
        self.over = over;
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
            let bytes = if request.len() > ECHO_UP_TO { RECEIPT_BYTES } else { request.len() };
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
        rate: None,
        beside: (1, 1 << 20),
        warm_up: Duration::ZERO,
        time: Duration::from_millis(2),
    };

    #[test]
    fn all_kinds_are_counted_and_none_is_left() {
        let mut pipeline = Instantly::default();
        let done = run(&mut pipeline, &LOAD).unwrap();
        assert_eq!(done.count, 3 * done.beside);
        assert!(done.count > 0);
        assert_eq!(done.times.count(), done.count);
        assert!(done.elapsed >= LOAD.time && pipeline.calls.is_empty());
    }

    #[test]
    fn a_response_of_the_wrong_length_is_noticed() {
        let mut pipeline = Instantly { wrong: true, ..Instantly::default() };
        assert!(run(&mut pipeline, &LOAD).is_err());
    }

    #[test]
    fn at_a_rate_as_many_begin_as_were_to() {
        let load = Load { rate: Some(100_000), beside: (0, 1), ..LOAD };
        let done = run(&mut Instantly::default(), &load).unwrap();
        assert_eq!(done.count + done.not_begun, 200);
        assert_eq!(done.times.count(), 200);
    }

    /// Never answers before a while has passed: all but one RPC have to wait for their begin.
    struct Slow {
        call: Option<(usize, usize, Instant)>,
    }

    impl Pipeline for Slow {
        fn request(&self, body: &[u8]) -> Bytes {
            Bytes::copy_from_slice(body)
        }

        fn call(&mut self, request: &Bytes, tag: usize) -> Result<(), Error> {
            self.call = Some((tag, request.len(), Instant::now()));
            Ok(())
        }

        fn turn(&mut self, over: &mut Vec<(usize, usize)>) -> Result<(), Error> {
            let is_over = |(_, _, since): &mut (usize, usize, Instant)| {
                since.elapsed() >= Duration::from_millis(5)
            };
            over.extend(self.call.take_if(is_over).map(|(tag, bytes, _)| (tag, bytes)));
            Ok(())
        }
    }

    #[test]
    fn waiting_for_the_begin_counts() {
        let load = Load {
            rate: Some(1000),
            outstanding: 1,
            beside: (0, 1),
            time: Duration::from_millis(20),
            ..LOAD
        };
        let done = run(&mut Slow { call: None }, &load).unwrap();
        assert_eq!(done.times.count(), 20, "each that was to begin has a time");
        // The second was to begin 4 ms before the first was over.
        assert!(done.times.quantile_ns(0.5) > 8_000_000, "{}", done.times.quantile_ns(0.5));
    }
}
