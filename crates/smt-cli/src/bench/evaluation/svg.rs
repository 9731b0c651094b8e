//! Lines through points, as SVG that programs can read too: each point is marked with what it stands for.

use std::fmt::Write as _;

use super::document::escaped;

/// A line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is called.
    pub name: String,
    /// Which of the colours it has.
    pub place: usize,
    /// Whether it stands behind others.
    pub is_faint: bool,
    /// Its points from left to right, in units of the axes.
    pub points: Vec<(f64, f64)>,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    /// What it tells, with the unit.
    pub title: String,
    /// Whether equal distances are equal ratios.
    pub is_log: bool,
    /// How its marks are written.
    pub label: fn(f64) -> String,
    /// Marks, if not those that suit its length.
    pub marks: Vec<f64>,
}

/// Whether points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Points {
    /// Each, with its value for whoever points at it.
    Drawn,
    /// None: there are too many.
    Hidden,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
/// Told apart also by people who do not see all colours (Okabe and Ito), then by dashes.
const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#999999", "#000000"];

/// Draws lines; those without points are left out. `None` without any.
pub fn plot(title: &str, x: &Axis, y: &Axis, lines: &[Line], points: Points) -> Option<String> {
    let lines: Vec<Line> = lines.iter().filter_map(|line| drawable(line, x, y)).collect();
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let horizontal = Scale::new(x, all().map(|(x, _)| x), LEFT, WIDTH - RIGHT)?;
    let vertical = Scale::new(y, all().map(|(_, y)| y), HEIGHT - BOTTOM, TOP)?;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"17\">{}</text>\n",
        escaped(title)
    );
    grid(&horizontal, &vertical, x, y, &mut svg);
    for (index, line) in lines.iter().enumerate() {
        draw(line, index, [&horizontal, &vertical], points, &mut svg);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// A line with the points that can be drawn; on logarithmic axes zero has no place.
fn drawable(line: &Line, x: &Axis, y: &Axis) -> Option<Line> {
    let fits = |value: f64, axis: &Axis| value.is_finite() && (value > 0.0 || !axis.is_log);
    let points = line.points.iter().copied().filter(|&(at, value)| fits(at, x) && fits(value, y));
    let points: Vec<_> = points.collect();
    (!points.is_empty()).then(|| Line { points, ..line.clone() })
}

fn grid(horizontal: &Scale, vertical: &Scale, x: &Axis, y: &Axis, svg: &mut String) {
    let bottom = HEIGHT - BOTTOM;
    for mark in &horizontal.marks {
        let at = horizontal.at(*mark);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#dddddd\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            escaped(&(x.label)(*mark))
        );
    }
    for mark in &vertical.marks {
        let at = vertical.at(*mark);
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            escaped(&(y.label)(*mark))
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(18 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0,
        escaped(&x.title),
        (TOP + bottom) / 2.0,
        escaped(&y.title)
    );
}

fn draw(line: &Line, index: usize, scales: [&Scale; 2], points: Points, svg: &mut String) {
    let [horizontal, vertical] = scales;
    let colour = COLOURS.get(line.place % COLOURS.len()).copied().unwrap_or("#000000");
    let dashes = match line.place / COLOURS.len() {
        0 => "",
        1 => " stroke-dasharray=\"7 4\"",
        _ => " stroke-dasharray=\"2 3\"",
    };
    let (width, opacity) = if line.is_faint { (1.5, 0.9) } else { (2.5, 1.0) };
    let name = escaped(&line.name);
    let place = |(x, y): &(f64, f64)| format!("{:.1} {:.1}", horizontal.at(*x), vertical.at(*y));
    let path: Vec<String> = line.points.iter().map(place).collect();
    let _ = writeln!(
        svg,
        "<path class=\"line\" data-name=\"{name}\" d=\"M{}\" fill=\"none\" stroke=\"{colour}\" \
         stroke-width=\"{width}\" opacity=\"{opacity}\"{dashes}/>",
        path.join("L")
    );
    if points == Points::Drawn {
        for (x, y) in &line.points {
            let _ = writeln!(
                svg,
                "<circle class=\"point\" data-name=\"{name}\" data-x=\"{x}\" data-y=\"{y}\" cx=\"{:.1}\" \
                 cy=\"{:.1}\" r=\"3.2\" fill=\"{colour}\" opacity=\"{opacity}\"><title>{name}: {x}, {y:.3}</title></circle>",
                horizontal.at(*x),
                vertical.at(*y)
            );
        }
    }
    let (at, row) = (WIDTH - RIGHT + 14.0, TOP + 8.0 + 19.0 * index as f64);
    let _ = writeln!(
        svg,
        "<path d=\"M{at} {row}h22\" stroke=\"{colour}\" stroke-width=\"{width}\" opacity=\"{opacity}\"{dashes}/>\
         <text x=\"{}\" y=\"{}\">{name}</text>",
        at + 28.0,
        row + 4.0
    );
}

/// Where values are on an axis.
struct Scale {
    is_log: bool,
    /// The ends of the axis, in its units; logarithms of them where it is logarithmic.
    ends: [f64; 2],
    /// Where the ends are drawn.
    drawn: [f64; 2],
    marks: Vec<f64>,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Option<Scale> {
        let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.chain(axis.marks.iter().copied()) {
            (least, greatest) = (least.min(value), greatest.max(value));
        }
        if !least.is_finite() || !greatest.is_finite() {
            return None;
        }
        let mut marks = axis.marks.clone();
        if axis.is_log {
            let (low, high) = (least.log10(), greatest.log10().max(least.log10() + 0.1));
            if marks.is_empty() {
                marks = decades(least, greatest);
            }
            return Some(Scale { is_log: true, ends: [low, high], drawn: [from, to], marks });
        }
        // Where nothing is, an axis begins.
        let least = least.min(0.0);
        let length = if greatest > least { greatest - least } else { 1.0 };
        if marks.is_empty() {
            let decade = 10_f64.powf(length.log10().floor());
            let steps = [0.1, 0.2, 0.5, 1.0, 2.0].map(|step| step * decade);
            let step = steps.into_iter().find(|step| length / step <= 8.0).unwrap_or(decade);
            let count = (length / step).floor() as u32;
            marks = (0..=count).map(|number| least + step * f64::from(number)).collect();
        }
        Some(Scale { is_log: false, ends: [least, least + length], drawn: [from, to], marks })
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.is_log { value.log10() } else { value };
        let [low, high] = self.ends;
        let [from, to] = self.drawn;
        from + (value - low) / (high - low) * (to - from)
    }
}

/// 1, 2 and 5 times powers of ten between two values.
fn decades(least: f64, greatest: f64) -> Vec<f64> {
    let first = least.log10().floor() as i32;
    let last = greatest.log10().ceil() as i32;
    let all =
        (first..=last).flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(decade)));
    let marks: Vec<f64> = all.filter(|mark| (least..=greatest).contains(mark)).collect();
    // Of many decades each has one mark.
    if marks.len() <= 12 {
        return marks;
    }
    (first..=last)
        .map(|decade| 10_f64.powi(decade))
        .filter(|mark| (least..=greatest).contains(mark))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(is_log: bool) -> Axis {
        Axis {
            title: "x <us>".to_owned(),
            is_log,
            label: |value| format!("{value}"),
            marks: Vec::new(),
        }
    }

    fn line(points: &[(f64, f64)]) -> Line {
        Line { name: "smt-raw".to_owned(), place: 9, is_faint: false, points: points.to_vec() }
    }

    #[test]
    fn points_are_inside_and_can_be_read() {
        for is_log in [false, true] {
            let lines = [line(&[(64.0, 5.4), (1024.0, 7.0)])];
            let svg = plot("a & b", &axis(is_log), &axis(is_log), &lines, Points::Drawn).unwrap();
            assert!(svg.contains("data-name=\"smt-raw\" data-x=\"64\" data-y=\"5.4\""), "{svg}");
            assert!(svg.contains("a &amp; b") && svg.contains("x &lt;us&gt;"));
            for part in svg.split("cx=\"").skip(1) {
                let at: f64 = part.split('"').next().unwrap().parse().unwrap();
                assert!((LEFT..=WIDTH - RIGHT).contains(&at), "{at}");
            }
        }
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        let draw = |points: &[(f64, f64)]| {
            plot("", &axis(true), &axis(true), &[line(points)], Points::Hidden)
        };
        assert!(draw(&[]).is_none() && draw(&[(0.0, 1.0), (1.0, f64::NAN)]).is_none());
        assert!(draw(&[(1.0, 1.0)]).is_some());
    }

    #[test]
    fn marks_are_few() {
        assert_eq!(decades(3.0, 60.0), [5.0, 10.0, 20.0, 50.0]);
        assert_eq!(decades(1.0, 1e6).len(), 7);
        let scale = Scale::new(&axis(false), [0.0, 950.0].into_iter(), 0.0, 1.0).unwrap();
        assert_eq!((scale.marks.len(), scale.marks[1]), (5, 200.0));
    }
}
