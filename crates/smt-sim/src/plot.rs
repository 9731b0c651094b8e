//! Plots as SVG: slowdown by message size, and plain lines.

use core::fmt;
use core::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (1120, 560);
/// Of these, how much the legend takes at the right.
const LEGEND_WIDTH: u32 = 230;
const FONT: &str = "sans-serif";
/// Told apart also by people who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// One transport in a plot of slowdowns.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// From the shortest messages to the longest, each with the same share of all messages.
    pub points: Vec<Point>,
}

/// The slowdowns of the messages of one size group.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// The size below the axis, such as "1.4k".
    pub label: String,
    /// The median slowdown, at least 1.
    pub p50: f64,
    /// The 99th percentile of slowdown, at least 1.
    pub p99: f64,
}

/// One line of [`lines`].
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// A plot could not be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlotError(String);

impl fmt::Display for PlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the plot could not be drawn: {}", self.0)
    }
}

impl core::error::Error for PlotError {}

/// Slowdown (log scale) by message size: for each series its 99th percentile as a full line and its
/// median as a dashed one. The groups of messages, usually deciles, are equally far apart, so that
/// each stretch of the axis stands for as many messages as any other; the labels are those of the
/// first series. Values that are not finite are left out.
///
/// # Errors
/// If the plotting library refuses.
pub fn slowdown(title: &str, series: &[Series]) -> Result<String, PlotError> {
    draw(|area| draw_slowdown(area, title, series))
}

