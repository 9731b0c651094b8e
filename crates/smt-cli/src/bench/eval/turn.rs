//! One transport's turn: a server and a client, and all rows of a part one after the other.

use std::thread;
use std::time::{Duration, Instant};

use super::super::cpu;
use super::super::peers::{Ping, Shape, Transport};
use super::super::place::Place;
use super::load::{self, Done, Load};
use super::{BESIDE, BESIDE_BYTES, Cell, Part, Role, Sample};
use crate::baseline::{self, Pipeline, Wait};
use crate::commands::Error;

/// Round trips before measured ones, while spinning and while sleeping.
const WARM_UPS: [usize; 2] = [200, 20];
/// Most round trips measured in a turn.
const MOST: usize = 1 << 20;
/// A part of the measured time that comes before it.
const WARM_UP_PART: u32 = 8;
/// Bytes that ends take from the kernel at a time: with a connection per RPC, and with one for all.
const READ_BYTES: [usize; 2] = [32 << 10, 256 << 10];
/// What a thread has taken is told once it has been switched away from.
const SETTLE: Duration = Duration::from_millis(1);

/// How ends wait: as asked, but asleep where processor time is measured, where they would share a core, or where
/// somebody between them may need one.
pub(super) fn wait(place: &Place, part: Part, asked: Wait) -> Wait {
    if matches!(part, Part::Cpu | Part::Loss) || place.cores.is_none() {
        Wait::Block
    } else {
        asked
    }
}

/// Measures all `cells`, which are of one part, for `share` each.
///
/// # Errors
/// The transport cannot be set up, or an RPC fails.
pub(super) fn measure(
    place: &Place,
    who: Transport,
    cells: &[Cell],
    wait: Wait,
    share: Duration,
) -> Result<Vec<Sample>, Error> {
    let Some(first) = cells.first() else { return Ok(Vec::new()) };
    if first.part == Part::Cpu && !place.tells_processor_time() {
        return Err(Error::Failed("takes a core for each end, on this machine".to_owned()));
    }
    if first.rate.is_some() && first.part == Part::Open && wait != Wait::Spin {
        return Err(Error::Failed("takes a core for each end, which spins".to_owned()));
    }
    let site = place.site(wait);
    let turn = Turn { place, wait, share };
    let one_at_a_time = first.part.is_one_at_a_time();
    let shape = (!one_at_a_time).then(|| shape(who, cells));
    let server = place.serve(who, &site, shape)?;
    let measured = place.as_client(|| {
        let peer = who.peer();
        match shape {
            None => {
                let mut ping = peer.pinger(&site)?;
                cells.iter().map(|cell| turn.ping(&mut *ping, cell)).collect()
            }
            Some(shape) => {
                let mut pipeline = peer.pipeline(&site, shape)?;
                cells.iter().map(|cell| turn.load(&mut *pipeline, cell)).collect()
            }
        }
    });
    // What ended the server explains what the client has met.
    server.stop()?;
    measured
}

struct Turn<'a> {
    place: &'a Place,
    wait: Wait,
    /// Time for each row.
    share: Duration,
}

impl Turn<'_> {
    fn ping(&self, ping: &mut Ping, cell: &Cell) -> Result<Sample, Error> {
        let wait = self.wait;
        let warm_ups = WARM_UPS[usize::from(wait != Wait::Spin)];
        // In a short turn all would go into warming up.
        let begin = Instant::now();
        let warm_up = baseline::Plan {
            time: Some(self.share / WARM_UP_PART),
            ..baseline::Plan::counted(cell.size, 1, warm_ups, wait)
        };
        ping(&warm_up)?;
        let every = cell.rate.map(|rate| Duration::from_secs(1) / rate.max(1));
        let time = Some(self.share);
        let plan =
            baseline::Plan { time, every, ..baseline::Plan::counted(cell.size, 0, MOST, wait) };
        let before = self.cpu(cell)?;
        let times_ns = ping(&plan)?;
        let after = self.cpu(cell)?;
        let mut sample = Sample { elapsed: begin.elapsed(), ..Sample::default() };
        for ns in times_ns {
            sample.times.add(Duration::from_nanos(ns));
            sample.count += 1;
        }
        let spent = after.iter().zip(before).map(|(after, before)| after.saturating_sub(before));
        for (place, ns) in sample.cpu_ns.iter_mut().zip(spent) {
            *place = ns;
        }
        Ok(sample)
    }

    /// Processor time that client and server have taken so far.
    fn cpu(&self, cell: &Cell) -> Result<[u64; 2], Error> {
        let Some([client, server]) = self.place.cores.filter(|_| cell.part == Part::Cpu) else {
            return Ok([0; 2]);
        };
        thread::sleep(SETTLE);
        let of = |core| cpu::of_threads_on(core).map_err(Error::io("no processor times"));
        Ok([of(client)?, of(server)?])
    }

    fn load(&self, pipeline: &mut dyn Pipeline, cell: &Cell) -> Result<Sample, Error> {
        let beside = if cell.part == Part::Mixed { BESIDE } else { 0 };
        let load = Load {
            size: cell.size,
            outstanding: cell.outstanding,
            rate: cell.rate,
            beside: (beside, BESIDE_BYTES),
            warm_up: self.share / WARM_UP_PART,
            time: self.share,
        };
        let Done { count, beside, elapsed, times, not_begun } = load::run(pipeline, &load)?;
        Ok(Sample { times, count, beside, elapsed, not_begun, cpu_ns: [0; 2] })
    }
}

/// How many connections a transport has, and the room that they need.
fn shape(who: Transport, cells: &[Cell]) -> Shape {
    let is_mixed = cells.iter().any(|cell| cell.part == Part::Mixed);
    let is_bulk = is_mixed || cells.iter().any(|cell| cell.part == Part::Bulk);
    let outstanding = cells.iter().map(|cell| cell.outstanding).max().unwrap_or(1);
    let size = cells.iter().map(|cell| cell.size).max().unwrap_or(0);
    let message = if is_mixed { size.max(BESIDE_BYTES) } else { size };
    if is_bulk || who.role() == Role::OtherOne {
        return Shape { connections: 1, message, read: READ_BYTES[1] };
    }
    Shape { connections: outstanding, message, read: READ_BYTES[0].max(2 * size) }
}
