//! `smt bench rtt`, `load`, `bulk`, `mixed` and `cpu`: SMT beside its peers on a link that loses nothing.

use clap::Args;

use super::common::Common;
use crate::bench::RPC_BYTES;
use crate::bench::eval::{Bench, Cell, Part};
use crate::bench::place::Scene;
use crate::commands::Error;

/// What every long help ends with.
pub(super) const MORE: &str = "\
Columns: each transport on the link where it is best; what is compared as the median of the rounds, with the least and \
the greatest round; other percentiles of all RPCs of all rounds. /floor is SMT beside its datapath with the records \
sealed and opened and nothing else; /TLS and /TCP are beside tls-rustls and tcp at their best: below 1 is better for \
times, above 1 for rates. A * marks results whose rounds differ by more than 30 %.

JSON: {\"bench\", \"part\", \"transport\", \"link\", \"mtu\", \"size\", \"outstanding\", \"rate\", \"wait\", \"best_link\", \"count\", \"rounds\", \
\"value\", \"value_min\", \"value_max\", \"spread\", \"disturbed\", \"ratio_to_tls\", \"ratio_to_tcp\", \"ratio_to_bare\", \"ratio_to_floor\", \
\"p50_ns\", \"p99_ns\", \"p999_ns\", \"max_ns\"} and, as the part has it, rpcs_per_second, bits_per_second, not_begun, \
bits_per_second_beside, client_cpu_ns, server_cpu_ns; or with \"not_available\" and why.

Exit status: 0 also if somebody is not available (the table says why), 1 if nobody is, or on Ctrl-C.";

/// Largest request of one RPC at a time, in bytes.
const MAX_RPC: i64 = 1 << 16;
/// Largest message that SMT takes unless told otherwise, in bytes.
const MAX_BULK: i64 = 64 << 20;

/// MTU of links, unless it is what a command looks at.
const SCENE: Scene = Scene::PLAIN;

/// The arguments of `smt bench rtt`.
#[derive(Debug, Args)]
#[command(about = "Round trips, one RPC at a time, beside TCP and TLS", after_long_help = MORE)]
pub struct Rtt {
    /// Bytes of requests and of responses
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = RTT_SIZES, value_parser = clap::value_parser!(u32).range(1..=MAX_RPC))]
    sizes: Vec<u32>,
    #[command(flatten)]
    common: Common,
}

/// The arguments of `smt bench load`.
#[derive(Debug, Args)]
#[command(about = "RPCs a second, many at a time; or their times at fixed rates", after_long_help = MORE)]
pub struct Load {
    /// Bytes of requests and of responses
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = LOAD_SIZES, value_parser = clap::value_parser!(u32).range(1..=MAX_RPC))]
    sizes: Vec<u32>,
    /// RPCs outstanding: in one session of SMT, on as many connections of TCP and TLS; with --rate, at most
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [50, 100, 200], value_parser = clap::value_parser!(u32).range(1..=1000))]
    outstanding: Vec<u32>,
    /// RPCs that begin each second, whether or not earlier ones are over; times count from when each was to begin
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rate: Vec<u32>,
    #[command(flatten)]
    common: Common,
}

/// The arguments of `smt bench bulk`.
#[derive(Debug, Args)]
#[command(about = "Goodput of long messages, each answered by 8 bytes", after_long_help = MORE)]
pub struct Bulk {
    /// Bytes of messages, above 64 KB
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = BULK_SIZES, value_parser = clap::value_parser!(u32).range(MAX_RPC + 1..=MAX_BULK))]
    sizes: Vec<u32>,
    /// Messages outstanding, in one session or on one connection
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    outstanding: u32,
    #[command(flatten)]
    common: Common,
}

/// The arguments of `smt bench mixed`.
#[derive(Debug, Args)]
#[command(about = "Round trips of small RPCs beside messages of 1 MB: head-of-line blocking", after_long_help = MORE)]
pub struct Mixed {
    /// Bytes of the small requests and of their responses
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = [RPC_BYTES as u32], value_parser = clap::value_parser!(u32).range(1..=MAX_RPC))]
    sizes: Vec<u32>,
    #[command(flatten)]
    common: Common,
}

/// The arguments of `smt bench cpu`.
#[derive(Debug, Args)]
#[command(about = "Processor time per RPC at a fixed rate, ends asleep", after_long_help = MORE)]
pub struct Cpu {
    /// Bytes of requests and of responses
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = LOAD_SIZES, value_parser = clap::value_parser!(u32).range(1..=MAX_RPC))]
    sizes: Vec<u32>,
    /// RPCs a second, one at a time
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    #[command(flatten)]
    common: Common,
}

pub(super) const RTT_SIZES: [u32; 8] = [64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536];
pub(super) const LOAD_SIZES: [u32; 3] = [64, 1024, 8192];
const BULK_SIZES: [u32; 4] = [1 << 20, 4 << 20, 16 << 20, 64 << 20];

/// A row with one RPC at a time.
pub(super) fn one(part: Part, scene: Scene, size: u32) -> Cell {
    Cell { part, scene, size: size as usize, outstanding: 1, rate: None }
}

impl Rtt {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let cells = self.sizes.iter().map(|&size| one(Part::Rtt, SCENE, size)).collect();
        self.common.run(Bench::Rtt, cells)
    }
}

impl Load {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        self.common.run(Bench::Load, self.cells())
    }

    fn cells(&self) -> Vec<Cell> {
        let most = self.outstanding.iter().copied().max().unwrap_or(1) as usize;
        let of_size = |&size: &u32| -> Vec<Cell> {
            let with =
                |part, outstanding, rate| Cell { outstanding, rate, ..one(part, SCENE, size) };
            if self.rate.is_empty() {
                let many = self.outstanding.iter();
                return many.map(|&n| with(Part::Load, n as usize, None)).collect();
            }
            self.rate.iter().map(|&rate| with(Part::Open, most, Some(rate))).collect()
        };
        self.sizes.iter().flat_map(of_size).collect()
    }
}

impl Bulk {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let cell = |&size: &u32| Cell {
            outstanding: self.outstanding as usize,
            ..one(Part::Bulk, SCENE, size)
        };
        self.common.run(Bench::Bulk, self.sizes.iter().map(cell).collect())
    }
}

impl Mixed {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let cells = self.sizes.iter().map(|&size| one(Part::Mixed, SCENE, size)).collect();
        self.common.run(Bench::Mixed, cells)
    }
}

impl Cpu {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let cell = |&size: &u32| Cell { rate: Some(self.rate), ..one(Part::Cpu, SCENE, size) };
        self.common.run(Bench::Cpu, self.sizes.iter().map(cell).collect())
    }
}
