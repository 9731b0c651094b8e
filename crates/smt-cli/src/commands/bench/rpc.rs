//! `smt bench rpc`: RPCs of established sessions, beside those of TCP and TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{advance, bar};
use crate::bench::ground::Credentials;
use crate::bench::rpc::{self, Bed, Contender, Outcome, Part, Plan, plot, report};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;
use crate::output::Printer;
use crate::stop::Stop;

const ABOUT: &str = "\
Measure RPCs of established sessions, beside those of TCP and of TLS 1.3 on TCP

All in one run, between the same two cores: SMT over each datapath, plain TCP, and TLS 1.3 on TCP by rustls; AES-128-GCM \
wherever there is encryption. Everybody comes up in every round, in another place of the order each time, on hosts and \
links of its own, and is shown on the kind of link where it is best (bed). Both ends spin, each on its own core.

  rtt      one RPC at a time, request and response of one size. Beside SMT the
           same datapath without protocol or encryption (bare), and with the
           records sealed and opened (floor). /floor tells how far from that SMT
           is on the same link
  rate     n RPCs outstanding: in one session of SMT, on n connections of TCP and
           TLS by epoll, and for RPCs of up to 64 bytes on one connection, where
           whatever waits leaves together (1 conn.); and floor, up to 1 KB
  goodput  4 messages of 1 MB outstanding, each answered by 8 bytes
  mixed    RPCs of 64 bytes, one at a time, while 2 messages of 1 MB are
           outstanding in the same session or on the same connection
  cpu      one RPC at a time, 2,000 a second, both ends asleep while they wait

/TLS and /TCP are ratios of what is compared (p50; in mixed p99; RPC/s, Gbit/s, processor time of both ends) to that of \
TLS and TCP with a connection per RPC: below 1 is better for times, above 1 for rates.";

const AFTER: &str = "\
Examples:
  smt bench rpc --quick
  smt bench rpc --mtu 1500,9000 --seconds 2 --svg plots
  smt bench rpc --only rtt --sizes 64,1024 --datapath raw --bed veth
  smt bench rpc --json | jq 'select(.best_bed and .contender == \"smt\")'

Exit status: 0 also if a contender cannot be measured (its row says why), 1 if none can, or on Ctrl-C.

JSON: {\"bench\": \"rpc\", part, mtu, size, outstanding, contender (smt, bare, floor, tcp, tls, tcp-one, tls-one), datapath, \
bed, best_bed, wait, count, ratio_to_tls, ratio_to_tcp} and, as the part has it, p50_ns, p99_ns, ratio_to_bare, \
ratio_to_floor, rpcs_per_second, bits_per_second, messages, client_cpu_ns, server_cpu_ns, rate; or with \"not_measured\" and why.";

/// Bytes of RPCs one at a time, unless told.
const RTT_SIZES: [usize; 8] = [64, 256, 1024, 4096, 8192, 16_384, 32_768, 65_536];
/// Bytes of RPCs many at a time, and of those whose processor time is measured, unless told.
const RATE_SIZES: [usize; 3] = [64, 1024, 8192];
/// Rounds of a run, and of a quick one.
const ROUNDS: [u32; 2] = [10, 1];
/// Time of a quick run for each contender in each row.
const QUICK: Duration = Duration::from_millis(10);

/// The arguments of `smt bench rpc`.
#[derive(Debug, Args)]
#[command(about = "Measure RPCs of established sessions, beside those of TCP and TLS", long_about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    /// What to measure
    #[arg(long, value_name = "PART", value_delimiter = ',', default_values_t = Part::value_variants().to_vec(), value_enum, hide_possible_values = true)]
    only: Vec<Part>,
    /// SMT's datapaths
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values_t = DatapathChoice::NAMED.to_vec(), value_enum)]
    datapath: Vec<DatapathChoice>,
    /// Links: a veth pair, macvlan devices on a bridge (which take TCP segmentation from user space)
    #[arg(long, value_name = "LINK", value_delimiter = ',', default_values_t = Bed::value_variants().to_vec(), value_enum, hide_possible_values = true)]
    bed: Vec<Bed>,
    /// MTUs of the links, in bytes
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_values_t = [1500], value_parser = clap::value_parser!(u32).range(1280..=65_535))]
    mtu: Vec<u32>,
    /// Bytes of requests and of responses [default: 64 to 65536 in rtt; 64,1024,8192 in rate and cpu]
    #[arg(long, value_name = "BYTES", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=65_536))]
    sizes: Vec<u32>,
    /// RPCs outstanding in rate
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [50, 100, 200], value_parser = clap::value_parser!(u32).range(1..=1000))]
    outstanding: Vec<u32>,
    /// Seconds for each contender in each row, all rounds together
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = crate::commands::options::seconds)]
    seconds: f64,
    /// A few seconds for everything: shows that it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Also draw a plot for each part and MTU into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    fn plan(&self) -> Plan {
        let sizes = |usual: &[usize]| match &self.sizes[..] {
            [] => usual.to_vec(),
            asked => unique(asked.iter().map(|&size| size as usize).collect()),
        };
        Plan {
            parts: unique(self.only.clone()),
            datapaths: unique(self.datapath.clone()),
            beds: unique(self.bed.clone()),
            mtus: unique(self.mtu.clone()),
            rtt_sizes: sizes(&RTT_SIZES),
            rate_sizes: sizes(&RATE_SIZES),
            outstanding: unique(self.outstanding.iter().map(|&n| n as usize).collect()),
            time: if self.quick { QUICK } else { Duration::from_secs_f64(self.seconds) },
            rounds: ROUNDS[usize::from(self.quick)],
        }
    }
}

