//! `smt bench cores`: one session on one core and on several.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{advance, bar};
use crate::bench::cores::{
    BULK_BYTES, BULK_OUTSTANDING, Beside, Outcome, Plan, Rate, Who, evenness, measure,
};
use crate::bench::ground::Credentials;
use crate::bench::place::Link;
use crate::bench::{environment, saved};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;
use crate::output::{Printer, number, time};
use crate::stop::Stop;

const ABOUT: &str = "\
Measure one session on one core and on several

Client and server have one engine or two (--shards of `smt serve`), each on a thread that stays on a core; one session, \
RPCs of 64 bytes. With four cores or more every thread has one of its own, and all of them spin. With fewer they sleep \
while they wait, and the two threads of a shard, client's and server's, share a core: 1:1 is everything on one core, 2:2 \
on two.

  rate     RPCs a second with some outstanding; how they were spread over the
           server's shards: `even` is the largest part by an equal one, 1.00 where
           all are alike
  beside   how long RPCs take, one at a time, beside 2 messages of 1 MB: in the
           only shard, in the other of two, on the same connection of TLS 1.3 on
           TCP, and on another one that has threads of its own";

const AFTER: &str = "\
Examples:
  smt bench cores --quick
  smt bench cores --datapath raw,udp --duration 5
  smt bench cores --json | jq 'select(.part == \"beside\")'

Exit status: 0 also if a datapath cannot be measured (its row says why), 1 if none can, or on Ctrl-C.

JSON: {\"bench\": \"cores\", part, wait, contender (smt, tls), datapath} and in rate: client_shards, server_shards, \
rpcs_per_second, ratio_to_one, requests and bytes (by shard of the server), evenness, bytes_evenness; in beside: shards \
(of tls: connections), count, p50_ns, p99_ns, messages, bits_per_second, p99_ratio_to_tls; or \"not_available\" and why.";

/// Time of a quick run for each row.
const QUICK: Duration = Duration::from_millis(100);

/// The arguments of `smt bench cores`.
#[derive(Debug, Args)]
#[command(about = "Measure one session on one core and on several", long_about = ABOUT, after_help = AFTER)]
pub struct Arguments {
    /// SMT's datapaths
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_values_t = DatapathChoice::NAMED.to_vec(), value_enum)]
    datapath: Vec<DatapathChoice>,
    /// RPCs outstanding in rate
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    outstanding: u32,
    /// Seconds for each row
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = crate::commands::options::seconds)]
    duration: f64,
    /// A few seconds for everything: shows that it works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Also write what was measured, with the environment, to a file in this directory
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// One JSON object per line on standard output, for programs
    #[arg(long)]
    pub json: bool,
}

/// Measures and tells.
///
/// # Errors
/// Nothing of SMT can be measured.
pub(super) fn run(arguments: &Arguments) -> Result<(), Error> {
    let stop = Stop::on_signals().map_err(Error::io("cannot handle signals"))?;
    let printer = Printer::new(arguments.json);
    let mut datapaths = arguments.datapath.clone();
    datapaths.sort_unstable();
    datapaths.dedup();
    let plan = Plan {
        datapaths,
        outstanding: arguments.outstanding as usize,
        time: if arguments.quick { QUICK } else { Duration::from_secs_f64(arguments.duration) },
    };
    let credentials = Arc::new(Credentials::new()?);
    let bar = bar(arguments.json, "cores");
    let outcome = measure(&credentials, &plan, &stop, &|part| advance(&bar, part))?;
    bar.finish_and_clear();
    let mut results = tell_rates(&outcome, plan.outstanding, &printer)?;
    results.extend(tell_beside(&outcome, &printer)?);
    if let Some(dir) = &arguments.save {
        let environment = environment::describe(&credentials, &[Link::Veth], &[]);
        let file = saved::write(dir, "cores", &environment, &results)?;
        printer.text(printer.dim(format!("kept in {}", file.display())))?;
    }
    match outcome.rates.iter().find_map(|(_, _, rate)| rate.as_ref().err()) {
        Some(why) if outcome.rates.iter().all(|(_, _, rate)| rate.is_err()) => {
            Err(Error::Failed(format!("nothing of SMT could be measured: {why}")))
        }
        _ => Ok(()),
    }
}

fn wait(outcome: &Outcome) -> &'static str {
    if outcome.spins { "spin" } else { "block" }
}

