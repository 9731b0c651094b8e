//! `smt bench guard`: whether SMT has become slower than it was.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::compare::one;
use super::{advance, bar};
use crate::baseline::Wait;
use crate::bench::eval::{self, Bench, Cell, Part, Plan};
use crate::bench::ground::Credentials;
use crate::bench::guard::{self, Baseline, Checked, Verdict};
use crate::bench::peers::{Role, Transport};
use crate::bench::place::{Link, Places, Scene};
use crate::bench::{RPC_BYTES, environment};
use crate::commands::Error;
use crate::output::Printer;
use crate::stop::Stop;

const ABOUT: &str = "\
Compare with a baseline: ratios to TLS, and instructions of an RPC

Measures SMT over all its datapaths beside TLS by rustls (rtt, load, mixed), and counts instructions of an RPC where cargo \
and valgrind are. A row fails if the ratio to TLS, measured in the same run, is worse than that of the baseline by more \
than the tolerance, or if instructions are more by 3 %. Rows that were disturbed fail nothing: they are unsure, and told.

Ratios are those of one machine: keep a baseline for each.";

const AFTER: &str = "\
Examples:
  smt bench guard --baseline baseline.json --update
  smt bench guard --baseline baseline.json
  git bisect run sh -c 'cargo build --release -p smt-cli || exit 125;
      target/release/smt bench guard --baseline /tmp/baseline.json'

Exit status: 0 if no row failed, 1 if one did.";

/// The arguments of `smt bench guard`.
#[derive(Debug, Args)]
#[command(about = "Compare with a baseline: ratios to TLS, and instructions of an RPC", long_about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    /// The baseline's file
    #[arg(long, value_name = "FILE")]
    baseline: PathBuf,
    /// Keep what is measured as the baseline, instead of comparing
    #[arg(long)]
    update: bool,
    /// Per cent by which a ratio may be worse
    #[arg(long, value_name = "PERCENT", default_value_t = 15.0, value_parser = percent)]
    tolerance: f64,
    /// Seconds for each contender in each row, all rounds together
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = crate::commands::options::seconds)]
    duration: f64,
    /// Rounds of each row
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Count no instructions
    #[arg(long)]
    no_instructions: bool,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if (0.0..=1e6).contains(&percent) => Ok(percent),
        _ => Err("not a number of per cent from 0 to 1,000,000".to_owned()),
    }
}

/// The rows, by command: few, and unlike each other.
fn benches() -> [(Bench, Vec<Cell>); 3] {
    let rtt = [64, 1024, 8192, 65_536].map(|size| one(Part::Rtt, Scene::PLAIN, size));
    let load = [64, 1024, 8192]
        .map(|size| Cell { outstanding: 100, ..one(Part::Load, Scene::PLAIN, size) });
    let mixed = one(Part::Mixed, Scene::PLAIN, RPC_BYTES as u32);
    [(Bench::Rtt, rtt.to_vec()), (Bench::Load, load.to_vec()), (Bench::Mixed, vec![mixed])]
}

/// Measures, and compares or keeps.
///
/// # Errors
/// Nothing can be measured, there is no baseline, or a row fails.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let printer = Printer::new(arguments.json);
    // Not after minutes of measuring.
    let before = match arguments.update {
        true => None,
        false => Some(guard::read(&arguments.baseline)?),
    };
    let now = measure(arguments, &printer)?;
    let Some(before) = before else {
        guard::write(&arguments.baseline, &now)?;
        return Ok(printer.text(format!("kept in {}", arguments.baseline.display()))?);
    };
    let all = guard::compare(&before, &now, arguments.tolerance / 100.0);
    printer.text(
        printer.bold(format!("{:<38} {:>9} {:>9}", "beside the baseline", "before", "now")),
    )?;
    for checked in &all {
        printer.say(line(checked, &printer), &checked.to_json())?;
    }
    let count = |verdict| all.iter().filter(|one| one.verdict == verdict).count();
    let [passed, failed, unsure] = [Verdict::Pass, Verdict::Fail, Verdict::Unsure].map(count);
    printer.text(format!("{passed} passed, {failed} failed, {unsure} unsure"))?;
    match failed {
        0 => Ok(()),
        _ => Err(Error::Failed(format!("{failed} of {} rows are worse than they were", all.len()))),
    }
}

fn line(checked: &Checked, printer: &Printer) -> String {
    let value = |value: Option<f64>| match value {
        Some(value) if value >= 1000.0 => format!("{value:.0}"),
        Some(value) => format!("{value:.2}"),
        None => String::new(),
    };
    let change = checked.worse.map_or_else(String::new, |worse| {
        let word = if worse > 0.0 { "worse" } else { "better" };
        format!("{:.1} % {word}", 100.0 * worse.abs())
    });
    let verdict = match checked.verdict {
        Verdict::Pass => printer.good("pass"),
        Verdict::Fail => printer.bad("FAIL"),
        Verdict::Unsure => format!("unsure: {}", checked.why),
    };
    let [before, now] = checked.values.map(value);
    format!("{:<38} {before:>9} {now:>9} {change:>15}  {verdict}", checked.what)
}

fn measure(arguments: &Arguments, printer: &Printer) -> Result<Baseline, Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let credentials = Arc::new(Credentials::new()?);
    let takes_part =
        |who: &Transport| matches!(who.role(), Role::Smt(_)) || *who == Transport::TlsRustls;
    let transports: Vec<Transport> = Transport::ALL.iter().copied().filter(takes_part).collect();
    let environment = environment::describe(&credentials, &Link::USUAL, &transports);
    let mut now = Baseline { environment, ..Baseline::default() };
    for (bench, cells) in benches() {
        let plan = Plan {
            bench,
            cells,
            transports: transports.clone(),
            links: Link::USUAL.to_vec(),
            wait: Wait::Spin,
            time: Duration::from_secs_f64(arguments.duration),
            rounds: arguments.rounds,
            budget: None,
        };
        let bar = bar(arguments.json, bench.name());
        let outcome = eval::measure(Places::new(&credentials, None), &plan, &stop, &|share, _| {
            advance(&bar, share)
        })?;
        bar.finish_and_clear();
        now.ratios.extend(guard::ratios(&outcome, &plan.cells));
    }
    if now.ratios.is_empty() {
        return Err(Error::Failed("nothing could be measured beside TLS".to_owned()));
    }
    if !arguments.no_instructions {
        match guard::instructions() {
            Ok(counted) => now.instructions = counted,
            Err(why) => printer.text(format!("instructions: not available: {why}"))?,
        }
    }
    Ok(now)
}
