//! `smt-sim cores`: what a session gains from several cores, each of which has some of its lanes.

use std::error::Error;
use std::process::ExitCode;

use clap::Args as ClapArgs;

use super::numbers::{positive, rate};
use super::output::print;
use super::runs;
use crate::plot::{Line, PlotError, lines};
use crate::rack::cores::{Cores, CoresReport, Costs, Transport, memory};
use crate::table::{Cell, Table};

/// One session on hosts of several cores: rate, and short RPCs beside long ones
#[derive(Clone, Debug, ClapArgs)]
#[command(
    allow_negative_numbers = true,
    after_help = "\
Cores take time for packets, records, messages and bytes (--packet-ns and so on), and work on one \
thing after the other. With SMT a client and a server have one session, and packets reach cores by \
their lanes; with streams they have a connection for each core of the server. Each call goes to a \
lane or connection by chance.

Three runs for each line: as many short calls (64 bytes each way) as the server's cores can do, which \
gives \"RPC/s\", \"spread\" (packets received by the busiest core, over the mean) and \"link\" (share \
of it in use); a few short calls (\"alone\", in microseconds: median and 99th percentile); and the \
same beside long requests, one after the other at a quarter of the cores (\"beside\"), with those of \
the short calls that went to other cores (\"apart\").

Exit status: 0 done; 1 a call did not end; 2 not done (wrong usage, too much memory).

Example:
  smt-sim cores --cores 1,2,4 --gbps 10"
)]
pub struct Args {
    /// Numbers of cores of the server: powers of two, 1 to 64, separated by commas
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = CORES,
          value_parser = core_count)]
    pub cores: Vec<u32>,
    /// Cores of the client, a power of two, 1 to 64: as many as the server's unless given
    #[arg(long, value_name = "N", value_parser = core_count)]
    pub client_cores: Option<u32>,
    /// Short calls under way for each core of the server, 1 to 256, when the rate is measured
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=256))]
    pub outstanding: u32,
    /// Application bytes of long requests, 10,000 to 10,000,000
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20,
          value_parser = clap::value_parser!(u32).range(10_000..=10_000_000))]
    pub long: u32,
    /// Short calls a second for each core of the server, 100 to 200,000, when latency is measured
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(100..=200_000))]
    pub short_rate: u32,
    /// Time that a core takes for a packet, in nanoseconds
    #[arg(long, value_name = "NS", default_value_t = Costs::default().packet,
          value_parser = clap::value_parser!(u64).range(COST))]
    pub packet_ns: u64,
    /// Time that it takes to seal or open a record, besides that for its bytes
    #[arg(long, value_name = "NS", default_value_t = Costs::default().record,
          value_parser = clap::value_parser!(u64).range(COST))]
    pub record_ns: u64,
    /// Time that it takes for a message to begin or to end
    #[arg(long, value_name = "NS", default_value_t = Costs::default().message,
          value_parser = clap::value_parser!(u64).range(COST))]
    pub message_ns: u64,
    /// Time that it takes for each 1,024 bytes of a packet
    #[arg(long, value_name = "NS", default_value_t = Costs::default().kib,
          value_parser = clap::value_parser!(u64).range(COST))]
    pub kib_ns: u64,
    /// Link bandwidth of the hosts, in Gb/s
    #[arg(long, value_name = "RATE", default_value_t = 100.0, value_parser = rate)]
    pub gbps: f64,
    /// Time that each run is long, in milliseconds, 1 to 10,000
    #[arg(long, value_name = "MS", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub millis: u32,
    /// What decides where and when calls are made
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Memory that may be used, in GiB; runs that may need more are refused
    #[arg(long, value_name = "GIB", default_value_t = 4.0, value_parser = positive)]
    pub max_memory: f64,
    /// Print one JSON object for each run instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Numbers of cores, by default.
pub const CORES: [u32; 5] = [1, 2, 4, 8, 16];
/// Costs that can be given, in nanoseconds.
const COST: std::ops::RangeInclusive<u64> = 0..=1_000_000;

/// A number of cores: what lanes can be shared among.
fn core_count(text: &str) -> Result<u32, String> {
    let cores: u32 = text.parse().map_err(|_| "not a whole number".to_owned())?;
    let fits = cores.is_power_of_two() && cores <= 64;
    fits.then_some(cores).ok_or_else(|| "cores are 1, 2, 4, 8, 16, 32 or 64".to_owned())
}

/// Runs the command.
///
/// # Errors
/// More memory needed than allowed, or standard output cannot be written.
pub fn run(args: Args) -> Result<ExitCode, Box<dyn Error>> {
    let reports = reports(&args)?;
    if args.json {
        runs::print_json(&reports)?;
    } else {
        print(text(&reports))?;
    }
    Ok(ExitCode::from(u8::from(!reports.iter().all(CoresReport::is_sound))))
}