fn tell_rates(
    outcome: &Outcome,
    outstanding: usize,
    printer: &Printer,
) -> Result<Vec<Value>, Error> {
    let mut told = Vec::new();
    let title = format!(
        "RPCs a second, 64 bytes, {outstanding} outstanding in one session; ends {}",
        wait(outcome)
    );
    printer.text(printer.bold(title))?;
    printer
        .text("            shards        RPC/s   /1:1   even  requests at the server's shards")?;
    for (datapath, shards, rate) in &outcome.rates {
        let one = outcome.rates.iter().find(|(of, shards, _)| of == datapath && *shards == [1, 1]);
        let one = one.and_then(|(_, _, rate)| rate.as_ref().ok()).map(per_second);
        let (name, [clients, servers]) = (datapath.name(), shards);
        let head = format!("SMT {name:<7} {clients}:{servers}");
        let mut object = json!({
            "bench": "cores", "part": "rate", "wait": wait(outcome), "contender": "smt",
            "datapath": name, "client_shards": clients, "server_shards": servers,
        });
        let text = match rate {
            Ok(rate) => {
                let ratio = one.map(|one| per_second(rate) / one.max(1.0));
                let even = evenness(&rate.requests);
                add(
                    &mut object,
                    &json!({
                        "rpcs_per_second": per_second(rate), "ratio_to_one": ratio,
                        "requests": rate.requests, "bytes": rate.bytes, "evenness": even,
                        "bytes_evenness": evenness(&rate.bytes),
                    }),
                );
                let shown = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
                let requests: Vec<String> = rate.requests.iter().map(|&n| number(n)).collect();
                let per_second = number(per_second(rate) as u64);
                format!("{head} {per_second:>13} {shown:>6} {even:>6.2}  {}", requests.join(" + "))
            }
            Err(why) => {
                add(&mut object, &json!({ "not_available": why }));
                format!("{head}  not available: {why}")
            }
        };
        printer.say(text, &object)?;
        told.push(object);
    }
    Ok(told)
}

fn per_second(rate: &Rate) -> f64 {
    rate.count as f64 / rate.elapsed.as_secs_f64()
}

fn tell_beside(outcome: &Outcome, printer: &Printer) -> Result<Vec<Value>, Error> {
    let mut told = Vec::new();
    let title = format!(
        "RPCs of 64 bytes, one at a time, beside {BULK_OUTSTANDING} messages of 1 MB; ends {}",
        wait(outcome)
    );
    printer.text(format!("\n{}", printer.bold(title)))?;
    printer.text("                                    p50       p99   p99/TLS   Gbit/s of 1 MB")?;
    let tls = outcome.beside.iter().find(|(who, _)| *who == Who::Tls(1));
    let tls = tls.and_then(|(_, beside)| beside.as_ref().ok()).map(|b| b.times.quantile_ns(0.99));
    for (who, beside) in &outcome.beside {
        let (head, mut object) = match who {
            Who::Smt(datapath, shards) => {
                let name = datapath.name();
                let how = if *shards == 1 { "the same shard" } else { "another shard" };
                let object = json!({ "contender": "smt", "datapath": name, "shards": shards });
                (format!("SMT {name:<7} {how}"), object)
            }
            Who::Tls(connections) => {
                let how = if *connections == 1 { "the same connection" } else { "another one" };
                let object = json!({ "contender": "tls", "shards": connections });
                (format!("TLS 1.3/TCP {how}"), object)
            }
        };
        add(&mut object, &json!({ "bench": "cores", "part": "beside", "wait": wait(outcome) }));
        let text = match beside {
            Ok(beside) => tell_one(&head, beside, tls, &mut object),
            Err(why) => {
                add(&mut object, &json!({ "not_available": why }));
                format!("{head}  not available: {why}")
            }
        };
        printer.say(text, &object)?;
        told.push(object);
    }
    Ok(told)
}

fn tell_one(head: &str, beside: &Beside, tls: Option<u64>, object: &mut Value) -> String {
    let [p50, p99] = [0.50, 0.99].map(|q| beside.times.quantile_ns(q));
    let bits = (beside.bulk * BULK_BYTES as u64 * 8) as f64 / beside.elapsed.as_secs_f64();
    let ratio = tls.map(|tls| p99 as f64 / tls.max(1) as f64);
    add(
        object,
        &json!({
            "count": beside.times.count(), "p50_ns": p50, "p99_ns": p99, "messages": beside.bulk,
            "bits_per_second": bits, "p99_ratio_to_tls": ratio,
        }),
    );
    let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.4}"));
    format!("{head:<31} {:>8} {:>9} {ratio:>9} {:>16.2}", time(p50), time(p99), bits / 1e9)
}

/// Adds the members of another object.
fn add(object: &mut Value, more: &Value) {
    if let (Some(object), Some(more)) = (object.as_object_mut(), more.as_object()) {
        object.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
}
