//! Measurements as people and programs read them.

use serde_json::{Value, json};

use super::contender::{Transport, Variant, What};
use super::first::{Measured, Outcome};
use crate::output::time;

/// The ratio of medians of what was measured to its reference.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ratios {
    /// To a full handshake of SMT.
    smt_full: Option<f64>,
    /// To a full handshake of rustls on TCP.
    tls: Option<f64>,
}

/// Lines of a table, the heading first, at most 100 columns wide.
pub fn table(outcome: &Outcome) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<15} {:<12} {:<6} {:<4} {:>9} {:>9} {:>9} {:>5} {:>5} {:>9} {:>6}",
        "transport",
        "first RPC",
        "keys",
        "mTLS",
        "p50",
        "p99",
        "min",
        "/full",
        "/TLS",
        "server",
        "/s/core"
    )];
    for row in &outcome.measured {
        let ratios = ratios(row, outcome);
        let what = row.what;
        lines.push(format!(
            "{:<15} {:<12} {:<6} {:<4} {:>9} {:>9} {:>9} {:>5} {:>5} {:>9} {:>6}",
            what.transport.name(),
            what.variant.name(),
            what.exchange.name(),
            if what.mtls { "yes" } else { "no" },
            time(row.times.quantile_ns(0.50)),
            time(row.times.quantile_ns(0.99)),
            time(row.times.min_ns()),
            ratio(ratios.smt_full),
            ratio(ratios.tls),
            row.cpu_ns.map_or("-".to_owned(), |[_, server]| time(server)),
            row.cpu_ns.map_or("-".to_owned(), |[_, server]| per_second(server)),
        ));
    }
    for (what, why) in &outcome.not_measured {
        lines.push(format!(
            "{:<15} {:<12} {:<6} {:<4} not measured: {why}",
            what.transport.name(),
            what.variant.name(),
            what.exchange.name(),
            if what.mtls { "yes" } else { "no" },
        ));
    }
    lines
}

/// One object for each contender, measured or not.
pub fn objects(outcome: &Outcome) -> Vec<Value> {
    let round_trip_us = outcome.round_trip.as_micros() as u64;
    let base = |what: &What| {
        let mut object = json!({"bench": "handshake", "rtt_us": round_trip_us});
        if let (Value::Object(object), Value::Object(what)) = (&mut object, json!(what)) {
            object.extend(what);
        }
        object
    };
    let measured = outcome.measured.iter().map(|row| {
        let mut object = base(&row.what);
        let ratios = ratios(row, outcome);
        let times = row.times.to_json();
        for name in ["count", "min_ns", "p50_ns", "p99_ns", "max_ns"] {
            object[name] = times[name].clone();
        }
        if let Some([client, server]) = row.cpu_ns {
            object["client_cpu_ns"] = json!(client);
            object["server_cpu_ns"] = json!(server);
            object["client_per_second_core"] = json!(per_second_core(client));
            object["server_per_second_core"] = json!(per_second_core(server));
        }
        object["ratio_to_smt_full"] = json!(ratios.smt_full);
        object["ratio_to_tls"] = json!(ratios.tls);
        object
    });
    let not_measured = outcome.not_measured.iter().map(|(what, why)| {
        let mut object = base(what);
        object["not_measured"] = json!(why);
        object
    });
    measured.chain(not_measured).collect()
}

/// What the link does by itself, in words and as an object.
pub fn link(outcome: &Outcome) -> (String, Value) {
    let echo = &outcome.echo;
    let late = outcome
        .late_ns
        .map_or(String::new(), |ns| format!("; the forwarder is late by {} a packet", time(ns)));
    let text = format!(
        "link: {} added; a UDP echo takes p50 {}, p99 {}{late}",
        time(crate::output::nanoseconds(outcome.round_trip)),
        time(echo.quantile_ns(0.50)),
        time(echo.quantile_ns(0.99)),
    );
    let object = json!({
        "bench": "link", "rtt_us": outcome.round_trip.as_micros() as u64, "late_ns": outcome.late_ns,
        "p50_ns": echo.quantile_ns(0.50), "p99_ns": echo.quantile_ns(0.99), "min_ns": echo.min_ns(),
    });
    (text, object)
}

/// Compares with the full handshakes of the same key exchange and the same certificates.
fn ratios(row: &Measured, outcome: &Outcome) -> Ratios {
    let to = |transport| {
        let reference = What { transport, variant: Variant::Full, ..row.what };
        let found = outcome.measured.iter().find(|other| other.what == reference)?;
        let reference = found.times.quantile_ns(0.50);
        (reference > 0).then(|| row.times.quantile_ns(0.50) as f64 / reference as f64)
    };
    Ratios { smt_full: to(Transport::Smt), tls: to(Transport::Rustls) }
}

fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// How many one core can do in a second.
fn per_second_core(cpu_ns: u64) -> Option<u64> {
    1_000_000_000_u64.checked_div(cpu_ns)
}

fn per_second(cpu_ns: u64) -> String {
    per_second_core(cpu_ns).map_or("-".to_owned(), |count| count.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::contender::Exchange;
    use super::*;
    use crate::times::Times;

    fn measured(transport: Transport, variant: Variant, us: u64) -> Measured {
        let mut times = Times::default();
        times.add(Duration::from_micros(us));
        let what = What { transport, variant, exchange: Exchange::Hybrid, mtls: false };
        Measured { what, times, cpu_ns: Some([100_000, 200_000]) }
    }

    fn outcome() -> Outcome {
        let unmeasured = measured(Transport::Openssl, Variant::Full, 1).what;
        Outcome {
            round_trip: Duration::from_micros(50),
            measured: vec![
                measured(Transport::Smt, Variant::Full, 400),
                measured(Transport::Smt, Variant::Early, 100),
                measured(Transport::Rustls, Variant::Full, 500),
            ],
            not_measured: vec![(unmeasured, "built without the feature openssl".to_owned())],
            echo: Times::default(),
            late_ns: Some(300),
        }
    }

    #[test]
    fn ratios_are_to_full_handshakes_of_the_same_kind() {
        let objects = objects(&outcome());
        let early = &objects[1];
        assert_eq!((&early["variant"], &early["rtt_us"]), (&json!("0rtt"), &json!(50)));
        assert!((early["ratio_to_smt_full"].as_f64().unwrap() - 0.25).abs() < 0.01);
        assert!((early["ratio_to_tls"].as_f64().unwrap() - 0.2).abs() < 0.01);
        assert_eq!(early["server_per_second_core"], 5000);
        assert_eq!(objects[3]["not_measured"], "built without the feature openssl");
    }

    #[test]
    fn another_key_exchange_is_no_reference() {
        let mut outcome = outcome();
        outcome.measured[2].what.exchange = Exchange::X25519;
        assert_eq!(objects(&outcome)[0]["ratio_to_tls"], Value::Null);
    }

    #[test]
    fn tables_fit_the_screen() {
        let lines = table(&outcome());
        assert_eq!(lines.len(), 5);
        for line in &lines {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(lines[2].contains("0-RTT") && lines[2].contains("0.25"), "{}", lines[2]);
        assert!(lines[4].contains("not measured"));
        assert!(link(&outcome()).0.contains("late by 300 ns"));
    }
}
