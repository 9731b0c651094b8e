//! What key updates cost: RPCs in one session, a few outstanding at any time, while both directions stand still in one
//! epoch and while both move on all the time, slice by slice in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use smt::{CallOptions, Engine, Event, SessionId, Wait};

use super::contender::{Exchange, Transport, Variant, What};
use super::ground::Ground;
use super::serving::{LOOK_EVERY, Server, Serving};
use super::smt::{self as ends, Ends};
use crate::commands::Error;
use crate::stop::Stop;
use crate::times::Times;

/// Calls outstanding at any time.
const WINDOW: usize = 4;
/// Slices of each kind.
const SLICES: u32 = 10;
/// How long the session may take to be made, and calls to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to measure.
pub struct Plan {
    /// Bytes of each request and each response.
    pub sizes: Vec<usize>,
    /// Time with updates, and as much without, for each size.
    pub time: Duration,
    /// Key updates asked for a second, in each direction.
    pub updates_per_second: u32,
}

/// What was measured with messages of one size.
pub struct Measured {
    /// Bytes of each request and each response.
    pub size: usize,
    /// Round trips while no key changed.
    pub still: Times,
    /// Round trips while keys changed.
    pub moving: Times,
    /// Calls without a right response.
    pub failed: u64,
    /// Key updates of the client's and of the server's direction.
    pub updates: [u64; 2],
}

/// What the client's thread tells the server's, and the reverse.
#[derive(Default)]
struct Control {
    moving: AtomicBool,
    updates: AtomicU64,
}

