//! First RPCs as bars: the median of each contender, and a line up to its 99th percentile.

use plotters::prelude::*;

use super::contender::Transport;
use super::failed;
use super::first::Outcome;
use crate::commands::Error;

const WIDTH: u32 = 1120;
const BAR: i32 = 14;
const STEP: i32 = 20;
const TOP: i32 = 56;
const BOTTOM: i32 = 56;
/// Room for the names at the left.
const LEFT: i32 = 300;
const RIGHT: i32 = 40;
const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(215, 215, 215);

/// Draws what was measured at one round trip as SVG.
///
/// # Errors
/// The plotting library refuses.
pub fn bars(outcome: &Outcome) -> Result<String, Error> {
    let height = TOP + BOTTOM + STEP * outcome.measured.len() as i32;
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
    let drawn = draw(&area, outcome, height);
    let drawn = drawn.and_then(|()| Ok(area.present()?));
    drop(area);
    drawn.map_err(failed("the plot could not be drawn"))?;
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(area: &Area<'_>, outcome: &Outcome, height: i32) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let longest_us = outcome.measured.iter().map(|row| us(row.times.quantile_ns(0.99)));
    let (tick, ticks) = ticks(longest_us.fold(1.0, f64::max));
    let end = tick * f64::from(ticks);
    let x = |us: f64| LEFT + (us / end * f64::from(WIDTH as i32 - LEFT - RIGHT)).round() as i32;
    let text = |text: String, at: (i32, i32), size: i32| Text::new(text, at, (FONT, size));

    let title = format!(
        "First RPC from nothing, round trip {} us (bar: median, line: 99th percentile)",
        outcome.round_trip.as_micros()
    );
    area.draw(&text(title, (20, 16), 21))?;
    for number in 0..=ticks {
        let at = tick * f64::from(number);
        let line = [(x(at), TOP - 6), (x(at), height - BOTTOM + 4)];
        area.draw(&PathElement::new(line, GREY.stroke_width(1)))?;
        area.draw(&text(format!("{at:.0}"), (x(at) - 10, height - BOTTOM + 8), 15))?;
    }
    area.draw(&text("microseconds".to_owned(), (WIDTH as i32 - 140, height - 26), 15))?;
    for (row, number) in outcome.measured.iter().zip(0..) {
        let y = TOP + STEP * number;
        let what = row.what;
        let mtls = if what.mtls { ", mTLS" } else { "" };
        let (transport, variant) = (what.transport.name(), what.variant.name());
        let name = format!("{transport}: {variant}, {}{mtls}", what.exchange.name());
        area.draw(&text(name, (16, y), 15))?;
        let (p50, p99) = (us(row.times.quantile_ns(0.50)), us(row.times.quantile_ns(0.99)));
        let colour = colour(what.transport);
        area.draw(&Rectangle::new([(LEFT, y), (x(p50), y + BAR)], colour.filled()))?;
        let middle = y + BAR / 2;
        area.draw(&PathElement::new([(x(p50), middle), (x(p99), middle)], colour.stroke_width(2)))?;
    }
    Ok(())
}

/// Told apart also by people who do not see all colours (Okabe and Ito).
fn colour(transport: Transport) -> RGBColor {
    match transport {
        Transport::Smt => RGBColor(0, 114, 178),
        Transport::Rustls => RGBColor(213, 94, 0),
        Transport::Openssl => RGBColor(204, 121, 167),
        Transport::Quic => RGBColor(0, 158, 115),
    }
}

/// The distance of marks on an axis that reaches `longest`, and how many there are: 4 to 10.
fn ticks(longest: f64) -> (f64, u32) {
    let decade = 10_f64.powf(longest.log10().floor());
    let tick = [0.1, 0.2, 0.5, 1.0].map(|step| step * decade);
    let tick = tick.into_iter().find(|tick| longest / tick <= 10.0).unwrap_or(decade);
    (tick, (longest / tick).ceil() as u32)
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_few_and_reach_the_end() {
        for (longest, expected) in [(1.0, (0.1, 10)), (950.0, (100.0, 10)), (1200.0, (200.0, 6))] {
            assert_eq!(ticks(longest), expected, "{longest}");
        }
    }
}