/// Makes the runs, on all cores of this machine: those of SMT first.
///
/// # Errors
/// More memory needed than allowed, or a run that cannot be made.
pub fn reports(args: &Args) -> Result<Vec<CoresReport>, Box<dyn Error>> {
    let jobs = [Transport::Smt, Transport::Streams].into_iter().flat_map(|transport| {
        args.cores.iter().map(move |&cores| Cores {
            cores,
            client_cores: args.client_cores.unwrap_or(cores),
            transport,
            costs: Costs {
                packet: args.packet_ns,
                record: args.record_ns,
                message: args.message_ns,
                kib: args.kib_ns,
            },
            outstanding: args.outstanding,
            long_bytes: args.long,
            short_per_second: args.short_rate,
            link_gbps: args.gbps,
            millis: args.millis,
            seed: args.seed,
        })
    });
    let jobs: Vec<Cores> = jobs.collect();
    let estimates: Vec<u64> = jobs.iter().map(memory).collect();
    runs::run_all(&jobs, &estimates, args.max_memory, Cores::run)
}

/// A table for rates and one for latency, narrow enough for terminals.
fn text(reports: &[CoresReport]) -> String {
    let mut rates = Table::new(["", "cores", "RPC/s", "times", "spread", "busy", "link"]);
    let mut waits =
        Table::new(["", "cores", "alone", "P99", "beside", "P99", "apart", "P99", "Gb/s"]);
    for report in reports {
        let all = cells(reports, report);
        rates.row(all.iter().take(7).cloned());
        waits.row(all.iter().take(2).chain(all.iter().skip(7)).cloned());
    }
    format!("{}\n{}", rates.text(), waits.text())
}

/// A row for each run.
pub fn table(reports: &[CoresReport]) -> Table {
    let mut table = Table::new([
        "transport",
        "cores",
        "RPC/s",
        "times one core",
        "spread",
        "busy",
        "link",
        "alone P50 us",
        "P99",
        "beside P50 us",
        "P99",
        "apart P50 us",
        "P99",
        "long Gb/s",
    ]);
    for report in reports {
        table.row(cells(reports, report));
    }
    table
}

fn cells(all: &[CoresReport], report: &CoresReport) -> Vec<Cell> {
    let transport = report.cores.transport;
    let one = all.iter().find(|one| one.cores.transport == transport && one.cores.cores == 1);
    let times = one.map_or(Cell::None, |one| (report.rate / one.rate).into());
    let [alone, alone_p99] = report.alone_us;
    let [beside, beside_p99] = report.beside_us;
    let apart = |at: usize| report.apart_us.and_then(|us| us.get(at).copied());
    let apart = [apart(0), apart(1)].map(|us| us.map_or(Cell::None, Cell::from));
    let [apart, apart_p99] = apart;
    vec![
        transport.to_string().into(),
        report.cores.cores.into(),
        Cell::Count(report.rate as u64),
        times,
        report.spread.into(),
        report.busy.into(),
        report.link.into(),
        alone.into(),
        alone_p99.into(),
        beside.into(),
        beside_p99.into(),
        apart,
        apart_p99,
        report.long_gbps.into(),
    ]
}

/// Plots of the rate and of the short RPCs' 99th percentile by cores: file names and contents.
///
/// # Errors
/// If the plotting library refuses.
pub fn plots(reports: &[CoresReport]) -> Result<Vec<(String, String)>, PlotError> {
    let of = |transport: Transport, name: &str, value: &dyn Fn(&CoresReport) -> Option<f64>| {
        let some = reports.iter().filter(|report| report.cores.transport == transport);
        let points = some.filter_map(|r| Some((f64::from(r.cores.cores), value(r)?)));
        Line { name: name.to_owned(), points: points.collect() }
    };
    let rate = |report: &CoresReport| Some(report.rate / 1e6);
    let rates = [of(Transport::Smt, "SMT", &rate), of(Transport::Streams, "streams", &rate)];
    let beside = |report: &CoresReport| Some(report.beside_us[1]);
    let apart = |report: &CoresReport| report.apart_us.map(|us| us[1]);
    let waits = [
        of(Transport::Smt, "SMT", &beside),
        of(Transport::Smt, "SMT, other cores", &apart),
        of(Transport::Streams, "streams", &beside),
        of(Transport::Streams, "streams, other cores", &apart),
    ];
    let cores = "cores of the server, and of the client";
    let rate = lines("64 B RPCs", cores, "million RPCs a second", &rates)?;
    let title = "64 B RPCs beside 1 MB messages at a quarter of the cores";
    let wait = lines(title, cores, "99th percentile, in us", &waits)?;
    Ok(vec![("cores-rate.svg".to_owned(), rate), ("cores-beside.svg".to_owned(), wait)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_powers_of_two() {
        assert_eq!((core_count("1"), core_count("64")), (Ok(1), Ok(64)));
        for bad in ["0", "3", "128", "-1", "many", ""] {
            assert!(core_count(bad).is_err(), "{bad}");
        }
    }
}
