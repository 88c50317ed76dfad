//! The arithmetic of the charts: from values to positions, and to ticks that people like.
//!
//! Positions are percent of the plot's width (from the left) or height (from the top), so that a chart is drawn
//! without knowing how large it will be, on the server too.

/// One axis: a range and the values to label in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub low: f64,
    pub high: f64,
    pub ticks: Vec<f64>,
    step: f64,
}

impl Axis {
    /// An axis over all `values`, from tick to tick, with about `want` steps of 1, 2 or 5 times a power of ten
    /// (P. Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990). It never leaves `bounds`, which must
    /// themselves be nice numbers or infinite. What is not finite is passed over.
    pub fn nice(values: impl IntoIterator<Item = f64>, want: u32, bounds: (f64, f64)) -> Self {
        let (mut low, mut high) = values
            .into_iter()
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (bounds.0.max(0.0), bounds.1.min(1.0));
        }
        // A flat line goes through the middle of a narrow range around it.
        if high - low <= low.abs() * 1e-9 {
            let margin = if low == 0.0 { 1.0 } else { low.abs() * 0.05 };
            (low, high) = (low - margin, high + margin);
        }
        (low, high) = (low.max(bounds.0), high.min(bounds.1));
        let step = nice_step((high - low) / f64::from(want.max(1)));
        Self::stepped((low / step).floor() * step, high, step)
    }

    /// The axis of rounds, from 0 to `last`, labelled at whole numbers.
    pub fn rounds(last: u64, want: u32) -> Self {
        let last = last.max(1) as f64;
        let step = nice_step(last / f64::from(want.max(1))).max(1.0);
        let ticks = (0..=(last / step).floor() as u64).map(|i| i as f64 * step).collect();
        Self { low: 0.0, high: last, ticks, step }
    }

    fn stepped(low: f64, at_least: f64, step: f64) -> Self {
        // A tiny slack, so that 0.3 / 0.1 does not count as more than three steps.
        let steps = ((at_least - low) / step - 1e-9).ceil().clamp(1.0, 100.0);
        let ticks: Vec<f64> = (0..=steps as u32).map(|i| low + f64::from(i) * step).collect();
        Self { low, high: low + steps * step, ticks, step }
    }

    /// Where `value` is between low and high: 0 to 100, further out for what lies outside.
    pub fn percent(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low) * 100.0
    }

    /// The value at that share (0 to 1) of the axis.
    pub fn value(&self, share: f64) -> f64 {
        self.low + share.clamp(0.0, 1.0) * (self.high - self.low)
    }

    /// A tick as text, with as many decimals as the step needs.
    pub fn label(&self, tick: f64) -> String {
        if tick.abs() >= 1e5 {
            return format!("{tick:e}");
        }
        let decimals = (-self.step.log10().floor()).clamp(0.0, 6.0) as usize;
        // Adding up steps may end a hair below zero, and "-0" is no label.
        let tick = if tick.abs() < self.step * 1e-6 { 0.0 } else { tick };
        format!("{tick:.decimals$}")
    }
}

/// The smallest of 1, 2, 5, 10 times a power of ten that is at least `rough`.
fn nice_step(rough: f64) -> f64 {
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let share = rough / power;
    // The slack keeps 0.2000000001 a 0.2.
    let nice = [1.0, 2.0, 5.0].into_iter().find(|nice| share <= nice + 1e-9).unwrap_or(10.0);
    nice * power
}

/// How far the axis of rounds reaches: to the end of what is planned, unless that would squeeze what is there into
/// less than half.
pub fn rounds_end(last: u64, planned: u64) -> u64 {
    if planned <= (last * 2).max(20) { planned.max(last) } else { last.max(1) }
}

/// The path through the points, as SVG, in percent of both axes. Points that are not finite break the line.
pub fn path(points: &[(u64, f64)], x: &Axis, y: &Axis) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut pen_down = false;
    for (round, value) in points {
        if !value.is_finite() {
            pen_down = false;
            continue;
        }
        let command = if pen_down { 'L' } else { 'M' };
        // Writing to a String cannot fail.
        let _ = write!(out, "{command}{:.2} {:.2}", x.percent(*round as f64), 100.0 - y.percent(*value));
        pen_down = true;
    }
    out
}

/// The round nearest to a place on the axis; `rounds` ascend.
pub fn nearest(rounds: &[u64], place: f64) -> Option<u64> {
    rounds.iter().copied().min_by(|a, b| (*a as f64 - place).abs().total_cmp(&(*b as f64 - place).abs()))
}

