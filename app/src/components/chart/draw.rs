//! A chart as SVG text: grid, lines, points, marks.
//!
//! All positions are percentages. Lines are drawn in a box stretched to the plot, with strokes that do not stretch;
//! text and points are placed by percentage and never scale. So the same markup is right at 375 and at 1440 pixels,
//! without a script and without inline styles. Nothing but numbers and our own words goes in: there is no text here
//! that would need escaping.

use super::scale::{Axis, path};
use std::fmt::Write;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// `test` or `train`: how it is drawn.
    pub class: &'static str,
    /// Round and value, finite, by ascending round.
    pub points: Vec<(u64, f64)>,
}

impl Series {
    fn at(&self, round: u64) -> Option<f64> {
        self.points.iter().find(|(number, _)| *number == round).map(|(_, value)| *value)
    }
}

/// What one chart shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    pub series: Vec<Series>,
    pub y: Axis,
    /// Follows the labels of the value axis.
    pub unit: &'static str,
    /// The round whose point is marked as the best.
    pub best: Option<u64>,
}

/// With more points than this a line says it better than its dots.
const MOST_DOTS: usize = 40;

impl Plot {
    /// A plot with an axis that fits its series.
    pub fn new(series: Vec<Series>, unit: &'static str, bounds: (f64, f64), best: Option<u64>) -> Self {
        let values = series.iter().flat_map(|series| series.points.iter().map(|(_, value)| *value));
        Self { y: Axis::nice(values, 4, bounds), series, unit, best }
    }

    /// All but the crosshair.
    pub fn svg(&self, x: &Axis, voids: &[u64]) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail, here and below.
        let _ = self.grid(x, &mut out);
        let _ = self.lines(x, &mut out);
        let _ = self.marks(x, voids, &mut out);
        out
    }

    fn grid(&self, x: &Axis, out: &mut String) -> std::fmt::Result {
        for tick in &self.y.ticks {
            let (at, label, unit) = (self.top(*tick), self.y.label(*tick), self.unit);
            write!(out, r#"<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>"#)?;
            write!(out, r#"<text class="tick" x="-10" y="{at}" dy="0.32em" text-anchor="end">{label}{unit}</text>"#)?;
        }
        for tick in &x.ticks {
            let (at, label) = (left(x, *tick), x.label(*tick));
            write!(out, r#"<text class="tick" x="{at}" y="100%" dy="1.5em" text-anchor="middle">{label}</text>"#)?;
        }
        Ok(())
    }

    fn lines(&self, x: &Axis, out: &mut String) -> std::fmt::Result {
        out.push_str(r#"<svg class="lines" viewBox="0 0 100 100" preserveAspectRatio="none">"#);
        for Series { class, points } in &self.series {
            let d = path(points, x, &self.y);
            write!(out, r#"<path class="line {class}" d="{d}" vector-effect="non-scaling-stroke"/>"#)?;
        }
        out.push_str("</svg>");
        for series in self.series.iter().filter(|series| series.points.len() <= MOST_DOTS) {
            for (round, value) in &series.points {
                self.circle(x, "dot", series.class, *round, *value, "2.5", out)?;
            }
        }
        Ok(())
    }

    fn marks(&self, x: &Axis, voids: &[u64], out: &mut String) -> std::fmt::Result {
        for round in voids {
            let at = left(x, *round as f64);
            write!(out, r#"<text class="void" x="{at}" y="100%" dy="0.35em" text-anchor="middle">×</text>"#)?;
        }
        let value = |round| self.series.iter().find_map(|series| series.at(round));
        if let Some((round, value)) = self.best.and_then(|round| Some((round, value(round)?))) {
            self.circle(x, "best", "", round, value, "6", out)?;
            // Near an edge the word goes inwards.
            let (anchor, dx) = if x.percent(round as f64) > 85.0 { ("end", -10) } else { ("middle", 0) };
            let dy = if self.y.percent(value) > 85.0 { 20 } else { -11 };
            let (at_x, at_y) = (left(x, round as f64), self.top(value));
            write!(
                out,
                r#"<text class="best-label" x="{at_x}" y="{at_y}" dx="{dx}" dy="{dy}" text-anchor="{anchor}">best</text>"#
            )?;
        }
        Ok(())
    }

    /// The line through a round, and its points.
    pub fn crosshair(&self, x: &Axis, round: u64) -> String {
        let at = left(x, round as f64);
        let mut out = format!(r#"<line class="crosshair" x1="{at}" x2="{at}" y1="0" y2="100%"/>"#);
        for series in &self.series {
            if let Some(value) = series.at(round) {
                let _ = self.circle(x, "pick", series.class, round, value, "5", &mut out);
            }
        }
        out
    }

    #[allow(clippy::too_many_arguments, reason = "a circle has as many properties, and they are named at each call")]
    fn circle(
        &self,
        x: &Axis,
        kind: &str,
        class: &str,
        round: u64,
        value: f64,
        r: &str,
        out: &mut String,
    ) -> std::fmt::Result {
        let (cx, cy) = (left(x, round as f64), self.top(value));
        write!(out, r#"<circle class="{kind} {class}" cx="{cx}" cy="{cy}" r="{r}"/>"#)
    }

    fn top(&self, value: f64) -> String {
        format!("{:.2}%", 100.0 - self.y.percent(value))
    }
}

fn left(x: &Axis, round: f64) -> String {
    format!("{:.2}%", x.percent(round))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(best: Option<u64>) -> Plot {
        let series = Series { class: "test", points: vec![(1, 70.0), (3, 90.0)] };
        Plot::new(vec![series], "%", (0.0, 100.0), best)
    }

    #[test]
    fn a_plot_has_a_dot_for_each_point_and_a_cross_for_each_void_round() {
        let svg = plot(None).svg(&Axis::rounds(4, 4), &[2]);
        assert_eq!(svg.matches("class=\"dot test\"").count(), 2, "{svg}");
        assert!(svg.contains(r#"<text class="void" x="50.00%""#), "{svg}");
        assert!(svg.contains(">90%</text>"), "{svg}");
    }

    #[test]
    fn the_best_round_is_marked_only_where_it_has_a_point() {
        let x = Axis::rounds(4, 4);
        assert!(plot(Some(3)).svg(&x, &[]).contains("best-label"));
        assert!(!plot(Some(2)).svg(&x, &[]).contains("best-label"));
    }

    #[test]
    fn the_crosshair_of_a_void_round_has_no_points() {
        let x = Axis::rounds(4, 4);
        assert!(plot(None).crosshair(&x, 3).contains("pick"));
        assert!(!plot(None).crosshair(&x, 2).contains("pick"));
    }

    #[test]
    fn many_points_are_drawn_as_a_line_only() {
        let points = (1..=200).map(|round| (round, 1.0 / round as f64)).collect();
        let plot = Plot::new(vec![Series { class: "test", points }], "", (0.0, f64::INFINITY), None);
        assert!(!plot.svg(&Axis::rounds(200, 8), &[]).contains("dot"));
    }
}