/// Plain lines over two linear axes that start at 0. Values that are not finite are left out.
///
/// # Errors
/// If the plotting library refuses.
pub fn lines(title: &str, x: &str, y: &str, series: &[Line]) -> Result<String, PlotError> {
    draw(|area| draw_lines(area, title, (x, y), series))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Outcome = Result<(), Box<dyn core::error::Error>>;

fn draw(content: impl FnOnce(&Area<'_>) -> Outcome) -> Result<String, PlotError> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
    let drawn = area.fill(&WHITE).map_err(Into::into).and_then(|()| content(&area));
    let drawn = drawn.and_then(|()| area.present().map_err(Into::into));
    drop(area);
    drawn.map_err(|error| PlotError(error.to_string()))?;
    Ok(svg)
}

fn draw_slowdown(area: &Area<'_>, title: &str, series: &[Series]) -> Outcome {
    let groups = series.iter().map(|s| s.points.len()).max().unwrap_or(0).max(1);
    let values = series.iter().flat_map(|s| &s.points).flat_map(|p| [p.p50, p.p99]);
    let top = values.filter(|v| v.is_finite()).fold(2.0, f64::max) * 1.15;
    let area = &legend(area, series.iter().map(|s| &*s.name))?;
    let mut chart = builder(area, title).build_cartesian_2d(Groups(groups), Slowdowns(top))?;
    let labels: Vec<&str> =
        series.first().map_or(Vec::new(), |s| s.points.iter().map(|p| &*p.label).collect());
    chart
        .configure_mesh()
        .x_desc("message size, in bytes (each step holds the same number of messages)")
        .y_desc("slowdown (full: 99th percentile, dashed: median)")
        .x_labels(groups)
        .x_label_formatter(&|&x| labels.get(x as usize).copied().unwrap_or_default().to_owned())
        .label_style((FONT, 17))
        .axis_desc_style((FONT, 18))
        .bold_line_style(RGBColor(215, 215, 215))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (s, &colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let points = |value: fn(&Point) -> f64| {
            let numbered = s.points.iter().enumerate();
            let placed = numbered.map(move |(i, point)| (i as f64 + 0.5, value(point)));
            placed.filter(|(_, v)| v.is_finite()).map(|(x, v)| (x, v.max(1.0)))
        };
        chart.draw_series(LineSeries::new(points(|p| p.p99), colour.stroke_width(3)))?;
        chart.draw_series(DashedLineSeries::new(
            points(|p| p.p50),
            7,
            5,
            colour.stroke_width(2),
        ))?;
        let dots = points(|p| p.p99).chain(points(|p| p.p50));
        chart.draw_series(dots.map(|at| Circle::new(at, 3, colour.filled())))?;
    }
    Ok(())
}

fn draw_lines(area: &Area<'_>, title: &str, axes: (&str, &str), series: &[Line]) -> Outcome {
    let finite = |&&(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
    let all = || series.iter().flat_map(|s| &s.points).filter(finite);
    let right = all().map(|p| p.0).fold(0.0, f64::max);
    let top = all().map(|p| p.1).fold(0.0, f64::max);
    let (right, top) = (end(right) * 1.02, end(top) * 1.1);
    let area = &legend(area, series.iter().map(|s| &*s.name))?;
    let mut chart = builder(area, title).build_cartesian_2d(0.0..right, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(axes.0)
        .y_desc(axes.1)
        .x_label_formatter(&|x| plain(*x))
        .y_label_formatter(&|y| plain(*y))
        .label_style((FONT, 17))
        .axis_desc_style((FONT, 18))
        .bold_line_style(RGBColor(215, 215, 215))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (s, &colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let points = || s.points.iter().filter(finite).copied();
        chart.draw_series(LineSeries::new(points(), colour.stroke_width(3)))?;
        chart.draw_series(points().map(|at| Circle::new(at, 3, colour.filled())))?;
    }
    Ok(())
}

/// The end of an axis; one that would be empty gets some length.
fn end(largest: f64) -> f64 {
    if largest > 0.0 { largest } else { 1.0 }
}

fn builder<'a, 'b>(area: &'a Area<'b>, title: &str) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(title, (FONT, 24))
        .margin(14)
        .margin_right(28)
        .x_label_area_size(64)
        .y_label_area_size(72);
    builder
}

/// Draws the legend at the right; returns the area that is left of it.
fn legend<'a, 'b>(
    area: &Area<'b>,
    names: impl Iterator<Item = &'a str>,
) -> Result<Area<'b>, Box<dyn core::error::Error>> {
    let (rest, legend) = area.split_horizontally(SIZE.0 - LEGEND_WIDTH);
    let mut y = 66;
    for (name, &colour) in names.zip(COLOURS.iter().cycle()) {
        legend.draw(&PathElement::new([(0, y), (26, y)], colour.stroke_width(3)))?;
        legend.draw(&Text::new(name.to_owned(), (34, y - 8), (FONT, 17)))?;
        y += 26;
    }
    Ok(rest)
}

/// A number of an axis, without needless zeros.
fn plain(number: f64) -> String {
    format!("{}", (number * 1000.0).round() / 1000.0)
}

/// An axis on which groups stand at equal distances, each in the middle of its step.
struct Groups(usize);

impl Ranged for Groups {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        place(value / self.0 as f64, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        (0..self.0).map(|group| group as f64 + 0.5).collect()
    }

    fn range(&self) -> Range<f64> {
        0.0..self.0 as f64
    }
}

impl ValueFormatter<f64> for Groups {}

/// A logarithmic axis from 1 up to this, marked at 1, 2 and 5 of each decade, or at 1 alone.
struct Slowdowns(f64);

impl Ranged for Slowdowns {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        place(value.ln() / self.0.ln(), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let steps: &[f64] = if self.0 > 2e4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let decades = (0..12).map(|decade| 10f64.powi(decade));
        let marks = decades.flat_map(|decade| steps.iter().map(move |step| step * decade));
        marks.take_while(|&mark| mark <= self.0).collect()
    }

    fn range(&self) -> Range<f64> {
        1.0..self.0
    }
}

impl ValueFormatter<f64> for Slowdowns {
    fn format_ext(&self, value: &f64) -> String {
        format!("{value:.0}")
    }
}

/// Where a share of an axis is in pixels.
fn place(share: f64, (from, to): (i32, i32)) -> i32 {
    from + (share * f64::from(to - from)).round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, worse: f64) -> Series {
        let labels = ["8", "27", "64", "110", "193", "312", "512", "1.4k", "12k", "1.2M"];
        let point = |(i, label): (usize, &&str)| Point {
            label: (*label).to_owned(),
            p50: 1.0 + worse * 0.1 * i as f64,
            p99: 2.0 + worse * (i * i) as f64,
        };
        Series { name: name.to_owned(), points: labels.iter().enumerate().map(point).collect() }
    }

    #[test]
    fn slowdowns_are_drawn_the_same_each_time() {
        let all = [series("SMT", 0.2), series("TLS/TCP (DCTCP)", 9.0), series("Homa", 0.15)];
        let svg = slowdown("W3, 80 % load, 10 Gb/s", &all).unwrap();
        assert_eq!(svg, slowdown("W3, 80 % load, 10 Gb/s", &all).unwrap());
        for text in ["W3, 80 % load", "TLS/TCP (DCTCP)", "1.4k", "slowdown"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn values_that_are_not_finite_are_left_out() {
        let mut one = series("SMT", 1.0);
        one.points[3].p99 = f64::NAN;
        one.points[4].p50 = f64::INFINITY;
        assert!(!slowdown("gaps", &[one]).unwrap().contains("NaN"));
        let line = Line { name: "rate".into(), points: vec![(1.0, 2.0), (2.0, f64::NAN)] };
        assert!(!lines("gaps", "senders", "Gb/s", &[line]).unwrap().contains("NaN"));
    }

    #[test]
    fn nothing_to_show_is_an_empty_frame() {
        assert!(slowdown("none", &[]).unwrap().contains("none"));
        assert!(lines("none", "x", "y", &[]).unwrap().contains("none"));
    }
}