/// The round a key press leads to from `from` (none: the last); none for a key that means nothing here.
pub fn step(rounds: &[u64], from: Option<u64>, key: &str) -> Option<u64> {
    let last = rounds.len().checked_sub(1)?;
    let at = from.and_then(|round| rounds.binary_search(&round).ok()).unwrap_or(last);
    let to = match key {
        "ArrowLeft" | "ArrowDown" => at.saturating_sub(1),
        "ArrowRight" | "ArrowUp" => (at + 1).min(last),
        "PageDown" => at.saturating_sub(10),
        "PageUp" => (at + 10).min(last),
        "Home" => 0,
        "End" => last,
        _ => return None,
    };
    rounds.get(to).copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FREE: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|tick| axis.label(*tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers_around_the_values() {
        let axis = Axis::nice([71.3, 88.9], 4, (0.0, 100.0));
        assert_eq!(labels(&axis), ["70", "75", "80", "85", "90"]);
    }

    #[test]
    fn small_steps_get_the_decimals_they_need() {
        let axis = Axis::nice([0.31, 0.58], 3, FREE);
        assert_eq!(labels(&axis), ["0.3", "0.4", "0.5", "0.6"]);
    }

    #[test]
    fn an_axis_of_percentages_stays_within_them() {
        for flat in [0.0, 99.9, 100.0] {
            let axis = Axis::nice([flat], 4, (0.0, 100.0));
            assert!(axis.low >= 0.0 && axis.high <= 100.0 + 1e-9, "{axis:?}");
            assert!(axis.low < axis.high, "{axis:?}");
        }
    }

    #[test]
    fn without_values_there_is_an_axis_still() {
        let axis = Axis::nice([f64::NAN], 4, FREE);
        assert_eq!((axis.low, axis.high), (0.0, 1.0));
    }

    #[test]
    fn huge_and_tiny_values_make_no_endless_ticks() {
        for values in [[1e-300, 1e300], [-1e15, 1e-15], [1e15, 1e15 + 0.1]] {
            let axis = Axis::nice(values, 4, FREE);
            assert!((2..=101).contains(&axis.ticks.len()), "{axis:?}");
        }
    }

    #[test]
    fn rounds_are_labelled_at_whole_numbers() {
        assert_eq!(labels(&Axis::rounds(3, 6)), ["0", "1", "2", "3"]);
        assert_eq!(labels(&Axis::rounds(37, 5)), ["0", "10", "20", "30"]);
    }

    #[test]
    fn positions_run_from_0_to_100_and_back() {
        let axis = Axis::rounds(10, 5);
        assert_eq!(axis.percent(5.0), 50.0);
        assert_eq!(axis.value(0.5), 5.0);
        assert_eq!(axis.value(7.0), 10.0);
    }

    #[test]
    fn the_axis_reaches_to_the_planned_end_unless_that_is_far_off() {
        assert_eq!(rounds_end(3, 10), 10);
        assert_eq!(rounds_end(40, 70), 70);
        assert_eq!(rounds_end(3, 1000), 3);
        assert_eq!(rounds_end(0, 0), 0);
    }

    #[test]
    fn a_path_is_broken_where_a_value_is_not_finite() {
        let y = Axis::nice([0.0, 1.0], 1, FREE);
        let line = path(&[(0, 0.0), (1, f64::NAN), (2, 1.0), (4, 0.5)], &Axis::rounds(4, 4), &y);
        assert_eq!(line, "M0.00 100.00M50.00 0.00L100.00 50.00");
    }

    #[test]
    fn the_nearest_round_is_found_between_two() {
        assert_eq!(nearest(&[1, 2, 5], 3.4), Some(2));
        assert_eq!(nearest(&[1, 2, 5], 3.6), Some(5));
        assert_eq!(nearest(&[], 3.6), None);
    }

    #[test]
    fn keys_step_through_the_rounds_and_stop_at_the_ends() {
        let rounds = [1, 2, 5];
        assert_eq!(step(&rounds, None, "ArrowLeft"), Some(2));
        assert_eq!(step(&rounds, Some(2), "ArrowRight"), Some(5));
        assert_eq!(step(&rounds, Some(5), "ArrowRight"), Some(5));
        assert_eq!(step(&rounds, Some(5), "Home"), Some(1));
        assert_eq!(step(&rounds, Some(5), "x"), None);
        assert_eq!(step(&[], None, "Home"), None);
    }
}
