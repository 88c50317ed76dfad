//! One chart: grid, lines, points, crosshair.
//!
//! All positions are percentages. Lines are drawn in a box stretched to the plot, with strokes that do not stretch;
//! text and points are placed by percentage and never scale. So the same markup is right at 375 and at 1440 pixels,
//! without a script and without inline styles.

use super::scale::{Axis, path};
use super::share_across;
use leptos::prelude::*;

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// `test` or `train`: how it is drawn.
    pub class: &'static str,
    /// Round and value, finite, by ascending round.
    pub points: Vec<(u64, f64)>,
}

impl Series {
    pub fn len(&self) -> usize {
        self.points.len()
    }

    fn at(&self, round: u64) -> Option<f64> {
        self.points.iter().find(|(number, _)| *number == round).map(|(_, value)| *value)
    }
}

/// With more points than this a line says it better than its dots.
const MOST_DOTS: usize = 40;

#[component]
pub fn Panel(
    title: &'static str,
    unit: &'static str,
    bounds: (f64, f64),
    #[prop(into)] readout: Signal<String>,
    series: Memo<Vec<Series>>,
    x: Memo<Axis>,
    voids: Memo<Vec<u64>>,
    /// The round whose point is marked as the best.
    best: Memo<Option<u64>>,
    selected: RwSignal<Option<u64>>,
    /// Called with the share of the width that is pointed at.
    point: Callback<f64>,
) -> impl IntoView {
    let y = Memo::new(move |_| {
        series.with(|series| Axis::nice(series.iter().flat_map(|s| s.points.iter().map(|p| p.1)), 4, bounds))
    });
    let left = move |round: u64| format!("{:.2}%", x.with(|x| x.percent(round as f64)));
    let top = move |value: f64| format!("{:.2}%", 100.0 - y.with(|y| y.percent(value)));

    let grid = move || {
        let y = y.get();
        let line = |tick: f64| {
            let at = format!("{:.2}%", 100.0 - y.percent(tick));
            view! {
                <line class="grid" x1="0" x2="100%" y1=at.clone() y2=at.clone()></line>
                <text class="tick" x="-10" y=at dy="0.32em" text-anchor="end">{format!("{}{unit}", y.label(tick))}</text>
            }
        };
        y.ticks.iter().map(|tick| line(*tick)).collect_view()
    };
    let rounds = move || {
        let x = x.get();
        let label = |tick: f64| {
            let at = format!("{:.2}%", x.percent(tick));
            view! { <text class="tick" x=at y="100%" dy="1.5em" text-anchor="middle">{x.label(tick)}</text> }
        };
        x.ticks.iter().map(|tick| label(*tick)).collect_view()
    };
    let lines = move || {
        series.with(|all| {
            let line = |s: &Series| {
                let d = x.with(|x| y.with(|y| path(&s.points, x, y)));
                view! { <path class=format!("line {}", s.class) d=d vector-effect="non-scaling-stroke"></path> }
            };
            all.iter().map(line).collect_view()
        })
    };
    let dots = move || {
        series.with(|all| {
            let dot = |class: &str, (round, value): (u64, f64)| {
                view! { <circle class=format!("dot {class}") cx=left(round) cy=top(value) r="2.5"></circle> }
            };
            let few = all.iter().filter(|s| s.len() <= MOST_DOTS);
            few.flat_map(|s| s.points.iter().map(|p| dot(s.class, *p))).collect_view()
        })
    };
    let crosses = move || {
        let cross = |round: &u64| {
            view! { <text class="void" x=left(*round) y="100%" dy="0.35em" text-anchor="middle">"×"</text> }
        };
        voids.with(|voids| voids.iter().map(cross).collect_view())
    };
    let marked = move || {
        let round = best.get()?;
        let value = series.with(|all| all.iter().find_map(|s| s.at(round)))?;
        // Near an edge the words go inwards.
        let (anchor, dx) = if x.with(|x| x.percent(round as f64)) > 85.0 { ("end", "-10") } else { ("middle", "0") };
        let dy = if y.with(|y| y.percent(value)) > 85.0 { "20" } else { "-11" };
        Some(view! {
            <circle class="best" cx=left(round) cy=top(value) r="6"></circle>
            <text class="best-label" x=left(round) y=top(value) dx=dx dy=dy text-anchor=anchor>"best"</text>
        })
    };
    let crosshair = move || {
        let round = selected.get()?;
        let at = left(round);
        let values = series.with(|all| all.iter().filter_map(|s| Some((s.class, s.at(round)?))).collect::<Vec<_>>());
        Some(view! {
            <line class="crosshair" x1=at.clone() x2=at y1="0" y2="100%"></line>
            {values.into_iter().map(|(class, value)| view! {
                <circle class=format!("pick {class}") cx=left(round) cy=top(value) r="5"></circle>
            }).collect_view()}
        })
    };
    let pointed = move |event: leptos::ev::PointerEvent| {
        if let Some(share) = share_across(&event) {
            point.run(share);
        }
    };

    view! {
        <figure class="panel">
            <figcaption>
                <span class="panel-title">{title}</span>
                <span class="readout">{readout}</span>
            </figcaption>
            <div
                class="plot"
                on:pointermove=pointed
                on:pointerdown=pointed
                on:pointerleave=move |_| selected.set(None)
            >
                <svg aria-hidden="true">
                    <g>{grid}</g>
                    <g>{rounds}</g>
                    <svg class="lines" viewBox="0 0 100 100" preserveAspectRatio="none">{lines}</svg>
                    <g>{dots}</g>
                    <g>{crosses}</g>
                    <g>{marked}</g>
                    <g>{crosshair}</g>
                </svg>
            </div>
        </figure>
    }
    .into_any()
}
