//! Bars beside each other, as SVG; first RPCs by their medians, with a line up to the 99th percentile.

use plotters::prelude::*;

use super::contender::Transport;
use super::failed;
use super::first::{Measured, Outcome};
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

/// A bar of a chart.
pub struct Bar {
    /// What stands at its left.
    pub name: String,
    /// Which of the colours it has.
    pub place: usize,
    /// How long it is.
    pub value: f64,
    /// How far a line at its end reaches.
    pub tail: Option<f64>,
}

/// Draws what was measured at one round trip as SVG.
///
/// # Errors
/// The plotting library refuses.
pub fn bars(outcome: &Outcome) -> Result<String, Error> {
    let bar = |row: &Measured| {
        let what = row.what;
        let mtls = if what.mtls { ", mTLS" } else { "" };
        let (transport, variant) = (what.transport.name(), what.variant.name());
        let [value, tail] = [0.50, 0.99].map(|part| row.times.quantile_ns(part) as f64 / 1e3);
        Bar {
            name: format!("{transport}: {variant}, {}{mtls}", what.exchange.name()),
            place: place(what.transport),
            value,
            tail: Some(tail),
        }
    };
    let title = format!(
        "First RPC from nothing, round trip {} us (bar: median, line: 99th percentile)",
        outcome.round_trip.as_micros()
    );
    chart(&title, "microseconds", &outcome.measured.iter().map(bar).collect::<Vec<_>>())
}

/// Draws bars as SVG, from top to bottom, on an axis from 0 in `unit`.
///
/// # Errors
/// The plotting library refuses.
pub fn chart(title: &str, unit: &str, bars: &[Bar]) -> Result<String, Error> {
    let height = TOP + BOTTOM + STEP * bars.len() as i32;
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, height as u32)).into_drawing_area();
    let drawn = draw(&area, title, unit, bars, height);
    let drawn = drawn.and_then(|()| Ok(area.present()?));
    drop(area);
    drawn.map_err(failed("the plot could not be drawn"))?;
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    area: &Area<'_>,
    title: &str,
    unit: &str,
    bars: &[Bar],
    height: i32,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let longest = bars.iter().map(|bar| bar.tail.unwrap_or(bar.value));
    let (tick, ticks) = ticks(longest.fold(1.0, f64::max));
    let end = tick * f64::from(ticks);
    let x = |at: f64| LEFT + (at / end * f64::from(WIDTH as i32 - LEFT - RIGHT)).round() as i32;
    let text = |text: &str, at: (i32, i32), size: i32| Text::new(text.to_owned(), at, (FONT, size));

    area.draw(&text(title, (20, 16), 21))?;
    for number in 0..=ticks {
        let at = tick * f64::from(number);
        let line = [(x(at), TOP - 6), (x(at), height - BOTTOM + 4)];
        area.draw(&PathElement::new(line, GREY.stroke_width(1)))?;
        let label = if tick < 1.0 { format!("{at:.1}") } else { format!("{at:.0}") };
        area.draw(&text(&label, (x(at) - 10, height - BOTTOM + 8), 15))?;
    }
    area.draw(&text(unit, (WIDTH as i32 - 140, height - 26), 15))?;
    for (bar, number) in bars.iter().zip(0..) {
        let y = TOP + STEP * number;
        area.draw(&text(&bar.name, (16, y), 15))?;
        let colour = COLOURS.get(bar.place).copied().unwrap_or(BLACK);
        area.draw(&Rectangle::new([(LEFT, y), (x(bar.value), y + BAR)], colour.filled()))?;
        let middle = y + BAR / 2;
        if let Some(tail) = bar.tail {
            let line = [(x(bar.value), middle), (x(tail), middle)];
            area.draw(&PathElement::new(line, colour.stroke_width(2)))?;
        }
    }
    Ok(())
}

/// Told apart also by people who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 158, 115),
    RGBColor(150, 150, 150),
    RGBColor(86, 180, 233),
];

fn place(transport: Transport) -> usize {
    match transport {
        Transport::Smt => 0,
        Transport::Rustls => 1,
        Transport::Openssl => 2,
        Transport::Quic => 3,
    }
}

/// The distance of marks on an axis that reaches `longest`, and how many there are: 4 to 10.
fn ticks(longest: f64) -> (f64, u32) {
    let decade = 10_f64.powf(longest.log10().floor());
    let tick = [0.1, 0.2, 0.5, 1.0].map(|step| step * decade);
    let tick = tick.into_iter().find(|tick| longest / tick <= 10.0).unwrap_or(decade);
    (tick, (longest / tick).ceil() as u32)
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