fn unique<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all.dedup();
    all
}

/// Measures and tells.
///
/// # Errors
/// Nothing can be measured, or a plot cannot be written.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.json);
    let plan = arguments.plan();
    let credentials = Arc::new(Credentials::new()?);
    let bar = bar(arguments.json, "");
    let progress = |share: f64, part: Part| {
        bar.set_message(name(part));
        advance(&bar, share);
    };
    let outcome = rpc::measure(&credentials, &plan, &stop, &progress)?;
    bar.finish_and_clear();
    for &mtu in &plan.mtus {
        for &part in &plan.parts {
            tell(&outcome, part, mtu, &printer)?;
            if let Some(dir) = &arguments.svg {
                draw(&outcome, part, mtu, dir)?;
            }
        }
    }
    let is_ours = |who: &Contender| matches!(who, Contender::Smt(_));
    if outcome.samples.keys().any(|(_, who, _)| is_ours(who)) {
        return Ok(());
    }
    let mut ours = outcome.not_measured.iter().filter(|((_, _, who, _), _)| is_ours(who));
    let why = ours.next().map_or("", |(_, why)| why);
    Err(Error::Failed(format!("nothing of SMT could be measured: {why}")))
}

fn name(part: Part) -> String {
    part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn tell(outcome: &Outcome, part: Part, mtu: u32, printer: &Printer) -> Result<(), Error> {
    let title = printer.bold(format!("{}; MTU {mtu}", part.title()));
    printer.text(format!("\n{title}"))?;
    if !outcome.spins {
        printer.text("both ends sleep while they wait, for want of a second core")?;
    }
    report::table(outcome, part, mtu).iter().try_for_each(|line| printer.text(line))?;
    report::not_measured(outcome, part, mtu).iter().try_for_each(|line| printer.text(line))?;
    let objects = report::objects(outcome, part, mtu);
    Ok(objects.iter().try_for_each(|object| printer.object(object))?)
}

fn draw(outcome: &Outcome, part: Part, mtu: u32, dir: &Path) -> Result<(), Error> {
    let plot = plot::bars(outcome, part, mtu)?;
    let file = dir.join(format!("rpc-{}-{mtu}.svg", name(part)));
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&file, plot))
        .map_err(Error::io(format!("cannot write {}", file.display())))
}