/// Measures one size after the other, each in a session of its own. `progress` is told the part done, 0 to 1.
///
/// # Errors
/// No session, or `stop` is set. Calls that fail are counted.
pub fn measure(
    ground: &Ground,
    plan: &Plan,
    stop: &Stop,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Vec<Measured>, Error> {
    let all = plan.sizes.len() as f64;
    let one = |(number, &size)| {
        measure_size(ground, plan, size, stop, &|part| progress((number as f64 + part) / all))
    };
    plan.sizes.iter().enumerate().map(one).collect()
}

fn measure_size(
    ground: &Ground,
    plan: &Plan,
    size: usize,
    stop: &Stop,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Measured, Error> {
    let what = What {
        transport: Transport::Smt,
        variant: Variant::Full,
        exchange: Exchange::Hybrid,
        mtls: false,
    };
    // Without a core for each end, the one that spins would keep the other from working.
    let wait = if ground.cores.is_some() { Wait::Spin } else { Wait::Block };
    let Ends { server, client, .. } = ends::ends(ground, what, 0)?;
    let control = Arc::new(Control::default());
    let interval = Duration::from_secs(1) / plan.updates_per_second.max(1);
    let shared = Arc::clone(&control);
    let server = Server::start(ground, move |serving| {
        let mut engine = server.wait(wait).engine()?;
        serving.ready();
        serve(&mut engine, serving, &shared, interval)
    })?;
    let target = ground.server_address(ends::PORT);
    let measured = ground.as_client(|| {
        let mut engine = client.wait(wait).engine()?;
        let session = ends::connect(&mut engine, target)?;
        let load = Load::new(engine, session, size, interval);
        load.run(plan, &control, stop, progress)
    });
    server.stop()?;
    let mut measured = measured?;
    measured.updates[1] = control.updates.load(Ordering::Acquire);
    Ok(measured)
}

/// Echoes, and moves its direction on when told to.
fn serve(
    engine: &mut Engine,
    serving: &Serving,
    control: &Control,
    interval: Duration,
) -> Result<(), Error> {
    let mut clock = UpdateClock::new(interval);
    let mut session = None;
    while !serving.is_over() {
        let patience = clock.patience(control.moving.load(Ordering::Relaxed));
        match engine.next(Some(patience)).map_err(Error::io("the datapath failed"))? {
            Some(Event::Accepted { session: accepted, .. }) => session = Some(accepted),
            Some(Event::Request { rpc, body, .. }) => {
                engine.reply(rpc, body.into_vec());
                engine.flush().map_err(Error::io("the datapath failed"))?;
            }
            Some(Event::Closed { .. }) => serving.done(),
            _ => {}
        }
        if let Some(session) = session
            && control.moving.load(Ordering::Relaxed)
            && clock.is_due()
        {
            engine.update_keys(session);
        }
        control.updates.store(engine.stats().key_updates, Ordering::Release);
    }
    Ok(())
}

/// When an end asks for its next key update.
struct UpdateClock {
    interval: Duration,
    due: Instant,
}

impl UpdateClock {
    fn new(interval: Duration) -> UpdateClock {
        UpdateClock { interval, due: Instant::now() }
    }

    /// How long to wait for anything else.
    fn patience(&self, moving: bool) -> Duration {
        let until = self.due.saturating_duration_since(Instant::now());
        if moving { until.min(LOOK_EVERY) } else { LOOK_EVERY }
    }

    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.due;
        if due {
            self.due = now + self.interval;
        }
        due
    }
}

/// The client's end.
struct Load {
    engine: Engine,
    session: SessionId,
    request: Bytes,
    /// When the call of each place of the window began.
    begun: [Option<Instant>; WINDOW],
    clock: UpdateClock,
    measured: Measured,
}

impl Load {
    fn new(engine: Engine, session: SessionId, size: usize, interval: Duration) -> Load {
        Load {
            engine,
            session,
            request: (0..=250_u8).cycle().take(size).collect(),
            begun: [None; WINDOW],
            clock: UpdateClock::new(interval),
            measured: Measured {
                size,
                still: Times::default(),
                moving: Times::default(),
                failed: 0,
                updates: [0; 2],
            },
        }
    }

    fn run(
        mut self,
        plan: &Plan,
        control: &Control,
        stop: &Stop,
        progress: &(dyn Fn(f64) + Sync),
    ) -> Result<Measured, Error> {
        // What the first calls cost belongs to neither.
        self.slice(plan.time / SLICES, None)?;
        for slice in 0..2 * SLICES {
            if stop.is_set() {
                return Err(Error::Failed("interrupted".to_owned()));
            }
            let moving = slice % 2 == 1;
            control.moving.store(moving, Ordering::Relaxed);
            self.slice(plan.time / SLICES, Some(moving))?;
            progress(f64::from(slice + 1) / f64::from(2 * SLICES));
        }
        control.moving.store(false, Ordering::Relaxed);
        self.measured.updates[0] = self.engine.stats().key_updates;
        // Whatever the server makes of it, the calls are over.
        let _ = self.engine.close_all(PATIENCE);
        Ok(self.measured)
    }

    /// Calls for `time`, then lets the calls end; counts them as `moving` or not, or not at all.
    fn slice(&mut self, time: Duration, moving: Option<bool>) -> Result<(), Error> {
        let until = Instant::now() + time;
        for place in 0..WINDOW {
            self.call(place);
        }
        while self.begun.iter().any(Option::is_some) {
            if Instant::now() > until + PATIENCE {
                return Err(Error::Failed("calls do not end".to_owned()));
            }
            let patience = self.clock.patience(moving == Some(true));
            let event =
                self.engine.next(Some(patience)).map_err(Error::io("the datapath failed"))?;
            match event {
                Some(Event::Response { user, result, .. }) => {
                    let right = result.is_ok_and(|body| body[..] == self.request[..]);
                    self.end(user as usize, right, moving);
                    if Instant::now() < until {
                        self.call(user as usize);
                    }
                }
                Some(Event::Closed { .. }) => {
                    return Err(Error::Failed("the session is over".to_owned()));
                }
                _ => {}
            }
            if moving == Some(true) && self.clock.is_due() {
                self.engine.update_keys(self.session);
            }
        }
        Ok(())
    }

    fn call(&mut self, place: usize) {
        let options = CallOptions { user: place as u64, ..CallOptions::default() };
        let begun = Instant::now();
        match self.engine.call(self.session, self.request.clone(), options) {
            Ok(_) => self.set(place, Some(begun)),
            Err(_) => self.measured.failed += 1,
        }
    }

    fn end(&mut self, place: usize, right: bool, moving: Option<bool>) {
        let begun = self.begun.get(place).copied().flatten();
        self.set(place, None);
        match (begun, right, moving) {
            (Some(begun), true, Some(false)) => self.measured.still.add(begun.elapsed()),
            (Some(begun), true, Some(true)) => self.measured.moving.add(begun.elapsed()),
            (Some(_), true, None) => {}
            _ => self.measured.failed += 1,
        }
    }

    fn set(&mut self, place: usize, begun: Option<Instant>) {
        if let Some(entry) = self.begun.get_mut(place) {
            *entry = begun;
        }
    }
}
