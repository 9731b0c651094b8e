//! `smt bench loss`, `tso` and `mtu`: SMT beside its peers on links in several states.

use clap::{Args, ValueEnum};

use super::common::Common;
use super::compare::{LOAD_SIZES, MORE, RTT_SIZES, one};
use crate::bench::RPC_BYTES;
use crate::bench::eval::{Bench, Cell, Part};
use crate::bench::place::{Cut, Scene};
use crate::commands::Error;

const ABOUT_LOSS: &str = "\
Round trips on links that lose packets, one RPC at a time

Both ends sleep while they wait. Packets get lost by the kernel's netem at a bridge between the hosts or, where the kernel \
has none, by a thread that forwards them: the same for everybody, but each round trip then contains its waking up. Nobody \
hands over more than a packet at a time. --link is of no effect.";

const ABOUT_TSO: &str = "\
Round trips of long messages, cut by the device, by the stack, by whoever sends

  on        as the links are: veth and macvlan take TCP segments of any length,
            macvlan also those of user space (smt-packet)
  software  the devices take packets alone, and the stack cuts just before them
  off       the devices' limit is one packet, so that whoever asks cuts before
            the stack; for UDP (smt-udp, QUIC) the stack still cuts";

/// The arguments of `smt bench loss`.
#[derive(Debug, Args)]
#[command(about = "Round trips on links that lose packets", long_about = ABOUT_LOSS, after_long_help = MORE)]
pub struct Loss {
    /// Packets lost in each direction, in per cent
    #[arg(long, value_name = "PERCENT,...", value_delimiter = ',', default_values = ["0", "0.1", "1", "5"], value_parser = of_a_million)]
    loss: Vec<u32>,
    /// Bytes of requests and of responses
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = [RPC_BYTES as u32, 8192], value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    sizes: Vec<u32>,
    #[command(flatten)]
    common: Common,
}

/// The arguments of `smt bench tso`.
#[derive(Debug, Args)]
#[command(about = "Round trips of long messages, cut by device, stack or sender", long_about = ABOUT_TSO, after_long_help = MORE)]
pub struct Tso {
    /// Who cuts
    #[arg(long, value_name = "WHO,...", value_delimiter = ',', default_values_t = Cut::value_variants().to_vec(), value_enum, hide_possible_values = true)]
    tso: Vec<Cut>,
    /// Bytes of requests and of responses
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = [4096, 16_384, 65_536], value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    sizes: Vec<u32>,
    #[command(flatten)]
    common: Common,
}

/// The arguments of `smt bench mtu`.
#[derive(Debug, Args)]
#[command(about = "Round trips and RPCs a second with packets of several lengths", after_long_help = MORE)]
pub struct Mtu {
    /// Largest packets, in bytes
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = [1500, 9000], value_parser = clap::value_parser!(u32).range(1280..=65_535))]
    mtu: Vec<u32>,
    /// Bytes of requests and of responses [default: as in rtt and in load]
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    sizes: Vec<u32>,
    /// RPCs outstanding, where there are many
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [100], value_parser = clap::value_parser!(u32).range(1..=1000))]
    outstanding: Vec<u32>,
    #[command(flatten)]
    common: Common,
}

fn of_a_million(text: &str) -> Result<u32, String> {
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=50.0).contains(&percent) => Ok((percent * 1e4).round() as u32),
        _ => Err("not a number of per cent from 0 to 50".to_owned()),
    }
}

impl Loss {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let at = |&loss: &u32| {
            let scene = Scene { loss: Some(loss), ..Scene::PLAIN };
            self.sizes.iter().map(move |&size| one(Part::Loss, scene, size))
        };
        self.common.run(Bench::Loss, self.loss.iter().flat_map(at).collect())
    }
}

impl Tso {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let by = |&cut: &Cut| {
            let scene = Scene { cut: Some(cut), ..Scene::PLAIN };
            self.sizes.iter().map(move |&size| one(Part::Rtt, scene, size))
        };
        self.common.run(Bench::Tso, self.tso.iter().flat_map(by).collect())
    }
}

impl Mtu {
    pub(super) fn common(&self) -> &Common {
        &self.common
    }

    pub(super) fn run(&self) -> Result<(), Error> {
        let sizes = |usual: &[u32]| {
            if self.sizes.is_empty() { usual.to_vec() } else { self.sizes.clone() }
        };
        let mut cells = Vec::new();
        for &mtu in &self.mtu {
            let scene = Scene { mtu, ..Scene::PLAIN };
            cells.extend(sizes(&RTT_SIZES).into_iter().map(|size| one(Part::Rtt, scene, size)));
            for size in sizes(&LOAD_SIZES) {
                let many = self.outstanding.iter();
                cells.extend(
                    many.map(|&n| Cell { outstanding: n as usize, ..one(Part::Load, scene, size) }),
                );
            }
        }
        self.common.run(Bench::Mtu, cells)
    }
}
