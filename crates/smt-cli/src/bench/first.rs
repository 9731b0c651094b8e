//! How soon the first RPC is answered, from nothing: all contenders in turn, over and over, so that whatever changes
//! on the machine meanwhile changes for all of them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::contender::{Contender, Entry, Transport, What, enter};
use super::cpu;
use super::ground::{Credentials, Ground};
use crate::commands::Error;
use crate::stop::Stop;
use crate::times::Times;

/// Pause before each first RPC: both ends fall asleep, and what the one before it left to do is done.
const PAUSE: Duration = Duration::from_millis(1);

/// Of so many first RPCs, the processor time of one is looked at: looking takes longer than they do.
const CPU_EVERY: u64 = 4;

/// What to measure.
pub struct Plan {
    /// The transports.
    pub transports: Vec<Transport>,
    /// First RPCs of each contender.
    pub count: u64,
    /// First RPCs of each before those.
    pub warm_up: u64,
    /// Whether SMT's handshakes run on the thread of the packets instead of one beside it.
    pub inline: bool,
    /// After so much time no further round is begun, once there has been one.
    pub budget: Option<Duration>,
}

/// What was measured of one contender.
pub struct Measured {
    /// The contender.
    pub what: What,
    /// From nothing to the response.
    pub times: Times,
    /// Processor time of the client and of the server for each, ending included, in nanoseconds; `None` if they have
    /// no core of their own to tell it by.
    pub cpu_ns: Option<[u64; 2]>,
}

/// What was measured at one round trip.
pub struct Outcome {
    /// The round trip that the link adds.
    pub round_trip: Duration,
    /// Each contender that was measured.
    pub measured: Vec<Measured>,
    /// Each that was not, and why.
    pub not_measured: Vec<(What, String)>,
    /// Round trips of a UDP datagram: what the link, the kernel and waking up take by themselves.
    pub echo: Times,
    /// By how much the delaying link was late for a packet, on average, in nanoseconds; `None` without one.
    pub late_ns: Option<u64>,
}

/// Measures every contender at one round trip. `progress` is told the part done, 0 to 1.
///
/// # Errors
/// A contender fails, the hosts cannot be made, or `stop` is set.
pub fn measure(
    credentials: &Arc<Credentials>,
    round_trip: Duration,
    plan: &Plan,
    stop: &Stop,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Outcome, Error> {
    let ground = Ground::new(credentials, round_trip)?;
    let echo = ground.echo()?;
    let (measured, not_measured) = ground.as_client(|| compete(&ground, plan, stop, progress))?;
    let late_ns = ground.pair.delay.as_ref().map(|link| {
        let stats = link.stats();
        u64::try_from(stats.late.as_nanos()).unwrap_or(u64::MAX) / stats.forwarded.max(1)
    });
    Ok(Outcome { round_trip, measured, not_measured, echo, late_ns })
}

/// A contender and what is known of it so far.
struct Lane {
    contender: Contender,
    times: Times,
    /// Processor time of both ends, and in how many runs.
    cpu_ns: [u64; 2],
    cpu_runs: u64,
}

type Competed = (Vec<Measured>, Vec<(What, String)>);

fn compete(
    ground: &Ground,
    plan: &Plan,
    stop: &Stop,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Competed, Error> {
    let mut lanes = Vec::new();
    let mut not_measured = Vec::new();
    for (what, index) in What::all(&plan.transports).into_iter().zip(0..) {
        match enter(ground, what, index, plan.inline)? {
            Entry::Ready(contender) => {
                lanes.push(Lane { contender, times: Times::default(), cpu_ns: [0; 2], cpu_runs: 0 })
            }
            Entry::NotMeasured(what, why) => not_measured.push((what, why)),
        }
    }
    let rounds = plan.warm_up + plan.count;
    let start = Instant::now();
    for round in 0..rounds {
        let spent = plan.budget.is_some_and(|budget| start.elapsed() > budget);
        if spent && round > plan.warm_up {
            break;
        }
        progress(round as f64 / rounds as f64);
        // What a contender finds in the caches is the work of the one before it: not always the same.
        shuffle(&mut lanes, round);
        for lane in &mut lanes {
            if stop.is_set() {
                return Err(Error::Failed("interrupted".to_owned()));
            }
            let counts = round >= plan.warm_up;
            let cores = ground.cores.filter(|_| counts && round.is_multiple_of(CPU_EVERY));
            lane.run(counts, cores)?;
        }
    }
    lanes.sort_by_key(|lane| lane.contender.what);
    let measured = lanes.into_iter().map(Lane::finish).collect::<Result<_, _>>()?;
    Ok((measured, not_measured))
}

/// Puts `all` into an order of its own for each `round` (Fisher and Yates, by splitmix64).
fn shuffle<T>(all: &mut [T], round: u64) {
    let mut state = round;
    for last in (1..all.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        all.swap(last, ((mixed ^ (mixed >> 31)) % (last as u64 + 1)) as usize);
    }
}

impl Lane {
    /// One first RPC, counted or not; on these cores processor time is counted too.
    fn run(&mut self, counts: bool, cores: Option<[usize; 2]>) -> Result<(), Error> {
        let Contender { what, server, client } = &mut self.contender;
        let cpu_now = || {
            let both = cores.map(|[client, server]| {
                Ok([cpu::of_threads_on(client)?, cpu::of_threads_on(server)?])
            });
            both.transpose().map_err(Error::io("cannot read processor times"))
        };
        let before = cpu_now()?;
        thread::sleep(PAUSE);
        let served = server.served();
        let time = client.first_rpc().map_err(|error| {
            let Error::Failed(why) = error else { return error };
            Error::Failed(format!("{} {}: {why}", what.transport.name(), what.variant.name()))
        })?;
        server.await_served(served + 1)?;
        if counts {
            self.times.add(time);
        }
        if let (Some(before), Some(after)) = (before, cpu_now()?) {
            for (sum, (before, after)) in self.cpu_ns.iter_mut().zip(before.into_iter().zip(after))
            {
                *sum += after.saturating_sub(before);
            }
            self.cpu_runs += 1;
        }
        Ok(())
    }

    fn finish(self) -> Result<Measured, Error> {
        let Contender { what, server, client } = self.contender;
        drop(client);
        server.stop()?;
        let cpu_ns = (self.cpu_runs > 0).then(|| self.cpu_ns.map(|ns| ns / self.cpu_runs));
        Ok(Measured { what, times: self.times, cpu_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_everybody_in_another_order() {
        let order = |round| {
            let mut all: Vec<usize> = (0..30).collect();
            shuffle(&mut all, round);
            all
        };
        let (one, other) = (order(1), order(2));
        assert_ne!(one, other);
        assert_eq!(one, order(1));
        let mut sorted = one;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..30).collect::<Vec<_>>());
    }
}
